"""The first, the second, the third … statement of each public operation fails, until it has no such statement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import count

import pytest
from sqlalchemy import inspect

from runlane import Runlane, RunlaneError, SettableClock, StorageUnavailable
from runlane.storage import tables
from runlane.storage.tables import VERSION
from tests.engine.tasks import echo
from tests.faults.driver import Moment, Nth, engines_of, struck
from tests.faults.operations import OPERATIONS, OPTIONS, Operation, shape
from tests.faults.test_commits import appended, position
from tests.support import database_of, raw

# SQLAlchemy leaves a server-side cursor to itself when the connection under it is gone.
pytestmark = pytest.mark.filterwarnings("ignore:.*ServerCursor.* was deleted while still open:ResourceWarning")

WRITING = [operation for operation in OPERATIONS if operation.writes]


# Where the connection is gone with it, a statement that was not made is no other than one that was not heard of.
@pytest.fixture(params=[("sqlite", Moment.BEFORE), ("sqlite", Moment.AFTER), ("postgres", Moment.AFTER)], ids="-".join)
def case(request: pytest.FixtureRequest, clock: SettableClock) -> Iterator[tuple[Runlane, Moment]]:
    """A runtime on a lane, and when its statements fail."""
    lane, moment = request.param
    with Runlane(request.getfixturevalue(f"{lane}_url"), clock=clock, **OPTIONS) as made:
        yield made, moment


@pytest.mark.parametrize("operation", WRITING, ids=lambda operation: operation.name)
def test_a_statement_that_fails_leaves_all_or_nothing(
    case: tuple[Runlane, Moment], clock: SettableClock, operation: Operation
) -> None:
    app, moment = case
    arguments = operation.prepare(app, clock)
    before = position(app)
    expected = shape(operation.call(app, arguments))
    events = appended(app, before)
    n = 0
    while True:
        n += 1
        arguments = operation.prepare(app, clock)
        before, strike = position(app), Nth("execute", n, moment)
        refused = None
        with struck(strike, *engines_of(database_of(app))):
            try:
                told = shape(operation.call(app, arguments))
            except RunlaneError as error:
                refused = error
        done = appended(app, before)
        if refused is None:
            assert (told, done) == (expected, events), f"call {n}"
        else:
            assert (refused.code, refused.retryable) == ("storage_unavailable", True)
            assert "outcome" not in refused.meta
            assert done <= events if operation.steps else not done, f"call {n}"
        if app.lane.name == "sqlite" or not strike.happened:  # the other one takes its time, and forgets nothing
            assert app.audit.verify().differences == (), f"call {n}"
        if not strike.happened:
            break
        if refused is not None and not operation.steps:  # once more, as the error has promised
            assert (shape(operation.call(app, arguments)), appended(app, before)) == (expected, events), f"call {n}"
    assert n > 1, "no statement failed"


@pytest.mark.parametrize("lane", ["sqlite", "postgres"])
@pytest.mark.parametrize("moment", list(Moment))
def test_tables_are_made_whole_or_not_at_all(request: pytest.FixtureRequest, lane: str, moment: Moment) -> None:
    url = request.getfixturevalue("sqlite_url") if lane == "sqlite" else request.getfixturevalue("postgres").empty()
    for n in count(1):
        with closing(Runlane(url, **OPTIONS)) as app:
            strike = Nth("execute", n, moment)
            with struck(strike, *engines_of(database_of(app))), suppress(StorageUnavailable):
                assert app.migrate() == VERSION
                assert not strike.happened
                break
            with raw(database_of(app)) as connection:
                names = set(inspect(connection).get_table_names(schema=database_of(app).schema))
            # The epoch of the log is noted when they are made, in a transaction of its own.
            assert not names or names >= {table.name for table in tables.metadata.tables.values()}
    with Runlane(url, **OPTIONS) as app:
        app.run_now(echo, 1)
        assert app.audit.verify().differences == ()
    assert n > 2
