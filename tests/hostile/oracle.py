"""What may become of hostile input: it is taken and comes back as it was, or one clear error says why not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from runlane import Runlane, RunlaneError
from tests.support import written

#: No message of ours is longer; a value in it is cut.
LONGEST = 3000
#: How a statement would look in a message: ours are in lower case, SQLAlchemy's in capitals.
_STATEMENT = re.compile(
    r"\b(select .{0,80} from|insert into|update \S+ set|delete from|values \(|\[SQL: |\[parameters: |sqlalche\.me)",
    re.IGNORECASE | re.DOTALL,
)


def clear(error: BaseException, *given: str) -> None:
    """Assert that an error is one for users: on one line, short, without SQL and without what a terminal obeys.

    Args:
        given: texts that were passed in; what looks like SQL in these is the caller's own.
    """
    text = str(error)
    assert text, error
    assert len(text) <= LONGEST, f"a message of {len(text)} characters: {text[:200]}"
    assert text.isprintable(), f"a message with control characters: {text!r}"
    for one in given:
        text = text.replace(one, "").replace(repr(one)[1:-1], "")
    assert _STATEMENT.search(text) is None, f"SQL in a message: {text}"


class Failures(list[str]):
    """What went wrong with one value need not hide what goes wrong with the next."""

    def note(self, name: str, error: BaseException) -> None:
        """Add one; a lone surrogate in it would end a test process that reports to others."""
        told = str(error) if isinstance(error, AssertionError) else f"{type(error).__module__}.{error!r}"
        self.append(f"{name}: {told[:600].encode('utf-8', 'backslashreplace').decode()}")

    def show(self) -> None:
        """Fail if there is any."""
        assert not self, f"{len(self)} failures:\n" + "\n".join(self)


def ask(
    apps: Sequence[Runlane], call: Callable[[Runlane], Any], *given: str, also: tuple[type[Exception], ...] = ()
) -> list[Any]:
    """Call it on every lane; what it returned on each, or nothing if every lane refused it.

    Asserts that all of them refuse it in the same words, or none.

    Args:
        also: documented errors that are not Runlane's own.
    """
    answers: list[Any] = []
    refusals: list[str] = []
    for app in apps:
        try:
            answers.append(call(app))
        except (RunlaneError, *also) as error:
            clear(error, *given)
            refusals.append(f"{type(error).__name__}: {error}")
    assert not answers or not refusals, f"taken here and refused there: {refusals}"
    assert len(set(refusals)) <= 1, f"refused in different words: {refusals}"
    return answers


@contextmanager
def counted(apps: Sequence[Runlane], answers: list[Any] | None = None) -> Iterator[None]:
    """Assert that nothing is written within, but for one run for each of the answers that are collected meanwhile."""
    before = [written(app) for app in apps]
    yield
    made = [[one[place] for one in answers or () if len(one) > place] for place in range(len(apps))]
    for app, (events, runs, _), found in zip(apps, before, made, strict=True):
        ids = {run.id for run in found}
        assert written(app)[1] == runs + len(ids)
        assert written(app)[0] == events + sum(app.runs.get(id).sequence for id in ids)


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, to the sign of zero and the kind of number; tuples count as lists."""
    if isinstance(one, list | tuple) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and repr(one) == repr(other)
