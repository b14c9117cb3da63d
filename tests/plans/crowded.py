"""A PostgreSQL database with a million runs: most have ended, the rest waits, is blocked, is leased or was lost.

It is filled by a few statements, in seconds.  Rows and first events are those that Runlane itself would have written;
the later events of most runs and all digests are left out, as only `audit verify` would miss them.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid5

import psycopg
from attrs import frozen

from runlane.clock import system_clock
from runlane.schedule_decisions import schedule_stream
from tests.plans.scenarios import Known

#: How many runs there are, and how many of them have ended; the ended ones are the oldest.
RUNS, ENDED = 1_000_000, 650_000
#: So many of the oldest have all of their events.
WHOLE = 5_000
#: How many concurrency keys of the bounded queue have runs that wait.
KEYS = 1_000
SCHEDULES = 10_000
#: Worker sessions that hold leases, all of them alive as yet.
ALIVE, *DOOMED = (uuid5(UUID(int=0), f"session {n}") for n in range(5))

# Run n was made half a second after run n - 1, the last one just now.
_ID = "(lpad(to_hex({ms} - ({runs} - {n}) * 500), 12, '0') || '70008000' || lpad(to_hex({n}), 12, '0'))::uuid"

_RUNS = f"""
insert into runlane.runs (id, environment, task_id, queue, status, sequence, priority, due_at, run_at, created_at,
  updated_at, started_at, finished_at, attempt_count, failure_count, retry_count, release_count, lost_count,
  lease_session_id, lease_worker_id, leased_at, failure, source_run_id, parent_run_id, schedule_id, idempotency_key,
  singleton_key, concurrency_key, correlation_id, digest)
select {{id}}, 'default', 'work', queue, status::runlane.run_status, sequence, priority,
  case when status in ('queued', 'scheduled', 'released', 'retrying') then coalesce(run_at, made) end, run_at, made,
  made, case when attempts > 0 then made end, case when ended then made end,
  attempts, (status = 'failed')::int, (status = 'retrying')::int, (status = 'released')::int, 0,
  holder, case when holder is not null then 'worker' end, case when holder is not null then made end,
  case when status in ('failed', 'retrying')
    then '{{{{"code":"task_failed","message":"no","retryable":true}}}}'::json end,
  case when n % 100 = 7 then {{of_source}} end, case when n % 100 = 8 then {{of_parent}} end,
  case when n % 100 = 9 then 'schedule-' || n % {SCHEDULES} end, case when n % 10 = 5 then 'key-' || n end,
  case when n % 20 = 3 then 'single-' || n end, key, case when n % 10 = 0 then 'order-' || n / 20 end, ''::bytea
from generate_series(1, {RUNS}) n
cross join lateral (select now() - ({RUNS} - n) * interval '500 ms' as made, n <= {ENDED} as ended) m
cross join lateral (select
  case when n % 1000 = 0 then 'failed' when n % 5000 = 1 then 'cancelled' else 'succeeded' end as status,
  case n % 4 when 0 then 'narrow' when 1 then 'b' when 2 then 'c' else 'a' end as queue,
  3 as sequence, n % 3 as priority, null::timestamptz as run_at, 1 as attempts, null::uuid as holder, null as key
  where ended
  union all select 'queued', 'paused', 1, n % 3, null, 0, null, null where n between {ENDED} + 1 and 750000
  union all select 'queued', 'narrow', 1, n % 3, null, 0, null, null where n between 750001 and 800000
  union all select 'queued', 'narrow', 1, n % 3, null, 0, null, 'k' || n % {KEYS} where n between 800001 and 850000
  union all select 'running', 'narrow', 2, 0, null, 1, '{ALIVE}',
  case when n <= 850000 + {KEYS} then 'k' || n % {KEYS} end where n between 850001 and 850001 + {KEYS}
  union all select 'running', 'a', 2, 0, null, 1,
  (array[{", ".join(f"'{one}'::uuid" for one in DOOMED)}])[1 + n % {len(DOOMED)}], null
  where n between 850002 + {KEYS} and 852000
  union all select 'scheduled', 'a', 1, 9, now() + interval '1 day', 0, null, null where n between 852001 and 892000
  union all select 'retrying', 'b', 3, 0, made, 1, null, null where n between 892001 and 897000
  union all select 'released', 'c', 3, 0, made, 1, null, null where n between 897001 and 902000
  union all select 'queued', case n % 3 when 0 then 'a' when 1 then 'b' else 'c' end, 1, n % 5, null, 0, null, null
  where n > 902000
) k"""

_FIRST = """
insert into runlane.events (stream_id, sequence, type, version, occurred_at, environment, actor, data, digest)
select id, 1, 'run.created', 1, created_at, 'default', 'application:app', concat(
  '{"task_id":"work","queue":"', queue, '","payload":', 1, case when priority <> 0 then ',"priority":' || priority end,
  ',"idempotency_key":"' || idempotency_key || '","idempotency_ttl":"30d"',
  ',"singleton_key":"' || singleton_key || '"',
  ',"concurrency_key":"' || concurrency_key || '"', ',"correlation_id":"' || correlation_id || '"', '}')::json,
  ''::bytea
from runlane.runs"""

_LATER = f"""
insert into runlane.events (stream_id, sequence, type, version, occurred_at, environment, actor, data, digest)
select id, 2, 'run.leased', 1, created_at, 'default', 'worker:worker',
  '{{"session_id":"{ALIVE}","worker_id":"worker","attempt":1}}'::json, ''::bytea
from (select * from runlane.runs order by id limit {WHOLE}) r
union all
select id, 3, 'run.' || status, 1, created_at, 'default', 'worker:worker',
  case when status <> 'failed' then '{{"session_id":"{ALIVE}","attempt":1}}'::json else
  '{{"session_id":"{ALIVE}","attempt":1,"failure":{{"code":"task_failed","message":"no","retryable":true}}}}'::json end,
  ''::bytea
from (select * from runlane.runs order by id limit {WHOLE}) r"""

_KEYS = """
insert into runlane.idempotency_keys (environment, task_id, key, run_id)
select environment, task_id, idempotency_key, id from runlane.runs where idempotency_key is not null"""

_SESSIONS = f"""
insert into runlane.sessions (id, environment, worker_id, started_at, expires_at)
select id, 'default', 'worker', now(), now() + interval '1 day'
from unnest(array[{", ".join(f"'{one}'::uuid" for one in (ALIVE, *DOOMED))}]) id"""

_PAUSED = """
insert into runlane.queues (stream_id, environment, name, sequence, paused, updated_at, actor)
values (gen_random_uuid(), 'default', 'paused', 1, true, now(), 'application:app')"""

# Wakeups that were asked for each run: nearly all are done with or were published just now.
_OUTBOX = """
insert into runlane.outbox (run_id, sequence, environment, queue, requested_at, status, due_at, attempts)
select id, 1, 'default', queue, created_at, case when n % 200 = 0 then 'pending' else 'published' end,
  case when n % 100 = 0 then now() - interval '1 s' else now() + interval '1 h' end, 0
from (select *, row_number() over () as n from runlane.runs where status = 'queued' and queue in ('a', 'b', 'c')) r
union all
select id, 1, 'default', queue, created_at, 'published', null, 0
from (select * from runlane.runs order by id limit 100000) r"""

_SCHEDULES = """
insert into runlane.schedules (stream_id, environment, schedule_id, task_id, queue, cadence, payload, enabled,
  registered_at, sequence, updated_at, next_at, fired_count, paused, removed)
select stream, 'default', 'schedule-' || n, 'ticking', 'a', '{"every_us":3600000000}', '1', true, now(), 1,
  now(), now() + interval '1 h', 0, false, false
from unnest(%s::uuid[]) with ordinality s (stream, n)"""

_OCCURRENCES = f"""
insert into runlane.occurrences (environment, schedule_id, scheduled_for, id, run_id)
select 'default', 'schedule-' || n % {SCHEDULES}, now() - n * interval '1 min', gen_random_uuid(), gen_random_uuid()
from generate_series(1, 50000) n"""


@frozen
class Crowd:
    """The million runs; the n-th oldest has the id ``id(n)``."""

    milliseconds: int

    def id(self, n: int) -> UUID:
        """The id of the n-th run, 1 to ``RUNS``."""
        return UUID(f"{self.milliseconds - (RUNS - n) * 500:012x}70008000{n:012x}")


def fill(connection: psycopg.Connection) -> Crowd:
    """Fill a migrated, empty database; nobody knows statistics of it until it is analysed."""
    now = connection.execute("select (extract(epoch from now()) * 1000)::bigint").fetchone()
    assert now is not None
    of = {
        name: _ID.format(ms=now[0], runs=RUNS, n=n)
        for name, n in {"id": "n", "of_source": "(n - 6)", "of_parent": "(n - 7)"}.items()
    }
    for table in ("runs", "events", "outbox", "schedules", "idempotency_keys", "occurrences"):
        connection.execute(f"alter table runlane.{table} set (autovacuum_enabled = off)")
    for statement in (_RUNS.format(**of), _FIRST, _LATER, _KEYS, _SESSIONS, _PAUSED, _OUTBOX, _OCCURRENCES):
        connection.execute(statement)
    streams = [schedule_stream("default", f"schedule-{n}") for n in range(1, SCHEDULES + 1)]
    connection.execute(_SCHEDULES, [streams])
    return Crowd(now[0])


def lose(connection: psycopg.Connection, turn: int) -> None:
    """Let one worker vanish, and another with its row; and some schedules fall due."""
    late, gone = DOOMED[2 * turn], DOOMED[2 * turn + 1]
    connection.execute("update runlane.sessions set expires_at = now() - interval '1 min' where id = %s", [late])
    connection.execute("delete from runlane.sessions where id = %s", [gone])
    due = [f"schedule-{n}" for n in range(1 + 20 * turn, 21 + 20 * turn)]
    connection.execute(
        "update runlane.schedules set next_at = now() - interval '1 min' where schedule_id = any(%s)", [due]
    )


def known(crowd: Crowd, turn: int) -> Known:
    """What there is, other runs in each turn."""
    return Known(
        queued=[crowd.id(990_000 + turn)],
        blocked=crowd.id(840_000),
        paused=crowd.id(740_000),
        leased=crowd.id(850_500 + turn),
        failed=[crowd.id(600_000 - 1000 * turn)],
        ended=crowd.id(4_444),
        asked=[crowd.id(980_000 + turn)],
        source=crowd.id(400_001),
        parent=crowd.id(400_001),
        idempotency_key=f"key-{400_005 + 10 * turn}",
        singleton_key="single-740003",
        correlation_id="order-20000",
        schedule_id="schedule-4409",
        holder=ALIVE,
        held=KEYS + 1,
        leases=2 * KEYS,
        keys=KEYS,
        backlog=100_000,
        clock=system_clock,
        age=timedelta(hours=1),
    )
