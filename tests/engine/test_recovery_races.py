"""Recovery against a heartbeat that is on its way: whoever commits first decides."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

from runlane import Runlane, RunStatus, SettableClock, task
from runlane.engine import lease
from runlane.engine.lease import Recovered
from runlane.storage import sessions


@task("race.work")
def work(payload: Any) -> None:
    """Nothing."""


def test_a_late_heartbeat_that_commits_first_keeps_its_runs(shared_url: str, clock: SettableClock) -> None:
    with Runlane(shared_url, tasks=[work], clock=clock) as app:
        database = app._runtime.database
        holder = app._runtime.session().holder
        run = app.trigger(work, 1).run
        database.transact(
            lambda tx: lease.claim(tx, app.environment, holder, ["default"], ["race.work"], 1, tx.now()), clock
        )
        clock.advance(timedelta(minutes=1))
        found: list[Any] = []

        def recover() -> None:
            found.append(
                database.transact(lambda tx: lease.recover_session(tx, holder.session_id, lambda _: 3, 100), clock)
            )

        maintainer = threading.Thread(target=recover)
        with database.write(clock) as heartbeat:
            assert sessions.extend_session(heartbeat, holder.session_id, clock() + timedelta(seconds=30))
            maintainer.start()
            maintainer.join(0.3)  # it has to wait: nothing was decided yet
            assert found == []
        maintainer.join(30)
        assert found == [Recovered()]
        assert app.runs.get(run.id).status is RunStatus.RUNNING
