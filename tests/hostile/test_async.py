"""The async face with the same corpus: it answers as the sync face does, and refuses in the same words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from runlane import AsyncRunlane, Runlane, RunStatus
from runlane.projections.runs import Run
from tests.hostile.conftest import OPTIONS
from tests.hostile.corpus import Hostile, lanes_for, poison
from tests.hostile.faces import awaited
from tests.hostile.fuzzing import junk
from tests.hostile.oracle import Failures, ask, same
from tests.hostile.test_handlers import RAISES, RETURNS, TASKS, raises, raises_async, returns, returns_async
from tests.hostile.test_operations import CALLS
from tests.hostile.test_triggers import ARGUMENTS, DRAWN, WAYS, WITHIN, tried

#: The face makes one call of each, and looks at nothing itself: of a call's values each twelfth is enough, so that all
#: of them are passed somewhere.
APART = 12


@pytest.fixture(scope="module")
def faces() -> Iterator[list[Any]]:
    """The async face and the sync one, each on a database of its own; what is heavy goes to the first."""
    with awaited(AsyncRunlane("memory:", **OPTIONS)) as asynchronous, Runlane("memory:", **OPTIONS) as app:
        made = [asynchronous, app]
        for one in made:
            one.tick()
        yield made
        for one in made:
            assert one.audit.verify().identical


@pytest.mark.parametrize("way", WAYS)
def test_a_payload_comes_back_equal_or_is_refused(faces: list[Any], way: str) -> None:
    def check(name: str, value: Any, run: Run, stored: Run) -> None:
        assert same(value, stored.payload) or type(value) not in (str, int, float, bool, list, dict, tuple)
        assert same(run.payload, stored.payload)

    assert tried(faces, WAYS[way], check) > 80


@pytest.mark.parametrize("place", [*ARGUMENTS, *WITHIN])
def test_an_argument_is_kept_or_refused_as_by_the_sync_face(faces: list[Any], place: str) -> None:
    failures = Failures()
    for name, value in every(place):
        try:
            options = WITHIN[place](value) if place in WITHIN else {place: value}
            runs = ask(lanes_for(name, faces), lambda app, options=options: app.trigger("echo", 1, **options).run)
            for app, run in zip(faces, runs, strict=False):
                stored = app.runs.get(run.id)
                assert (stored.meta, stored.trace_carrier, stored.priority) == (
                    run.meta,
                    run.trace_carrier,
                    run.priority,
                )
        except (Hostile, TypeError) as error:
            if place != "a key of meta" and not place.endswith("_key"):  # no dict takes it; a function is called
                failures.note(name, error)
        except Exception as error:
            failures.note(name, error)
    failures.show()


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_answered_or_refused_as_by_the_sync_face(
    faces: list[Any], call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failures = Failures()
    for name, value in every(call):
        text = [value] if type(value) is str else []
        some = lanes_for(name, faces)
        try:
            ask(some, lambda app, value=value: CALLS[call](app, value), *text, also=(TimeoutError, Hostile))
        except Exception as error:
            failures.note(name, error)
    failures.show()


def every(call: str) -> Iterator[tuple[str, Any]]:
    """A share of the corpus, another one for the next call."""
    place = [*CALLS, *ARGUMENTS, *WITHIN].index(call)
    return (found for number, found in enumerate(poison()) if number % APART == place % APART)


def test_all_of_the_corpus_is_passed() -> None:
    passed = set(chain.from_iterable((name for name, _ in every(call)) for call in CALLS))
    assert passed == {name for name, _ in poison()}


@given(junk)
@DRAWN
def test_whatever_is_drawn_is_kept_or_refused_as_by_the_sync_face(faces: list[Any], value: Any) -> None:
    for options in ({"payload": value}, {"meta": {"a": value}}, {"idempotency_key": value}, {"delay": value}):
        if not (callable(value) and "idempotency_key" in options):  # a function in the place of a key is called
            ask(faces, lambda app, options=options: app.trigger("echo", **options).run)


@pytest.mark.parametrize("kind", ["raises", "returns"])
def test_an_async_worker_ends_every_attempt_and_goes_on(lane_url: str, kind: str) -> None:
    chosen, cases = ((raises, raises_async), RAISES) if kind == "raises" else ((returns, returns_async), RETURNS)
    some = [name for name in cases if ":" not in name]
    with awaited(AsyncRunlane(lane_url, tasks=TASKS)) as app:
        made = [run.run.id for one in chosen for run in app.trigger_many(one, some)]
        last = app.trigger("echo", 1, priority=-5).run.id
        worker = app.worker("drain", maintenance=False)
        worker.run()
        assert worker.completed == len(made) + 1
        ended = {app.runs.get(id).status for id in made}
        assert ended <= {RunStatus.FAILED, RunStatus.SUCCEEDED, RunStatus.RELEASED}
        assert app.runs.get(last).status is RunStatus.SUCCEEDED
        assert app.audit.verify().identical
