"""Adapters with one defect each, and the cases that have to find it; test_broken_adapters.py runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from runlane import Lane
from runlane.capabilities import Capability
from runlane.storage.database import Database
from runlane.storage.floors import Stretch
from runlane.storage.sqlite import Sqlite
from runlane.testing import RecordingTransport
from runlane.testing.conformance import LaneConformance, PublisherConformance, StorageConformance, TransportConformance
from runlane.testing.conformance import lane as lane_cases
from runlane.testing.conformance import transport as transport_cases
from runlane.transport.local import LocalTransport


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who never hears is not waited for as long as who may be slow."""
    for cases in (lane_cases, transport_cases):
        monkeypatch.setattr(cases, "PATIENCE", 1.0)


#: Each defect, and the cases that it must not pass.
FOUND_BY: dict[str, list[str]] = {}


def found_by(*cases: str) -> Callable[[type], type]:
    """Marks the suite of a broken adapter with the cases that find what is broken."""

    def mark(suite: type) -> type:
        FOUND_BY[suite.__name__] = list(cases)
        return suite

    return mark


class Statements(Sqlite):
    """SQLite's own, of which each defect replaces one."""


class BrokenStorage(StorageConformance):
    """The suite on a database in memory with one statement replaced."""

    statements: type[Statements] = Statements

    @pytest.fixture
    def storage(self) -> Database:
        database = Database("memory:")
        database.dialect = self.statements()
        return database


class Everybody(Statements):
    def update_runs(self, conn: Any, expected: Any, runs: Any, events: Any) -> Any:
        super().update_runs(conn, expected, runs, events)
        return set()


@found_by(
    "test_a_stale_sequence_writes_nothing",
    "test_only_the_losers_of_a_batch_are_left_out",
    "test_two_at_once_advance_a_run_once",
    "test_only_the_holder_of_the_lease_ends_an_attempt",
)
class TestTellsNobodyThatItLost(BrokenStorage):
    statements = Everybody


class Unguarded(Statements):
    def update_runs(self, conn: Any, expected: Any, runs: Any, events: Any) -> Any:
        lost = super().update_runs(conn, expected, runs, events)
        for run in runs:
            if run[0] in lost:
                conn.exec_driver_sql("update runs set cancellation = ? where id = ?", (run[-1], str(run[0])))
        return lost


@found_by("test_a_stale_sequence_writes_nothing", "test_only_the_losers_of_a_batch_are_left_out")
class TestWritesRowsWithoutAGuard(BrokenStorage):
    statements = Unguarded


class GivesKeysAway(Statements):
    def claim_keys(self, conn: Any, keys: Any) -> Any:
        super().claim_keys(conn, keys)
        return {key[3] for key in keys}


@found_by("test_a_key_has_one_owner", "test_of_many_triggers_with_one_key_one_creates")
class TestGivesAKeyToEverybody(BrokenStorage):
    statements = GivesKeysAway


class ManySingletons(Statements):
    def insert_singleton(self, conn: Any, run: Any) -> bool:
        super().insert_singleton(conn, run)
        return True


@found_by("test_a_singleton_has_one_active_owner", "test_of_many_triggers_of_a_singleton_one_creates")
class TestKnowsNoSingletons(BrokenStorage):
    statements = ManySingletons


class WorstFirst(Statements):
    def lease_runs(self, conn: Any, environment: str, *rest: Any) -> Any:
        return super().lease_runs(conn, environment, *rest)[::-1]


@found_by("test_claims_go_by_priority_then_due_time_then_id")
class TestClaimsTheWorstFirst(BrokenStorage):
    statements = WorstFirst


class Generous(Statements):
    def lease_runs(self, conn: Any, environment: str, terms: Any, stretches: Any, *rest: Any) -> Any:
        return super().lease_runs(conn, environment, terms, [*stretches, Stretch("other")], *rest)


@found_by("test_only_what_is_wanted_and_due_is_claimed")
class TestClaimsFromEveryQueue(BrokenStorage):
    statements = Generous


class Coarse(Statements):
    def insert_runs(self, conn: Any, runs: Any, events: Any) -> None:
        def cut(value: Any) -> Any:
            return value.replace(microsecond=0) if isinstance(value, datetime) else value

        super().insert_runs(conn, [tuple(cut(value) for value in run) for run in runs], events)


@found_by("test_instants_keep_their_microseconds_and_are_utc")
class TestCutsInstants(BrokenStorage):
    statements = Coarse


class Backwards(Statements):
    def __init__(self) -> None:
        self._calls = 0

    def now(self, conn: Any) -> datetime:
        self._calls += 1
        return super().now(conn) - timedelta(hours=self._calls)


@found_by("test_time_goes_forward_and_is_utc")
class TestRunsBackwards(BrokenStorage):
    statements = Backwards


class Unprotected(Database):
    """Anybody may change history."""

    def migrate(self) -> int:
        version = super().migrate()
        with self.engine.begin() as connection:
            found = connection.exec_driver_sql("select name from sqlite_master where type = 'trigger'").all()
            for (name,) in found:
                connection.exec_driver_sql(f"drop trigger {name}")
        return version


@found_by(
    "test_history_cannot_be_changed[update]",
    "test_history_cannot_be_changed[delete]",
    "test_nothing_is_removed_that_no_event_tells_of",
)
class TestLetsHistoryBeChanged(StorageConformance):
    @pytest.fixture
    def storage(self) -> Database:
        return Unprotected("memory:")


class KeepsHalf(Database):
    """What raises is committed all the same."""

    @contextmanager
    def write(self, clock: Any = None, *, beat: bool = False) -> Iterator[Any]:
        with self.engine.connect() as connection:
            begun = connection.begin()
            try:
                yield self.join(connection, clock)
            finally:
                begun.commit()


@found_by("test_a_transaction_that_raises_writes_nothing")
class TestCommitsWhatRaised(StorageConformance):
    @pytest.fixture
    def storage(self) -> Database:
        return KeepsHalf("memory:")


class Boastful(Database):
    """Promises what a database in memory cannot keep."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        return super().capabilities - {Capability.PROCESS_LOCAL_STATE} | {Capability.DURABLE_STATE}


@found_by("test_durable_state_is_there_after_a_restart")
class TestPromisesDurability(StorageConformance):
    @pytest.fixture
    def storage(self) -> Database:
        return Boastful("memory:")


class Untranslated(Database):
    """Lets the driver's errors through."""

    @contextmanager
    def read(self, clock: Any = None) -> Iterator[Any]:
        with self.engine.begin() as connection:
            yield self.join(connection, clock)


@found_by("test_faults_are_runlanes_own")
class TestLetsDriverErrorsThrough(StorageConformance):
    @pytest.fixture
    def storage(self) -> Database:
        return Untranslated("memory:")


class Raising(LocalTransport):
    def ring(self, environment: str, queues: Any) -> None:
        raise ConnectionError("the provider is away")


@found_by("test_ringing_never_raises", "test_a_ring_is_heard_by_who_listens_for_the_queue")
class TestRaises(TransportConformance):
    @pytest.fixture
    def transport(self) -> Any:
        return Raising()


class Slow(LocalTransport):
    def ring(self, environment: str, queues: Any) -> None:
        threading.Event().wait(0.03)
        super().ring(environment, queues)


@found_by("test_ringing_returns_at_once")
class TestLetsCallersWait(TransportConformance):
    @pytest.fixture
    def transport(self) -> Any:
        return Slow()


class Clinging(LocalTransport):
    def unlisten(self, bell: Any) -> None:
        """Forgets to."""


@found_by("test_who_no_longer_listens_is_left_alone")
class TestKeepsRinging(TransportConformance):
    @pytest.fixture
    def transport(self) -> Any:
        return Clinging()


class Once(LocalTransport):
    _closed = False

    def close(self) -> None:
        self._closed = True

    def ring(self, environment: str, queues: Any) -> None:
        if not self._closed:
            super().ring(environment, queues)


@found_by("test_it_can_be_closed_twice_and_started_again")
class TestStartsOnce(TransportConformance):
    @pytest.fixture
    def transport(self) -> Any:
        return Once()


@found_by("test_it_is_no_publisher")
class TestIsInTheWrongSuite(TransportConformance):
    @pytest.fixture
    def transport(self) -> Any:
        return RecordingTransport()


class Forgetful(RecordingTransport):
    def publish(self, wakeups: Any) -> Any:
        return super().publish(wakeups)[:-1]


@found_by("test_each_wakeup_has_an_outcome[7]", "test_wakeups_may_be_published_again")
class TestForgetsAnOutcome(PublisherConformance):
    @pytest.fixture
    def transport(self) -> Any:
        return Forgetful()


class Fussy(RecordingTransport):
    def publish(self, wakeups: Any) -> Any:
        if any(len(wakeup.to_json()) > 200_000 for wakeup in wakeups):
            raise ValueError("the message is too long")
        return super().publish(wakeups)


@found_by("test_one_that_cannot_be_taken_does_not_hinder_the_others")
class TestRaisesForOneOfThem(PublisherConformance):
    @pytest.fixture
    def transport(self) -> Any:
        return Fussy()


class Unstarted(RecordingTransport):
    started = False

    def start(self) -> None:
        self.started = True

    def publish(self, wakeups: Any) -> Any:
        if not self.started:
            raise AttributeError("there is no connection")
        return super().publish(wakeups)


@found_by("test_outside_its_life_it_raises_transport_unavailable_at_most")
class TestRaisesOutsideItsLife(PublisherConformance):
    @pytest.fixture
    def transport(self) -> Any:
        return Unstarted()


@found_by("test_a_failure_is_retried_when_its_time_has_come", "test_a_schedule_makes_a_run_of_each_occurrence")
class TestLaneOfTheWrongTime(LaneConformance):
    """Its storage believes its own clock and not the one that is injected."""

    @pytest.fixture
    def lane(self) -> Lane:
        class OwnTime(Database):
            def join(self, connection: Any, clock: Any = None) -> Any:
                return super().join(connection)

        return Lane(OwnTime("memory:"), LocalTransport())


class Deaf(LocalTransport):
    def ring(self, environment: str, queues: Any) -> None:
        """Nobody hears it."""


@found_by("test_a_trigger_wakes_an_idle_worker")
class TestDeafLane(LaneConformance):
    @pytest.fixture
    def lane(self) -> Lane:
        return Lane(Database("memory:"), Deaf())


@found_by("test_what_is_not_promised_is_refused")
class TestLaneThatEmulates(LaneConformance):
    @pytest.fixture
    def lane(self) -> Lane:
        class Modest(Database):
            @property
            def capabilities(self) -> frozenset[Capability]:
                return super().capabilities - {Capability.PRUNES_RUNS}

        class Willing(Lane):
            def require(self, capability: Capability, what: str) -> None:
                """Refuses nothing."""

        return Willing(Modest("memory:"), LocalTransport())


@found_by("test_a_lane_is_started_and_closed_as_often_as_wanted")
class TestForgetfulLane(LaneConformance):
    @pytest.fixture
    def lane(self) -> Lane:
        class Closing(Lane):
            def close(self) -> None:
                super().close()
                self.database.dispose()

        return Closing(Database("memory:"), LocalTransport())


@found_by("test_a_repeated_trigger_finds_its_run")
class TestLaneWithoutKeys(LaneConformance):
    @pytest.fixture
    def lane(self) -> Lane:
        database = Database("memory:")
        database.dialect = GivesKeysAway()
        return Lane(database, LocalTransport())
