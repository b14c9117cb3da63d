"""The driver of the histories: it finds what is wrong, makes it small, and shows it again."""

from __future__ import annotations

import pytest

from runlane import decisions
from runlane.projections.runs import Run
from tests.stateful.episodes import Broken, play, replay
from tests.stateful.lanes import Stage


def test_a_failing_history_is_made_small_and_fails_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recover = decisions.recover

    def generous(run: Run, max_lost: int, *further: int) -> object:
        return recover(run, max_lost + 1, *further)

    stage = Stage.memory()
    with monkeypatch.context() as patch:
        patch.setattr(decisions, "recover", generous)
        with pytest.raises(Broken) as broken:
            play(stage, 5000, 1)
        found = broken.value
        assert len(found.steps) <= 20
        assert repr(found.steps[-1]) in str(found)
        with pytest.raises(AssertionError, match=r"run\.lease_expired"):
            replay(stage, found.lot, found.steps)
    assert replay(stage, found.lot, found.steps) >= 1, "without the defect nothing is wrong"
    stage.close()
