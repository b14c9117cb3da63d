"""What a soak keeps of pruned histories: the whole of them, and no more may be gone than the log tells of."""

from __future__ import annotations

from typing import Any

from tests.chaos.history import Event, Evidence, check
from tests.chaos.pruner import Pruner
from tests.chaos.stories import sound


class Site:
    """A log that is read behind a position, as a database is."""

    def __init__(self, events: list[Event]) -> None:
        self.stored = events

    def events(self, after: int) -> list[Event]:
        return [event for event in self.stored if event.position > after]


def pruned(streams: set[str], **told: int) -> tuple[Evidence, list[str]]:
    """A sound history without these streams, of which the log tells so much, and what was kept of it before."""
    story = sound()
    site: Any = Site(story.events)
    pruner = Pruner(site, every=0.0, age=0.0)
    pruner._keep()
    pruner._keep()
    evidence = story.evidence()
    story.tell("environment", "environment.pruned", **told)
    evidence.events = [event for event in story.events if event.stream not in streams]
    evidence.runs = [row for row in evidence.runs if row["id"] not in streams]
    return pruner.whole(evidence)


def test_what_was_pruned_is_judged_with_the_rest() -> None:
    evidence, findings = pruned({"lost"}, runs=1, events=5)
    assert findings == []
    assert evidence.pruned == {"lost"}
    assert [event.position for event in evidence.events] == list(range(1, len(evidence.events) + 1))
    assert check(evidence).sound


def test_what_is_gone_and_nobody_tells_of_is_found() -> None:
    _, (finding,) = pruned({"lost", "single-1"}, runs=1, events=5)
    assert finding == "2 runs with 8 events are gone, and the log tells of {'runs': 1, 'events': 5} as pruned"


def test_what_is_told_and_is_not_gone_is_found() -> None:
    assert len(pruned(set(), runs=1, events=5)[1]) == 1
