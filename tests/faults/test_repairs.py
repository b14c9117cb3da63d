"""A repair that is struck at any of its statements has changed nothing, and can be made again."""

from __future__ import annotations

from itertools import count

import pytest

from runlane import Runlane, StorageUnavailable
from tests.engine.tasks import echo
from tests.faults.driver import Moment, Nth, engines_of, struck
from tests.storage.test_rebuild import contents
from tests.support import database_of, execute

# SQLAlchemy leaves a server-side cursor to itself when the connection under it is gone.
pytestmark = pytest.mark.filterwarnings("ignore:.*ServerCursor.* was deleted while still open:ResourceWarning")


@pytest.mark.parametrize("moment", list(Moment))
@pytest.mark.parametrize("call", ["repair", "rebuild"])
def test_a_statement_that_fails_leaves_all_or_nothing(shared_url: str, call: str, moment: Moment) -> None:
    with Runlane(shared_url, tasks=[echo]) as app:
        run = app.run_now(echo, 1, idempotency_key="k").run.id
        right = contents(app)
        execute(database_of(app), "update {runs} set priority = 7")
        execute(database_of(app), "delete from {idempotency_keys}")
        wrong, told = contents(app), app.audit.count()
        for n in count(1, 1 if call == "repair" else 13):  # a rebuild has more than a hundred
            strike = Nth("execute", n, moment)
            with struck(strike, *engines_of(database_of(app))):
                try:
                    app.audit.repair(run) if call == "repair" else app.audit.rebuild()
                except StorageUnavailable:
                    assert strike.happened
            if contents(app) == right:
                break
            assert strike.happened
            assert (contents(app), app.audit.count()) == (wrong, told), f"call {n}"
        assert n > 3, "no statement failed"
        assert app.audit.verify().differences == ()
        assert sum(app.audit.count().values()) == sum(told.values()) + 1
        assert app.audit.rebuild(swap=False).identical
