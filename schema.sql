-- Runlane on PostgreSQL: the tables, and why each of them is there.
--
-- One table is the truth: `events`, append-only. Every change of state is a row in it, keyed by (stream_id, sequence),
-- where a stream is one run, schedule, queue or key, or the environment itself. The sequence of a stream is 1, 2, 3 … without a gap, and its primary key
-- is the last referee of every race: two writers cannot both append event 7.
--
-- `runs`, `schedules`, `occurrences`, `queues` and `idempotency_keys` are what the pure folds in projections/ make of those
-- events. They are written in the same transaction as the events, by one function (storage/log.py), guarded by the
-- sequence they were decided on. They can be thrown away and rebuilt from the log.
--
-- `sessions` is liveness, not history: one row per running worker process, extended by its heartbeat. Putting
-- heartbeats into the log would bury it, and putting them on `runs` would rewrite a row per run and beat. `maintainers`
-- says which of those processes keeps house at present, `outbox` how far the publishing of wakeups has come, and `cursors`
-- how far the followers of the log: what is known only there decides nothing about a run. `inline_projections` names
-- the projections that are folded as the log is written. `subject_keys` holds the keys of encrypted payloads, and stays
-- out of the log so that they can be destroyed.
--
-- There are no foreign keys: the log must survive whatever happens to the tables folded from it, and a foreign key to
-- a hot row takes a lock on it. There is no index that no query needs: each one costs about 4 % of the drain rate.
-- JSON is stored as `json`, the bytes that were validated; jsonb would rewrite them and is slower to write.
--
-- The schema's name is `runlane` unless the application chose another; everything below the next two lines is
-- unqualified on purpose.
create schema if not exists runlane;
set local search_path to runlane, pg_temp;

-- Which versions of this schema have been applied, for `runlane migrate` and for the check at start.
create table schema_version (
  version integer primary key,
  applied_at timestamptz not null default clock_timestamp()
);

-- By which versions of the folds the tables below have been made from the log; where the greatest is older than that of
-- the code, `runlane migrate` rebuilds them.
create table projection_version (
  version integer primary key,
  folded_at timestamptz not null
);

-- Compact on disk, readable in plain SQL.
create type run_status as enum (
  'queued', 'scheduled', 'running', 'released', 'retrying', 'cancellation_requested',
  'succeeded', 'failed', 'cancelled'
);

-- The log. `position` is the order in which a follower reads it: event n+1 of a stream is written when n is there, so
-- positions keep to sequences. They are drawn before the commit and appear out of order, so a follower stops at the last
-- one that is settled (storage/following.py); for that `tx` has to stand before `position`, as a writer must have his
-- transaction id before he draws one. Only `sequence` decides anything.
create table events (
  stream_id uuid not null,
  sequence integer not null,
  type text not null,
  version smallint not null,
  occurred_at timestamptz not null,
  environment text not null,
  actor text not null,
  data json not null,
  tx xid8 not null default pg_current_xact_id(),
  position bigint not null generated always as identity,
  digest bytea not null,
  -- A run's first two events come at once, two more as a rule when it has been executed: its page has room for them.
  constraint events_pkey primary key (stream_id, sequence) with (fillfactor = 45),
  constraint events_sequence_from_one check (sequence >= 1)
) with (autovacuum_vacuum_insert_scale_factor = 0.05);
-- Following the log, stretch by stretch. Rows lie nearly in the order of positions, so the bounds of each few pages do:
-- writers pay nothing for them (a btree would cost 67 bytes of write-ahead log an event, and a tenth of the insert).
create index events_position on events using brin (position) with (pages_per_range = 16, autosummarize = on);

-- The digest of an event (runlane/digests.py says what it is worth): over that of the event before it in its stream,
-- empty for the first one, and over its own facts, one a line. Of one expression, so that the planner puts it in place.
create function event_digest(
  before bytea, stream_id uuid, sequence integer, type text, version smallint, occurred_at timestamptz,
  environment text, actor text, data text
) returns bytea language sql stable parallel safe as $$
  select sha256(before || convert_to(concat_ws(e'\n', stream_id, sequence, version,
    (extract(epoch from occurred_at) * 1000000)::bigint, type, environment, actor, data), 'UTF8'))
$$;

-- History is not edited. ENABLE ALWAYS holds for sessions in replica mode too; TRUNCATE is refused as well.
create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception 'the event log is append-only: % refused', tg_op using errcode = 'integrity_constraint_violation';
end $$;
create trigger events_append_only before update or truncate on events
  for each statement execute function refuse_change();
alter table events enable always trigger events_append_only;

-- The fold of each run, narrow: payload, meta and trace stay in event 1, the result in the last event. Every row is
-- rewritten at least twice in its life, so there is room on the page (fillfactor).
create table runs (
  id uuid not null,
  environment text not null,
  task_id text not null,
  queue text not null,
  status run_status not null,
  sequence integer not null,
  priority smallint not null,
  due_at timestamptz,
  run_at timestamptz,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  started_at timestamptz,
  finished_at timestamptz,
  attempt_count integer not null,
  failure_count integer not null,
  retry_count integer not null,
  release_count integer not null,
  lost_count integer not null,
  lease_session_id uuid,
  lease_worker_id text,
  leased_at timestamptz,
  failure json,
  reservation json,
  cancellation json,
  source_run_id uuid,
  parent_run_id uuid,
  schedule_id text,
  idempotency_key text,
  singleton_key text,
  concurrency_key text,
  correlation_id text,
  -- Of its last event: what the next one is chained to.
  digest bytea not null,
  constraint runs_pkey primary key (id),
  constraint runs_leased_iff_running
    check ((status in ('running', 'cancellation_requested')) = (lease_session_id is not null)),
  constraint runs_finished_iff_terminal
    check ((status in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)),
  constraint runs_due_iff_claimable
    check ((status in ('queued', 'scheduled', 'released', 'retrying')) = (due_at is not null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Claim: queued runs of a queue, in exactly the order in which they are claimed.
-- The key comes last: bounded queues look for runs without one, and pass the others by without reading their rows.
create index runs_ready on runs (environment, queue, priority desc, due_at, id, concurrency_key)
  where status = 'queued';
-- Claim: runs that wait for a time, read level by level of priority; within one, those of the future come last and
-- never lie in the way.
create index runs_waiting on runs (environment, queue, priority desc, due_at, id, concurrency_key)
  where status in ('scheduled', 'released', 'retrying');
-- At most one active owner of a singleton key, whatever its status: no retry, release or lease can violate it.
create unique index runs_singleton on runs (environment, task_id, singleton_key)
  where singleton_key is not null and finished_at is null;
-- Claim on bounded queues: the waiting runs of one concurrency key, whatever their status, and which keys there are.
-- Runs without a key are not in it and do not pay for it.
create index runs_keyed on runs (environment, queue, concurrency_key, priority desc, due_at, id)
  where due_at is not null and concurrency_key is not null;
-- Bounded queues: how many slots of a partition are in use, by leases and by reservations.
create index runs_occupied on runs (environment, queue, concurrency_key)
  where lease_session_id is not null or reservation is not null;
-- Recovery and stray give-back: the runs of one worker session.
create index runs_leased on runs (lease_session_id) where lease_session_id is not null;
-- What an operator asks for first; few fail, and the others pay nothing.
create index runs_failed on runs (environment, id) where status = 'failed';

-- Who owns an idempotency key: the last run created with it, unless an operator has reset the key since. The row is
-- locked to decide about the key.
create table idempotency_keys (
  environment text not null,
  task_id text not null,
  key text not null,
  run_id uuid not null,
  reset_at timestamptz,
  constraint idempotency_keys_pkey primary key (environment, task_id, key)
);

-- One row per running worker process. `expires_at` has no index: there are few rows, and each beat stays HOT. `tasks`
-- are the ids that the process knows, to tell a run that waits for one that nobody does.
create table sessions (
  id uuid not null,
  environment text not null,
  worker_id text not null,
  started_at timestamptz not null,
  expires_at timestamptz not null,
  tasks json,
  constraint sessions_pkey primary key (id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- Which worker process keeps house, one for each set of definitions that is deployed; the others look on and take over
-- when its time runs out. It saves work and decides nothing: any number of maintainers at once would do no harm.
create table maintainers (
  environment text not null,
  definitions text not null,
  session_id uuid not null,
  expires_at timestamptz not null,
  constraint maintainers_pkey primary key (environment, definitions)
) with (fillfactor = 50);

-- Wakeups to be published, on lanes whose transport carries one per run: a row for each run.delivery_requested event,
-- written with it and named by its place in the log. `due_at` is when somebody has to look at the row next: to publish
-- it, to take it over from a publisher that vanished, or to see whether the run was picked up; null once that is done.
create table outbox (
  run_id uuid not null,
  sequence integer not null,
  environment text not null,
  queue text not null,
  requested_at timestamptz not null,
  status text not null,
  due_at timestamptz,
  attempts integer not null,
  claimed_by uuid,
  detail text,
  constraint outbox_pkey primary key (run_id, sequence),
  constraint outbox_status_known check (status in ('pending', 'claimed', 'published', 'failed', 'dead_lettered'))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
-- Maintenance: what is to be published, and what was published a while ago; neither reads the other's rows.
create index outbox_due on outbox (environment, due_at) where status in ('pending', 'claimed', 'failed');
create index outbox_published on outbox (environment, due_at) where status = 'published' and due_at is not null;
-- Operators: what was given up lately; nothing else is in it.
create index outbox_given_up on outbox (environment, requested_at) where status = 'dead_lettered';

-- The fold of each queue that was ever paused; every claim looks its queues up here. Unknown queues are not paused.
create table queues (
  stream_id uuid not null,
  environment text not null,
  name text not null,
  sequence integer not null,
  paused boolean not null,
  updated_at timestamptz not null,
  actor text not null,
  reason text,
  constraint queues_pkey primary key (environment, name)
);

-- Which history a position belongs to: a row for each time that the database was found to be another one than before,
-- after a restore or a failover. Up to `since` its log is that of the epoch before. Cursors of followers carry the token.
create table log_epochs (
  epoch integer not null,
  token text not null,
  identity text not null,
  since bigint not null,
  opened_at timestamptz not null,
  constraint log_epochs_pkey primary key (epoch)
);

-- How far each named follower has come. `version` grows with every move, so that of two who hold the same one only the
-- first moves it; `moved_by` is the follower who did, for one whose commit was not answered.
create table cursors (
  environment text not null,
  name text not null,
  cursor text not null,
  version bigint not null,
  moved_by uuid not null,
  updated_at timestamptz not null,
  constraint cursors_pkey primary key (environment, name)
) with (fillfactor = 50);

-- Which projections are inline: folded by every transaction that appends events of the environment, before it commits.
create table inline_projections (
  environment text not null,
  name text not null,
  version bigint not null,
  since timestamptz not null,
  constraint inline_projections_pkey primary key (environment, name)
);

-- Nobody appends behind the back of an inline projection: the setting runlane.inline of the transaction names those that
-- it is going to fold. The trigger that asks, events_inline, is made with the first one and goes with the last
-- (storage/inlining.py): where there is none, nobody pays for the question. A snapshot of the whole transaction might be
-- older than the table's newest row.
create function require_inline() returns trigger language plpgsql set search_path from current as $$
declare
  missed text;
begin
  if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
    raise exception 'a transaction that appends events must be READ COMMITTED while there are inline projections'
      using errcode = 'triggered_action_exception';
  end if;
  select format('projection %L (version %s) is inline in environment %L, and this process does not fold it: give it to '
      'Runlane(inline_projections=[…]) in this version, or end it with `runlane projections remove %s`',
      p.name, p.version, p.environment, p.name)
    into missed
    from inline_projections p
    where p.environment in (select environment from added) and concat_ws(':', p.environment, p.name, p.version)
      <> all (coalesce(string_to_array(current_setting('runlane.inline', true), e'\n'), '{}'))
    order by p.environment, p.name limit 1;
  if missed is not null then
    raise exception '%', missed using errcode = 'triggered_action_exception';
  end if;
  return null;
end $$;

-- The data keys of payloads, wrapped by a master key that is not in the database: one for each subject, named by a keyed
-- hash, and one of the environment, under the empty name. Not folded from the log, as it is the one thing that must be
-- destroyable: to erase a subject is to empty `wrapped`. The id of the key stands in every payload that it encrypts.
create table subject_keys (
  id uuid not null,
  environment text not null,
  subject text not null,
  master text not null,
  wrapped bytea,
  created_at timestamptz not null,
  erased_at timestamptz,
  constraint subject_keys_pkey primary key (id),
  constraint subject_keys_wrapped_or_erased check ((wrapped is null) = (erased_at is not null))
);
-- A subject has one key at a time, and after it was erased another one.
create unique index subject_keys_current on subject_keys (environment, subject) where erased_at is null;

-- The fold of each schedule.
create table schedules (
  stream_id uuid not null,
  environment text not null,
  schedule_id text not null,
  task_id text not null,
  queue text not null,
  cadence json not null,
  payload json not null,
  enabled boolean not null,
  registered_at timestamptz not null,
  sequence integer not null,
  updated_at timestamptz not null,
  next_at timestamptz,
  last_at timestamptz,
  fired_count integer not null,
  paused boolean not null,
  removed boolean not null,
  constraint schedules_pkey primary key (stream_id)
) with (fillfactor = 60);
-- Maintenance: which schedules are due.
create index schedules_due on schedules (environment, next_at) where next_at is not null and not paused;

-- Which occurrences have made a run; they outlive pruned runs.
create table occurrences (
  environment text not null,
  schedule_id text not null,
  scheduled_for timestamptz not null,
  id uuid not null,
  run_id uuid not null,
  constraint occurrences_pkey primary key (environment, schedule_id, scheduled_for)
);

-- Pruning is the one way to remove history, and it is not a privilege but a proof: a DELETE stands only if the log
-- itself tells of it. The setting runlane.pruned names an environment.pruned event; who sets it gains nothing, as the
-- event must have been written by this very transaction and say exactly what this statement has removed: how many runs
-- and events of which environment, with a digest over their ids and last sequences. And what was removed must be whole
-- histories of ended runs, whose rows are gone as well. That holds for the owner of the tables too; nobody else is granted
-- DELETE on events or runs (`prune_runs` below).
--
-- The search path is fixed, with pg_temp last, so that no temporary table can stand in for the tables asked here.
create function refuse_untold_deletion() returns trigger language plpgsql set search_path from current as $$
declare
  told text[] := string_to_array(current_setting('runlane.pruned', true), ':');
  allowed boolean;
begin
  with heads as (
    select stream_id, environment, max(sequence) as head, count(*) as events,
      (array_agg(type order by sequence desc))[1] as last
    from gone group by stream_id, environment
  ), removed as (
    select count(*) as runs, sum(events) as events, min(environment) as environment,
      string_agg(stream_id || ':' || head, e'\n' order by stream_id) as lines,
      bool_and(head = events and last in ('run.succeeded', 'run.failed', 'run.cancelled')) as whole
    from heads having count(distinct environment) = 1
  )
  select r.whole and e.type = 'environment.pruned' and e.environment = r.environment
      and (e.data ->> 'runs')::bigint = r.runs and (e.data ->> 'events')::bigint = r.events
      and e.data ->> 'digest' = encode(sha256(convert_to(r.lines, 'UTF8')), 'hex')
      and not exists (select from gone join runs on runs.id = gone.stream_id)
    into allowed
    from removed r join events e on e.stream_id = told[1]::uuid and e.sequence = told[2]::int
    where e.tx = pg_current_xact_id();
  if allowed is not true then
    raise exception 'the event log is append-only: DELETE refused' using errcode = 'integrity_constraint_violation',
      hint = 'Only whole histories of ended runs go, as an environment.pruned event of the same transaction tells.';
  end if;
  return null;
end $$;
create trigger events_pruned after delete on events referencing old table as gone
  for each statement execute function refuse_untold_deletion();
alter table events enable always trigger events_pruned;

-- What prunes, for who is granted nothing but to execute these two: they lock and delete with the rights of the tables'
-- owner. The first locks all that is to go, in the order in which everybody does, runs before keys. The second deletes
-- what the event (told_stream, told_sequence) tells of, and the trigger above judges it like everybody else; it takes no
-- row of a run that has no history: that is evidence.
create function lock_for_pruning(ids uuid[]) returns void
language plpgsql security definer set search_path from current as $$
begin
  perform from runs where id = any(ids) order by id for update;
  perform from idempotency_keys k join runs r on k.environment = r.environment and k.task_id = r.task_id
      and k.key = r.idempotency_key and k.run_id = r.id
    where r.id = any(ids) order by k.environment, k.task_id, k.key for update of k;
end $$;

create function prune_runs(told_stream uuid, told_sequence integer, ids uuid[]) returns bigint
language plpgsql security definer set search_path from current as $$
declare
  deleted bigint;
  streams bigint;
  taken bigint;
begin
  perform set_config('runlane.pruned', told_stream || ':' || told_sequence, true);
  delete from outbox where run_id = any(ids);
  with gone as materialized (
    select id, environment, task_id, idempotency_key from runs where id = any(ids)
  ), k as (
    delete from idempotency_keys k using gone
    where k.environment = gone.environment and k.task_id = gone.task_id and k.key = gone.idempotency_key
      and k.run_id = gone.id
  ), r as (
    delete from runs using gone where runs.id = gone.id returning 1
  ), e as (
    delete from events using gone where events.stream_id = gone.id returning events.stream_id
  )
  select count(*), count(distinct e.stream_id), (select count(*) from r) into deleted, streams, taken from e;
  if streams <> taken then
    raise exception 'the event log is append-only: % of these runs have no history', taken - streams
      using errcode = 'integrity_constraint_violation';
  end if;
  return deleted;
end $$;

-- PUBLIC may execute nothing here: a new function is everybody's unless that is said.
revoke all on function event_digest from public;
revoke all on function refuse_change from public;
revoke all on function refuse_untold_deletion from public;
revoke all on function lock_for_pruning from public;
revoke all on function prune_runs from public;
revoke all on function require_inline from public;

-- The roles. Everything below is executed only by `runlane migrate --roles`, again and again without harm.
--
-- Six groups that nobody logs in as, each with exactly what the operations need that it is for; a login is granted those
-- whose work it does. Nobody but the owner of the tables may update, delete or truncate an event, whatever his groups are,
-- nor change a table or a trigger. tests/storage/test_roles.py tries every statement on every table as every role.
--
-- Roles belong to the whole server, so their names carry that of the schema, or a prefix that was chosen: where two
-- databases of one server have a schema of the same name, each needs a prefix of its own. The comment of a role says
-- whose it is.
do $$
declare
  name text;
begin
  foreach name in array array['runlane_producer', 'runlane_worker', 'runlane_maintainer', 'runlane_operator',
    'runlane_pruner', 'runlane_auditor'] loop
    if not exists (select from pg_roles where rolname = name) then
      begin
        execute format('create role %I nologin', name);
        execute format('comment on role %I is %L', name,
          format('Runlane: schema %s of database %s', current_schema(), current_database()));
      exception when duplicate_object or unique_violation then null;  -- somebody else was faster
      end;
    end if;
  end loop;
end $$;

-- Whatever they had before.
revoke all on schema_version, projection_version, log_epochs, events, runs, idempotency_keys, sessions, maintainers, outbox,
  queues, cursors, schedules, occurrences, subject_keys, inline_projections
  from runlane_producer, runlane_worker, runlane_maintainer, runlane_operator, runlane_pruner, runlane_auditor;
revoke all on function event_digest, lock_for_pruning, prune_runs
  from runlane_producer, runlane_worker, runlane_maintainer, runlane_operator, runlane_pruner, runlane_auditor;
revoke all on sequence events_position_seq
  from runlane_producer, runlane_worker, runlane_maintainer, runlane_operator, runlane_pruner, runlane_auditor;

-- Everybody: whether the tables fit the program; the log and the runs, as whoever moves a run on reads its history, and
-- whoever lost the answer to a commit looks for what it wrote; the data keys, which are wrapped by one that is not here;
-- which projections are inline, as whoever appends folds them.
grant usage on schema runlane
  to runlane_producer, runlane_worker, runlane_maintainer, runlane_operator, runlane_pruner, runlane_auditor;
grant select on schema_version, projection_version, events, runs, subject_keys, inline_projections
  to runlane_producer, runlane_worker, runlane_maintainer, runlane_operator, runlane_pruner, runlane_auditor;

-- All but auditors append to the log; `tx` and `position` are the database's to fill. Some statements compute the digest.
grant insert (stream_id, sequence, type, version, occurred_at, environment, actor, data, digest) on events
  to runlane_producer, runlane_worker, runlane_maintainer, runlane_operator, runlane_pruner;
grant execute on function event_digest to runlane_producer, runlane_worker, runlane_maintainer, runlane_operator;

-- Whoever writes payloads or results makes the keys that they are encrypted with; operators destroy those of a subject.
grant insert on subject_keys to runlane_producer, runlane_worker, runlane_maintainer, runlane_operator;
grant update (master, wrapped, erased_at) on subject_keys to runlane_operator;

-- Births: of triggers, of schedules, and of reruns. They take keys, or give them back where a singleton is in the way, and
-- on lanes that deliver their wakeups are published at once.
grant insert on runs to runlane_producer, runlane_maintainer, runlane_operator;
grant select, insert, update (run_id, reset_at), delete on idempotency_keys
  to runlane_producer, runlane_maintainer, runlane_operator;
grant select, insert, update (status, due_at, attempts, claimed_by, detail) on outbox
  to runlane_producer, runlane_maintainer, runlane_operator;

-- Steps of runs that are there: what is set at birth stays.
grant update (sequence, status, due_at, run_at, updated_at, started_at, finished_at, attempt_count, failure_count,
    retry_count, release_count, lost_count, lease_session_id, lease_worker_id, leased_at, failure, reservation,
    cancellation, digest) on runs
  to runlane_worker, runlane_maintainer, runlane_operator;

-- Workers: a session, which queues are paused, and wakeups of what they give back.
grant select, insert, update (expires_at), delete on sessions to runlane_worker;
grant select on queues to runlane_worker;
grant insert on outbox to runlane_worker;

-- Maintainers: the sessions of others once they have expired (to lock a row takes UPDATE), schedules, who keeps house, a
-- new epoch where the database was restored, and checkpoints, for which they read how far the log is settled.
grant select, update (expires_at), delete on sessions to runlane_maintainer;
grant select on queues to runlane_maintainer;
grant select, insert, update (session_id, expires_at), delete on maintainers to runlane_maintainer;
grant select, insert, update on schedules to runlane_maintainer;
grant select, insert on occurrences to runlane_maintainer;
grant select, insert on log_epochs to runlane_maintainer;
grant select on sequence events_position_seq to runlane_maintainer;

-- Operators: queues and schedules, and why a run waits.
grant select, insert, update on queues to runlane_operator;
grant select, update on schedules to runlane_operator;
grant select on sessions to runlane_operator;

-- Pruners: the functions, how many keys go, and which stretches of the log were sealed. They write environment.pruned.
grant execute on function lock_for_pruning, prune_runs to runlane_pruner;
grant select on idempotency_keys, log_epochs to runlane_pruner;

-- Auditors read everything and write nothing.
grant select on log_epochs, idempotency_keys, sessions, maintainers, outbox, queues, cursors, schedules, occurrences
  to runlane_auditor;
grant select on sequence events_position_seq to runlane_auditor;
