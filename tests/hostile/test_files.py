"""Exports, manifests, archives, proofs, checkpoints and keys that strangers have written."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runlane import ConfigurationInvalid, InvariantViolation, Lane, Runlane, RunlaneError, SettableClock, digests, task
from runlane.export import archiving, fixtures, formats, import_events, manifest, replay
from runlane.export.formats import Envelope
from runlane.lanes import memory_lane
from runlane.sealing import check_proof
from tests.export.conftest import exported
from tests.export.histories import OPTIONS, copied, live, work
from tests.hostile.corpus import JSON, TEXTS
from tests.hostile.fuzzing import EXAMPLES, anything
from tests.hostile.oracle import Failures, clear
from tests.support import SECOND

__all__ = ["exported"]

REFUSALS = (ConfigurationInvalid, InvariantViolation)
#: What may stand anywhere in a file of JSON.
VALUES: list[Any] = [
    *(text for text in TEXTS.values() if len(text) < 5000 and not any("\ud800" <= c <= "\udfff" for c in text)),
    *(0, -1, 2**31, 2**53, 2**63 - 1, 2**64 - 1, -(2**63), 1e308, -0.0, True, False, None, [], {}, [[]], {"a": {}}),
    *("0001-01-01T00:00:00.000000+14:00", "9999-12-31T23:59:59.999999-14:00", "2026-01-01T00:00:00"),
    *("0001-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z", "P1D", {"once": "x"}, {"every_us": 1e300}),
]
numbers = count()


@pytest.fixture(scope="module")
def events(exported: Any) -> list[Envelope]:
    """Of a good export."""
    return [formats.parse(line) for line in exported[0].read_bytes().splitlines(keepends=True)]


def written(folder: Path, told: Any, events: list[Envelope]) -> Path:
    """An export of these events which agrees with itself: what a stranger can make who knows how."""
    path = folder / f"forged{next(numbers)}.jsonl"
    lines, before, stream = [], "", None
    for event in events:
        before = digests.START.hex() if event.stream_id != stream else before
        stream = event.stream_id
        try:
            before = formats.digest(before, event, formats.recorded(event))
        except Exception:  # no digest can follow
            before = hashlib.sha256(event.data.encode("utf-8", "replace")).hexdigest()
        lines.append(formats.line(evolve(event, digest=before)))
    path.write_bytes(b"".join(lines))
    sha256 = hashlib.sha256(b"".join(lines)).hexdigest()
    by_type: dict[str, int] = {}
    for event in events:
        by_type[event.type] = by_type.get(event.type, 0) + 1
    streams = len([1 for n, event in enumerate(events) if not n or events[n - 1].stream_id != event.stream_id])
    values = told.content() | {
        "events": len(lines),
        "streams": streams,
        "by_type": by_type,
        "size": sum(map(len, lines)),
        "sha256": sha256,
        "events_sha256": sha256,
        "first_at": min(event.occurred_at for event in events),
        "last_at": max(event.occurred_at for event in events),
        "environment": events[0].environment,
    }
    manifest.path_of(path).write_bytes(orjson.dumps(values))
    return path


def tried(path: Path, lane: Lane | None = None) -> bool:
    """Replay and import a file; whether it was taken.  Refused clearly, or all of it is read."""
    target = memory_lane() if lane is None else lane
    try:
        found = replay(path)
    except REFUSALS as error:
        clear(error)
        found = None
    if found is not None:
        for problem in found.problems:
            clear(Exception(str(problem).encode("unicode_escape").decode()))
        if not found.clean:  # nobody would import it: an import replays first
            return False
    try:
        done = import_events(path, target)
    except REFUSALS:
        with Runlane(target) as app:
            assert app.audit.count() == {}
            assert app.runs.list().data == ()
        return False
    assert found is not None
    assert found.clean
    with Runlane(target, environment=done.environment) as app:
        assert app.audit.verify().identical
        for run in app.runs.list(limit=500).data:
            assert app.runs.get(run.id) == run
            assert app.audit.timeline(run.id)
        for state in app.schedules.list():
            assert app.schedules.occurrences(state.schedule_id) is not None
    return True


FIELDS = ("stream_id", "sequence", "type", "version", "occurred_at", "environment", "actor", "data")


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_in_any_field_of_an_event(exported: Any, events: list[Envelope], tmp_path: Path, field: str) -> None:
    failures = Failures()
    for value in VALUES:
        if type(value) is not formats.FIELDS.get(field, str):
            continue
        for number in (0, 1):
            forged = [event for event in events if event.stream_id == events[len(events) // 2].stream_id]
            number = min(number, len(forged) - 1)
            forged[number] = evolve(forged[number], **{field: value})
            try:
                tried(written(tmp_path, exported[1], forged))
            except Exception as error:
                failures.note(f"{field} of event {number} is {value!r:.80}", error)
    failures.show()


def test_any_value_in_any_place_of_the_data(exported: Any, events: list[Envelope], tmp_path: Path) -> None:
    failures = Failures()
    kinds: dict[str, int] = {}
    for number, event in enumerate(events):
        kinds.setdefault(event.type, number)
    for kind, number in kinds.items():
        stream = [event for event in events if event.stream_id == events[number].stream_id]
        place = stream.index(events[number])
        known = orjson.loads(events[number].data)
        for name in [*known, "meta", "trace_carrier", "run_at", "idempotency_key", "actor"]:
            for value in VALUES[next(numbers) % 41 :: 41]:
                forged = list(stream)
                forged[place] = evolve(event := stream[place], data=orjson.dumps(known | {name: value}).decode())
                try:
                    tried(written(tmp_path, exported[1], forged))
                except Exception as error:
                    failures.note(f"{name} of {kind} in {event.type} is {value!r:.80}", error)
    failures.show()


def test_a_stream_that_stands_twice_in_a_file(exported: Any, events: list[Envelope], tmp_path: Path) -> None:
    keyed = next(event for event in events if '"idempotency_key"' in event.data and event.type == "run.created")
    stream = [event for event in events if event.stream_id == keyed.stream_id]
    other = [event for event in events if event.stream_id != keyed.stream_id][:1]
    assert not tried(written(tmp_path, exported[1], [*stream, *other, *stream]))


@pytest.mark.parametrize("line", [*JSON.values(), *(text for text in TEXTS.values() if len(text) < 5000)])
def test_any_text_as_a_line(exported: Any, tmp_path: Path, line: str) -> None:
    path = copied(exported[0], tmp_path)
    good = exported[0].read_bytes().splitlines(keepends=True)
    raw = line.encode("utf-8", "surrogatepass")
    for forged in (raw, raw + b"\n", raw + b',"data":{}}\n', b'{"stream_id":' + raw + b',"data":{}}\n'):
        path.write_bytes(b"".join([good[0], forged, *good[1:3]]))
        found = replay(path)
        assert not found.clean
        with pytest.raises(InvariantViolation, match="nothing was imported"):
            import_events(path, memory_lane())


def mutated(values: Any, place: int, value: Any) -> Any:
    """JSON with another value in one of its places, counted from the outside inwards."""
    places = list(_places(values))
    path = places[place % len(places)]
    copy = orjson.loads(orjson.dumps(values))
    if not path:
        return value
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return copy


def _places(values: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    steps = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for step, inner in steps:
        yield from _places(inner, (*path, step))


def storm(good: bytes, path: Path, look: Callable[[], Any]) -> None:
    """Put every value into every place of a JSON file, and other bytes in its stead, and look at it."""
    failures = Failures()
    values = orjson.loads(good)
    cases = [
        orjson.dumps(mutated(values, place, value)) for place in range(len(list(_places(values)))) for value in VALUES
    ]
    cases += [text.encode("utf-8", "surrogatepass") for text in (*JSON.values(), *TEXTS.values())]
    cases += [good[:cut] for cut in range(0, len(good), 97)]
    cases += [orjson.dumps({**values, "more": 1}), b"\xff\xfe", orjson.dumps([values])]
    for number, case in enumerate(cases):
        path.write_bytes(case)
        try:
            look()
        except REFUSALS as error:
            if len(str(error)) > 3000:
                failures.append(f"{number}: a message of {len(str(error))} characters")
        except Exception as error:
            failures.note(f"{number} {case[:80]!r}", error)
    failures.show()


def test_any_value_in_any_place_of_a_manifest(exported: Any, tmp_path: Path) -> None:
    path = copied(exported[0], tmp_path)
    storm(manifest.path_of(path).read_bytes(), manifest.path_of(path), lambda: manifest.read(path))


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A proof and the checkpoint that it speaks of."""
    clock = SettableClock()
    with Runlane("memory:", clock=clock, **OPTIONS) as app:
        live(app, clock)
        run = app.run_now(work, {"a": [1, "x"]}).run
        made = app.audit.checkpoint()
        assert made.checkpoint is not None
        return app.audit.prove(run.id).dumps(), made.checkpoint.dumps()


def test_any_value_in_any_place_of_a_proof(sealed: tuple[bytes, bytes], tmp_path: Path) -> None:
    path = tmp_path / "proof.json"

    def look() -> None:
        found = check_proof(path)
        assert found.holds == (path.read_bytes() == sealed[0]) or found.holds  # a value may be what it was

    storm(sealed[0], path, look)


def test_any_value_in_any_place_of_a_checkpoint(sealed: tuple[bytes, bytes], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    with Runlane("memory:") as app:
        storm(sealed[1], path, lambda: app.audit.verify(checkpoints=[path]))


@pytest.mark.parametrize("kind", ["private", "public"])
def test_any_text_as_a_key(exported: Any, tmp_path: Path, kind: str) -> None:
    failures = Failures()
    key = tmp_path / "key.pem"
    body = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE"
    label = "PRIVATE KEY" if kind == "private" else "PUBLIC KEY"
    texts = [
        *TEXTS.values(),
        *(f"-----BEGIN {label}-----\n{one}\n-----END {label}-----\n" for one in [*TEXTS.values(), body]),
    ]
    # An algorithm that nobody knows.
    texts.append(f"-----BEGIN {label}-----\nMBowDQYJKoZIhvcNAf////8FAAMJAAAAAAAAAAA=\n-----END {label}-----\n")
    with Runlane("memory:") as app:
        for text in texts:
            key.write_bytes(text.encode("utf-8", "surrogatepass"))
            try:
                app.audit.checkpoint(key) if kind == "private" else replay(exported[0], public_key=key)
            except ConfigurationInvalid as error:
                if len(str(error)) > 3000:
                    failures.append(str(error)[:200])
            except Exception as error:
                failures.note(text[:60], error)
            else:
                failures.append(f"taken: {text[:60]}")
    failures.show()


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "x" * 5000, "a\x00b", "", ".", "\u202e"])
def test_an_archive_is_looked_for_under_no_other_name_than_a_digest(tmp_path: Path, name: str) -> None:
    """The log may come from a stranger, by an import."""
    folder = tmp_path / "archives"
    folder.mkdir()
    (tmp_path / "passwd.jsonl").write_text("secret\n")
    with Runlane("memory:", clock=(clock := SettableClock()), **OPTIONS) as app:
        app.runs.cancel(app.trigger(work, 1).run.id)
        clock.advance(SECOND)
        assert app.runs.prune(clock(), archive=folder).archive is not None
        app.audit.export(tmp_path / "log.jsonl")
    told = manifest.read(tmp_path / "log.jsonl")
    events = [formats.parse(line) for line in (tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)]
    forged = [
        evolve(one, data=orjson.dumps(orjson.loads(one.data) | {"archive": name}).decode())
        if one.type == "environment.pruned"
        else one
        for one in events
    ]
    lane = memory_lane()
    import_events(written(tmp_path, told, forged), lane)
    with Runlane(lane) as app:
        found = app.audit.archives(folder)
        assert [one.path for one in found.kept] == [None]
        assert found.kept[0].problems == ("is not there",)
    assert archiving.path_of(folder, "0" * 64).parent == folder


@pytest.mark.parametrize(
    "name", ['x"""\nraise SystemExit\n"""', '""" + evil() + """', "a\\", "'''", "{}{0}", "\\N{BELL}"]
)
def test_a_fixture_holds_no_code_but_its_own(name: str) -> None:
    """Names of tasks come from the log, and the module that is written is executed."""
    if "\n" in name:
        with pytest.raises(ConfigurationInvalid):
            task(name)
        name = name.replace("\n", "; ")
    evil = task(name)(lambda payload: payload)
    with Runlane("memory:", tasks=[evil]) as app:
        run = app.run_now(evil, name).run
        module = fixtures.module_of(app.runs.events(run.id))
    tree = ast.parse(module)
    assert str(ast.get_docstring(tree, clean=False)).startswith(f"Run {run.id} of task ")
    kinds = [type(one) for one in tree.body]
    assert kinds == [ast.Expr, ast.ImportFrom, ast.Import, ast.ImportFrom, ast.ImportFrom, ast.Assign, ast.FunctionDef]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000), anything), min_size=1, max_size=3))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_several_changes_at_once(exported: Any, events: list[Envelope], tmp_path: Path, changes: Any) -> None:
    forged = list(events)
    for number, place, value in changes:
        event = forged[number % len(forged)]
        try:
            data = orjson.dumps(mutated(orjson.loads(event.data), place, value))
        except (TypeError, ValueError):
            continue
        forged[number % len(forged)] = evolve(event, data=data.decode())
    tried(written(tmp_path, exported[1], forged))


def test_a_path_that_is_none() -> None:
    for path in ("", "/", ".", "..", "a\x00b", "\ud800", "x" * 5000, "/dev/null", "/proc/self/mem"):
        for call in (replay, check_proof, lambda path: import_events(path, "memory:")):
            with pytest.raises(RunlaneError) as caught:
                call(path)
            assert len(str(caught.value)) < 12_000
