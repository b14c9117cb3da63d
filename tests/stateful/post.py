"""A publishing transport as bad as it may be: it fails, keeps, drops, doubles and reorders what it is given."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from runlane import PublishOutcome, PublishStatus, Wakeup
from runlane.errors import TransportUnavailable
from runlane.transport.local import LocalTransport

#: What is no answer, for which one wakeup may be to blame.
NONSENSE = "nonsense"
#: What became of each wakeup of one call.
Call = list[tuple[Wakeup, str]]


def answer(rng: Random) -> PublishOutcome:
    """What a provider says to one wakeup."""
    status = rng.choices((PublishStatus.PUBLISHED, PublishStatus.FAILED, PublishStatus.REJECTED), (12, 3, 1))[0]
    return PublishOutcome(status, None if status is PublishStatus.PUBLISHED else "out of order")


class Post(LocalTransport):
    """`box` holds what is under way, `calls` what was published and how it went; `kind` makes all of it go well."""

    name = "post"

    def __init__(self) -> None:
        super().__init__()
        self.open("", Random(0))

    def open(self, environment: str, rng: Random) -> None:
        """Begin anew, for another environment."""
        self.environment, self.rng = environment, rng
        self.box: list[Wakeup] = []
        self.calls: list[Call] = []
        self.kind = False

    def publish(self, wakeups: Sequence[Wakeup]) -> list[PublishOutcome]:
        mood = 1.0 if self.kind else self.rng.random()
        if mood < 0.02:
            self.calls.append([(wakeup, NONSENSE) for wakeup in wakeups])
            return []  # not one answer to each: as good as none
        if mood < 0.1:
            self.calls.append([(wakeup, "failed") for wakeup in wakeups])
            raise TransportUnavailable("the provider is away")
        good = PublishOutcome(PublishStatus.PUBLISHED)
        outcomes = [good if mood > 0.5 else answer(self.rng) for _ in wakeups]
        self.calls.append([(wakeup, outcome.status) for wakeup, outcome in zip(wakeups, outcomes, strict=True)])
        for wakeup, status in self.calls[-1]:
            for _ in range(self.rng.choice((0, 1, 1, 1, 2)) if status == "published" else 0):
                self.box.insert(self.rng.randint(0, len(self.box)), Wakeup.from_json(wakeup.to_json()))
        del self.box[:-20]
        return outcomes
