"""Defects of one line, as data: each breaks a promise, and a named test has to notice."""

from __future__ import annotations

from attrs import frozen


@frozen
class Defect:
    """A change of one place that must not survive.

    Args:
        file: from the root of the project.
        sound: the line, or a part of it, as it is; it occurs once in the file.
        broken: what takes its place.
        test: the test that fails with it; without a parameter in brackets all of its cases are run.
        promise: what would be broken; numbers are those of the invariants.
        postgres: whether the test needs a PostgreSQL.
    """

    name: str
    file: str
    sound: str
    broken: str
    test: str
    promise: str
    postgres: bool = False


DEFECTS = [
    Defect(
        "fold: a run that was asked to stop may succeed",
        "projections/runs.py",
        "    RunSucceeded: frozenset({RunStatus.RUNNING}),",
        "    RunSucceeded: LEASED,",
        "tests/unit/test_run_lifecycle.py::test_every_pair_of_status_and_event_is_decided_by_the_table",
        "12: a cancellation never turns into success",
    ),
    Defect(
        "fold: the fence does not look at the attempt",
        "projections/runs.py",
        "    if lease is None or lease.session_id != session_id or lease.attempt != attempt:",
        "    if lease is None or lease.session_id != session_id:",
        "tests/unit/test_run_lifecycle.py::test_who_does_not_hold_the_lease_can_end_nothing",
        "3: a stale lease holder can write nothing",
    ),
    Defect(
        "fold: sequences may have gaps",
        "projections/runs.py",
        "        or record.sequence != run.sequence + 1",
        "        or record.sequence <= run.sequence",
        "tests/unit/test_run_lifecycle.py::test_sequences_have_no_gap_and_no_repeat",
        "5: sequences per run are 1..n without a gap",
    ),
    Defect(
        "decision: an old attempt of the same session still ends the run",
        "runlane/decisions.py",
        " held.session_id != session_id or held.attempt != attempt:",
        " held.session_id != session_id:",
        "tests/unit/test_complete.py::test_an_outcome_is_dropped_when_somebody_else_holds_the_run",
        "3: a stale lease holder can write nothing",
    ),
    Defect(
        "decision: a failure after a cancellation counts as cancelled",
        "runlane/decisions.py",
        "            return (RunFailed(session_id, attempt, outcome.failure),)",
        "            return (RunCancelled(None),)",
        "tests/unit/test_complete.py::test_our_outcome_leads_where_the_table_says",
        "the table of outcomes: a failure stays a failure",
    ),
    Defect(
        "decision: one attempt too many",
        "runlane/decisions.py",
        "run.counters.failures + 1 >= retry.max_attempts:",
        "run.counters.failures >= retry.max_attempts:",
        "tests/unit/test_complete.py::test_the_budget_is_total_attempts_counted_in_failures",
        "max_attempts is total attempts",
    ),
    Defect(
        "decision: a release spends retry budget",
        "projections/runs.py",
        "counters=evolve(run.counters, releases=run.counters.releases + 1))",
        "counters=evolve(run.counters, releases=run.counters.releases + 1, failures=run.counters.failures + 1))",
        "tests/unit/test_run_lifecycle.py::test_each_event_moves_its_own_counters_only",
        "13: a release spends no retry budget",
    ),
    Defect(
        "decision: one lost lease too many",
        "runlane/decisions.py",
        "    if losses >= max_lost:",
        "    if losses > max_lost:",
        "tests/unit/test_decisions.py::test_a_run_that_was_lost_too_often_fails",
        "max_lost: a poison run cannot kill workers for ever",
    ),
    Defect(
        "decision: jitter is recorded and not applied",
        "runlane/decisions.py",
        '    run_at = later(now, (base + jitter) * _MILLISECOND, "the retry delay")',
        '    run_at = later(now, base * _MILLISECOND, "the retry delay")',
        "tests/unit/test_complete.py::test_a_retry_records_its_wait_and_the_drawn_jitter",
        "jitter is drawn once, recorded and applied",
    ),
    Defect(
        "decision: a key is kept for a moment longer than its time",
        "runlane/decisions.py",
        "    return now - owner.created_at < duration(",
        "    return now - owner.created_at <= duration(",
        "tests/unit/test_decisions.py::test_an_ended_run_keeps_its_key_for_its_time_since_creation",
        "7: retention ends at created_at + ttl",
    ),
    Defect(
        "decision: a failed owner keeps its key",
        "runlane/decisions.py",
        '    if owner.status is RunStatus.FAILED or owner.idempotency_ttl in (None, "active"):',
        '    if owner.idempotency_ttl in (None, "active"):',
        "tests/unit/test_decisions.py::test_a_failed_run_frees_its_key_at_once",
        "a failed owner frees its key",
    ),
    Defect(
        "policy: backoff knows no greatest delay",
        "runlane/policy.py",
        "            return min(self.delay * self.factor ** (n - 1), longest)",
        "            return min(self.delay * self.factor ** (n - 1), LONGEST_DELAY)",
        "tests/unit/test_policy.py::test_the_wait_before_each_retry",
        "min(delay * factor ** (n - 1), max_delay)",
    ),
    Defect(
        "cron: a local time that the clocks skip fires an hour late",
        "runlane/crontab.py",
        "    if _wall(zone, at) == wall:",
        "    if _wall(zone, at) >= wall:",
        "tests/unit/test_cron.py::test_where_clocks_change",
        "10: a skipped local time fires at the first instant behind the gap",
    ),
    Defect(
        "schedule: what was missed is made up for one by one",
        "runlane/cadence.py",
        "            behind = (now - first) // interval",
        "            behind = 0",
        "tests/unit/test_schedules.py::test_missed_occurrences_collapse_into_the_latest",
        "10: missed occurrences collapse to the latest",
    ),
    Defect(
        "schedule: a paused one fires",
        "runlane/schedule_decisions.py",
        "    if state.paused or state.removed or not state.enabled",
        "    if state.removed or not state.enabled",
        "tests/unit/test_schedules.py::test_a_sleeping_schedule_does_not_fire",
        "a paused schedule makes no run",
    ),
    Defect(
        "append: PostgreSQL does not guard the sequence",
        "runlane/storage/postgres.py",
        "where r.id = d.id and r.sequence = d.expected returning r.id",
        "where r.id = d.id returning r.id",
        "tests/storage/test_append.py::test_the_others_of_a_batch_commit_when_some_are_stale[postgres]",
        "3, 6: a stale sequence writes nothing",
        postgres=True,
    ),
    Defect(
        "append: SQLite does not guard the sequence",
        "runlane/storage/sqlite.py",
        "if stored.get(run[0]) == sequence}",
        "if run[0] in stored}",
        "tests/storage/test_append.py::test_the_others_of_a_batch_commit_when_some_are_stale[sqlite]",
        "3, 6: a stale sequence writes nothing",
    ),
    Defect(
        "keys: a birth whose key is owned is written all the same",
        "runlane/storage/log.py",
        "    _insert_births(tx, [change for change in births if change.after.id not in lost])",
        "    _insert_births(tx, births)",
        "tests/storage/test_append.py::test_a_birth_with_an_owned_key_loses_and_the_rest_of_its_batch_does_not[memory]",
        "7: one active owner per idempotency key",
    ),
    Defect(
        "keys: a singleton's owner owns after it has ended",
        "runlane/storage/tables.py",
        '_SINGLETON = text("singleton_key is not null and finished_at is null")',
        '_SINGLETON = text("singleton_key is not null")',
        "tests/engine/test_singletons.py::test_a_colliding_trigger_is_given_the_active_owner[memory]",
        "8: one owner of a singleton key, and only while it is active",
    ),
    Defect(
        "claim: SQLite takes what is not due",
        "runlane/storage/sqlite.py",
        "    where r.environment = ? and r.queue = ? and {{status}} and r.due_at <= ?",
        "    where r.environment = ? and r.queue = ? and {{status}} and r.due_at >= ?",
        "tests/storage/test_claims.py::test_what_is_not_due_is_left_alone_until_its_instant[sqlite]",
        "a run does not start before its time",
    ),
    Defect(
        "claim: PostgreSQL does not put priority first",
        "runlane/storage/postgres.py",
        '        order = "priority desc, due_at, id"',
        '        order = "due_at, priority desc, id"',
        "tests/storage/test_claims.py::test_the_order_is_priority_then_due_time_then_id[postgres]",
        "claim order: priority, due time, id",
        postgres=True,
    ),
    Defect(
        "claim: PostgreSQL waits for rows that somebody holds",
        "runlane/storage/postgres.py",
        "                order by {order} limit %b for update skip locked",
        "                order by {order} limit %b for update",
        "tests/storage/test_claims.py::test_a_claim_passes_by_rows_that_somebody_has_locked",
        "workers do not wait for each other",
        postgres=True,
    ),
    Defect(
        "claim: a paused queue is ignored",
        "runlane/storage/sqlite.py",
        '        if paused != "[]":',
        '        if paused == "[]":',
        "tests/engine/test_pausing_queues.py::test_nothing_is_claimed_from_a_paused_queue_until_it_is_resumed[memory-one]",
        "a paused queue gives out nothing",
    ),
    Defect(
        "capacity: one slot too many",
        "runlane/storage/partitions.py",
        "        slots[partition] = Slots(max(0, partition.limit - occupied)",
        "        slots[partition] = Slots(max(0, partition.limit - occupied + 1)",
        "tests/storage/test_partitions.py::test_no_more_than_the_limit_is_claimed[memory]",
        "9: concurrency limits are never exceeded",
    ),
    Defect(
        "capacity: PostgreSQL takes no lock on a partition",
        "runlane/storage/postgres.py",
        '"select pg_advisory_xact_lock(n) from unnest(%b::bigint[]) n"',
        '"select n from unnest(%b::bigint[]) n"',
        "tests/storage/test_partitions.py"
        "::test_two_claims_step_by_step_the_second_waits_and_then_sees_the_firsts_lease",
        "9: concurrency limits are never exceeded",
        postgres=True,
    ),
    Defect(
        "lease: a heartbeat revives a session that has ended",
        "runlane/session.py",
        "            if not sessions.extend_session(tx, self.holder.session_id, tx.now() + self._lease_duration):",
        "            if sessions.extend_session(tx, self.holder.session_id, tx.now() + self._lease_duration) is None:",
        "tests/engine/test_leases.py::test_an_expired_session_is_never_revived[memory]",
        "2: at most one live lease per run",
    ),
    Defect(
        "lease: a stray is never given back",
        "runlane/session.py",
        "        self._suspects = unknown",
        "        self._suspects = {}",
        "tests/engine/test_leases.py::test_a_stray_lease_is_given_back_at_the_second_beat[memory]",
        "1: no run is kept alive by a process that does not know it",
    ),
    Defect(
        "attempt: the payload is not fitted to today's type",
        "runlane/executor.py",
        "        return (self.task.payload.from_json(self.run.payload), self.context)[: self.task.arity]",
        "        return (self.run.payload, self.context)[: self.task.arity]",
        "tests/engine/test_outcomes.py::test_a_payload_that_no_longer_fits_fails_the_run_for_good[memory]",
        "a handler gets what its annotation says",
    ),
    Defect(
        "rerun: the payload is not validated again",
        "runlane/engine/operate.py",
        "        payload=task.payload.to_json(created.payload),",
        "        payload=created.payload,",
        "tests/engine/test_run_again.py::test_the_payload_has_to_fit_todays_task[memory]",
        "a rerun's payload fits today's task",
    ),
    Defect(
        "prune: a run updated at the very cutoff goes too",
        "runlane/storage/prune.py",
        "_RUNS.c.updated_at < before",
        "_RUNS.c.updated_at <= before",
        "tests/storage/test_prune.py::test_where_nothing_is_old_enough_nothing_is_written[memory]",
        "only what was updated before the cutoff is pruned",
    ),
    Defect(
        "prune: an active status is let through",
        "runlane/pruning.py",
        "    active = [status for status in wanted if status not in TERMINAL]",
        "    active = [status for status in wanted if status in TERMINAL and status not in TERMINAL]",
        "tests/storage/test_prune.py::test_what_is_not_valid_is_refused_before_storage_is_touched",
        "1: active runs are never pruned",
    ),
    Defect(
        "prune: PostgreSQL lets anybody delete history",
        "schema.sql",
        "  if allowed is not true then",
        "  if allowed is false and allowed then",
        "tests/storage/test_prune.py::test_postgres_refuses_an_active_run_whatever_the_log_tells",
        "the database refuses DELETE on events outside of pruning",
        postgres=True,
    ),
    Defect(
        "prune: SQLite lets anybody delete history",
        "runlane/storage/tables.py",
        "    create trigger events_refuse_delete before delete on events",
        "    create trigger events_refuse_delete after update on events",
        "tests/storage/test_prune.py::test_sqlite_refuses_a_deletion_that_the_log_does_not_tell_of",
        "the database refuses DELETE on events outside of pruning",
    ),
    Defect(
        "wakeup: workers are rung before the run is committed",
        "runlane/app.py",
        "            done = self._transact(lambda tx: trigger(tx, self.environment, wanted))",
        "            done = self._transact(lambda tx: self._runtime.ring() or trigger(tx, self.environment, wanted))",
        "tests/transport/test_wakeups.py::test_a_ring_comes_after_the_commit",
        "nobody is woken for a run that is not there yet",
    ),
    Defect(
        "commit: one that nobody heard of is held for one that has not happened",
        "runlane/storage/database.py",
        "            if not written or not self._is_stored(written[0], beat, error):",
        "            if True:",
        "tests/faults/test_commits.py::test_each_commit_of_each_operation_may_get_lost[sqlite-trigger-after]",
        "a call whose commit was cut off has its effect once",
    ),
    Defect(
        "commit: one that nobody heard of is held for one that has happened",
        "runlane/storage/database.py",
        "            if not written or not self._is_stored(written[0], beat, error):",
        "            if not written:",
        "tests/faults/test_commits.py::test_each_commit_of_each_operation_may_get_lost[sqlite-trigger-before]",
        "1: no accepted run is ever lost",
    ),
    Defect(
        "commit: after a refused one the connection stays in its transaction",
        "runlane/storage/commits.py",
        "        ending.rollback()  #",
        "        #",
        "tests/faults/test_commits.py::test_a_full_disk_during_sqlites_commit_is_no_unknown_one[False]",
        "a fault leaves nothing behind in the pool",
    ),
    Defect(
        "commit: stored outcomes are held for lost leases",
        "runlane/engine/complete.py",
        "            elif run is not None and _is_told(tx, one, decided[index]):",
        "            elif run is None and _is_told(tx, one, decided[index]):",
        "tests/faults/test_commits.py::test_outcomes_stored_by_a_lost_commit_are_no_lost_leases[sqlite]",
        "what was stored is not reported as dropped",
    ),
    Defect(
        "faults: a driver's exception gets out",
        "runlane/storage/faults.py",
        "        raise translate(error, where) from error",
        "        raise",
        "tests/storage/test_faults.py::test_a_file_that_is_no_database[trigger]",
        "no driver exception crosses the public surface",
    ),
    Defect(
        "audit: a key that was lost is not noticed",
        "runlane/storage/replay.py",
        "    differences.extend(_keys(tx, environment, pruned_at))",
        "    _keys(tx, environment, pruned_at)",
        "tests/storage/test_verify.py::test_a_lost_key_is_named_by_its_run[memory]",
        "6: stored state equals the fold of the log",
    ),
]
BY_NAME = {defect.name: defect for defect in DEFECTS}
