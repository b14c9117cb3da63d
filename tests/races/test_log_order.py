"""Following the log while others write it: by (tx, position) below the horizon on PostgreSQL, by position on SQLite."""

from __future__ import annotations

from typing import Any

from runlane import Triggered, task
from tests.races.arena import Arena, Place
from tests.races.interleave import Race
from tests.support import database_of, eventually, named

_BELOW_THE_HORIZON = """
    select tx::text::bigint, position, stream_id, sequence from {events}
    where environment = '{environment}' and (tx, position) > ('{tx}', {position})
      and tx < pg_snapshot_xmin(pg_current_snapshot()) order by tx, position"""
_BY_POSITION = """
    select 0, position, stream_id, sequence from {events}
    where environment = '{environment}' and position > {position} order by position"""


@task("work")
def work(payload: Any = None) -> Any:
    return payload


class Follower:
    """Reads the log from where it stopped the last time."""

    def __init__(self, place: Place, statement: str) -> None:
        self._database, self._environment = database_of(place.app(work)), place.environment
        self._statement = statement
        self._cursor = (0, 0)
        self.seen: list[tuple[str, int]] = []

    def look(self) -> None:
        """Everything that is new."""
        tx, position = self._cursor
        statement = self._statement.format(
            events=named(self._database, "events"), environment=self._environment, tx=tx, position=position
        )
        with self._database.read() as reading:
            for row in reading.connection.exec_driver_sql(statement):
                self.seen.append((str(row[2]), row[3]))
                self._cursor = (row[0], row[1])

    def look_twice(self) -> None:
        """While others write."""
        for _ in range(2):
            self.look()


def misses(arena: Arena, statement: str) -> set[str]:
    """Whether a follower that goes by `statement` has missed an event when all is committed, over all schedules."""

    def scene(place: Place) -> Race:
        a, b = place.apps(work)
        follower = Follower(place, statement)

        def check(x: Triggered, y: Triggered, _: None) -> str:
            written = {(str(r.stream_id), r.sequence) for one in (x, y) for r in a.runs.events(one.run.id)}
            if statement is _BELOW_THE_HORIZON:
                # Whatever else this server does at the moment holds the horizon back, and not for ever.
                eventually(lambda: follower.look() or len(follower.seen) >= len(written), "the horizon")
            else:
                follower.look()
            assert len(set(follower.seen)) == len(follower.seen), "an event was seen twice"
            for run_id in {stream for stream, _ in follower.seen}:
                sequences = [sequence for stream, sequence in follower.seen if stream == run_id]
                assert sequences == sorted(sequences)
            return "none" if set(follower.seen) == written else "some"

        return Race([lambda: a.trigger(work, 1), lambda: b.trigger(work, 2), follower.look_twice], check)

    return set(arena.race(scene, few=0))


def test_invariant_15_a_reader_that_follows_the_log_misses_no_event(arena: Arena) -> None:
    assert misses(arena, _BY_POSITION if arena.is_sqlite else _BELOW_THE_HORIZON) == {"none"}


def test_position_alone_misses_events_where_there_are_two_writers(arena: Arena) -> None:
    """Positions are given before the commit: why the rule above is needed, and that these schedules would show it."""
    assert misses(arena, _BY_POSITION) == ({"none"} if arena.is_sqlite else {"none", "some"})
