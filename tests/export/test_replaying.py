"""A replay without a database: what is clean, and that every kind of damage is found and the event named."""

from __future__ import annotations

import random
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from attrs import evolve

from runlane import ConfigurationInvalid, Runlane
from runlane.export import Manifest, Problem, Replayed, formats, manifest, replay
from runlane.projections.runs import Run
from tests.export.histories import copied, place_of

Lines = list[bytes]


def test_a_clean_export_counts_what_the_database_has(app: Runlane, tmp_path: Path) -> None:
    told = app.audit.export(tmp_path / "log.jsonl")
    ended: list[Any] = []
    progress: list[int] = []
    found = replay(tmp_path / "log.jsonl", progress=progress.append, ended=lambda state, _: ended.append(state))
    assert found.clean
    assert (found.manifest, found.events, found.streams, found.signed) == (told, told.events, told.streams, None)
    assert dict(found.by_status) == {status: number for status, number in app.runs.count().items() if number}
    assert (found.schedules, found.queues) == (1, 1)
    assert progress == [told.events]
    runs = [state for state in ended if isinstance(state, Run)]
    assert runs == [app.runs.get(run.id) for run in runs]
    assert len(ended) == told.streams


@pytest.fixture
def damage(exported: tuple[Path, Manifest], tmp_path: Path) -> Callable[..., Replayed]:
    """Replays a copy of an export that was changed."""
    path = copied(exported[0], tmp_path)

    def change(alter: Callable[[Lines], Lines], *, keep_digests: bool = True) -> Replayed:
        lines = exported[0].read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(alter(lines)))
        if not keep_digests:
            manifest.lines_of(path).unlink(missing_ok=True)
        return replay(path)

    return change


@pytest.fixture
def lines(exported: tuple[Path, Manifest]) -> Lines:
    return exported[0].read_bytes().splitlines(keepends=True)


def named(found: Replayed) -> set[tuple[Any, Any]]:
    """The events that problems name."""
    assert not found.clean
    return {(one.stream_id, one.sequence) for one in found.problems if one.line is not None}


def say(found: Replayed) -> str:
    return "\n".join(map(str, found.problems))


def middle(lines: Lines) -> int:
    """An event in the middle of a run that has some more."""
    streams = [place_of(line) for line in lines]
    return next(n for n, (stream, sequence) in enumerate(streams) if sequence == 2 and (stream, 4) in streams)


REWORDED = {
    "payload": (b'"text":"', b'"text":"not '),
    "actor": (b'"actor":"', b'"actor":"operator:mallory","x":"'),
    "time": (b"T00:00:0", b"T00:00:1"),
    "type": (b'"type":"run.delivery_requested"', b'"type":"run.cancelled"'),
    "unknown type": (b'"type":"run.', b'"type":"run.unheard_of_'),
    "damaged data": (b'"data":{', b'"data":{{'),
    "spaces": (b'"data":{', b'"data": {'),
    "other environment": (b'"environment":"default"', b'"environment":"other"'),
    "other stream": (b'"stream_id":"0', b'"stream_id":"f'),
    "no uuid": (b'"stream_id":"0', b'"stream_id":"x'),
    "no number": (b'"sequence":', b'"sequence":"1","n":'),
    "version": (b'"version":1', b'"version":9'),
    "lost field": (b'"version":1,', b""),
}


@pytest.mark.parametrize("what", REWORDED)
def test_a_changed_line_is_named(damage: Callable[..., Replayed], lines: Lines, what: str) -> None:
    before, after = REWORDED[what]
    place = next(n for n, line in enumerate(lines) if before in line and place_of(line)[1] > (what != "payload"))

    def alter(all: Lines) -> Lines:
        return [line.replace(before, after, 1) if n == place else line for n, line in enumerate(all)]

    for keep_digests in (True, False):
        found = damage(alter, keep_digests=keep_digests)
        assert "by its SHA-256" in say(found)
        assert ("without its file of line digests" in say(found)) is not keep_digests
        if keep_digests:
            assert {one.line for one in found.problems} >= {place + 1}
            if what not in ("other stream", "no uuid", "no number"):
                assert place_of(lines[place]) in named(found)


def test_a_dropped_event_is_named(damage: Callable[..., Replayed], lines: Lines) -> None:
    place = middle(lines)
    stream, sequence = place_of(lines[place])
    for keep_digests in (True, False):
        found = damage(lambda all: all[:place] + all[place + 1 :], keep_digests=keep_digests)
        assert named(found) == {(stream, sequence + 1)}
        assert f"event {sequence + 1} of {stream} comes too early: event {sequence} of its stream" in say(found)
    assert "the manifest tells of" in say(found)


@pytest.mark.parametrize("many", [1, 3])
def test_events_dropped_at_the_end_are_counted(damage: Callable[..., Replayed], many: int) -> None:
    found = damage(lambda all: all[:-many])
    assert f"the last {many} of the exported events are missing" in say(found)


def test_a_dropped_stream_is_missed_before_the_next_one(damage: Callable[..., Replayed], lines: Lines) -> None:
    streams = [place_of(line)[0] for line in lines]
    gone = streams[middle(lines)]
    first = streams.index(gone)
    after = first + streams.count(gone)
    found = damage(lambda all: all[:first] + all[after:])
    assert named(found) == {place_of(lines[after])}
    assert f"{after - first} events before it are missing" in say(found)


@pytest.mark.parametrize("by", [1, 7])
def test_swapped_events_are_named(damage: Callable[..., Replayed], lines: Lines, by: int) -> None:
    first = middle(lines)

    def swap(all: Lines) -> Lines:
        all[first], all[first + by] = all[first + by], all[first]
        return all

    found = damage(swap)
    assert named(found) & {place_of(lines[first]), place_of(lines[first + by])}
    assert {one.line for one in found.problems} & {first + 1, first + 2, first + by + 1}
    assert named(damage(swap, keep_digests=False)) & {place_of(lines[first]), place_of(lines[first + by])}


def test_a_doubled_event_is_named(damage: Callable[..., Replayed], lines: Lines) -> None:
    place = middle(lines)
    for keep_digests in (True, False):
        found = damage(lambda all: [*all[: place + 1], all[place], *all[place + 1 :]], keep_digests=keep_digests)
        assert place_of(lines[place]) in named(found)
        assert place + 2 in {one.line for one in found.problems}


def test_a_forged_event_that_could_follow_is_named(damage: Callable[..., Replayed], lines: Lines) -> None:
    counts = Counter(place_of(line)[0] for line in lines)
    place = next(
        n
        for n, line in enumerate(lines)
        if b'"type":"run.delivery_requested"' in line and place_of(line)[1] == counts[place_of(line)[0]]
    )
    event = formats.parse(lines[place])
    forged = formats.line(evolve(event, sequence=event.sequence + 1))
    found = damage(lambda all: [*all[: place + 1], forged, *all[place + 1 :]])
    assert named(found) == {place_of(forged)}
    assert "was not exported, or not here" in say(found)


def test_streams_in_another_order_are_named(damage: Callable[..., Replayed], lines: Lines) -> None:
    first = place_of(lines[0])[0]
    many = sum(place_of(line)[0] == first for line in lines)
    found = damage(lambda all: all[many:] + all[:many], keep_digests=False)
    assert named(found) == {(first, 1)}
    assert "stands out of order" in say(found)


@pytest.mark.parametrize(
    ("alter", "told"),
    [
        (lambda all: [*all[:-1], all[-1][:-1]], "is no event of an export"),
        (lambda all: [*all, b"\n"], "is no event of an export"),
        (lambda all: [*all[:3], b"\x00\xff garbage\n", *all[3:]], "is no event of an export"),
        (lambda all: [*all[:3], b"[1]\n", *all[3:]], "is no event of an export"),
        (lambda all: [], "the last"),
    ],
)
def test_what_is_no_event_is_found(damage: Callable[..., Replayed], alter: Any, told: str) -> None:
    assert told in say(damage(alter))


def test_damage_everywhere_is_found(exported: tuple[Path, Manifest], tmp_path: Path) -> None:
    path, chance = copied(exported[0], tmp_path), random.Random(5)
    sound = path.read_bytes()
    for _ in range(150):
        damaged, place = bytearray(sound), chance.randrange(len(sound))
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        line = sound[:place].count(b"\n") + 1
        assert {one.line for one in replay(path).problems} & {line, line + 1}, place


def test_problems_are_told_up_to_a_number(exported: tuple[Path, Manifest], tmp_path: Path) -> None:
    path = copied(exported[0], tmp_path)
    path.write_bytes(b"nonsense\n" * 50)
    assert len(replay(path, most=10).problems) == 10


# The manifest.


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("events", 1, "the manifest tells of 1 events"),
        ("streams", 1, "the manifest tells of 1 streams"),
        ("size", 1, "the manifest tells of 1 bytes"),
        ("by_type", {"run.created": 1}, "the manifest tells of 1 run.created"),
        ("sha256", "00", "by its SHA-256"),
        ("events_sha256", "00", "by its SHA-256"),
        ("lines_sha256", "00", "log.jsonl.lines is not the one that was exported"),
        ("first_at", "2020-01-01T00:00:00.000000Z", "first and last times"),
        ("last_at", None, "first and last times"),
        ("environment", "other", "is of environment 'default', not 'other'"),
    ],
)
def test_a_changed_manifest_is_found(
    exported: tuple[Path, Manifest], tmp_path: Path, field: str, value: Any, told: str
) -> None:
    path = copied(exported[0], tmp_path)
    rewrite(path, **{field: value})
    assert told in say(replay(path))


def rewrite(path: Path, **changed: Any) -> None:
    place = manifest.path_of(path)
    place.write_bytes(orjson.dumps(orjson.loads(place.read_bytes()) | changed))


def test_changed_line_digests_are_found(exported: tuple[Path, Manifest], tmp_path: Path) -> None:
    path = copied(exported[0], tmp_path)
    digests = manifest.lines_of(path)
    digests.write_bytes(digests.read_bytes()[8:])
    assert replay(path).problems == (Problem(None, None, None, "log.jsonl.lines is not the one that was exported"),)
    digests.unlink()
    assert replay(path).clean  # the file itself is proven by its own digest


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"export_version": 2}, "has version 2, and this Runlane reads 1; upgrade it"),
        ({"schema_version": 99}, "was made by Runlane 0.1.0, whose events this one may not know"),
        ({"format": "csv"}, "is an export in csv; only jsonl can be replayed"),
        ({"events": "many"}, "is no manifest of an export: events is 'many'"),
        ({"events": True}, "is no manifest of an export"),
        ({"made_at": "yesterday"}, "is no manifest of an export"),
        ({"unheard": "of"}, "is no manifest of an export"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    exported: tuple[Path, Manifest], tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    path = copied(exported[0], tmp_path)
    rewrite(path, **changed)
    with pytest.raises(ConfigurationInvalid, match=told):
        replay(path)


def test_missing_files_are_refused(exported: tuple[Path, Manifest], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"the manifest .* cannot be read: No such file"):
        replay(tmp_path / "none")
    path = copied(exported[0], tmp_path)
    path.unlink()
    with pytest.raises(ConfigurationInvalid, match=r"log.jsonl cannot be read: No such file"):
        replay(path)
    for text in ("", "[]", "null", "{}"):
        manifest.path_of(path).write_text(text)
        with pytest.raises(ConfigurationInvalid, match="is no manifest of an export"):
            replay(path)


# Signatures.


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pairs of keys, a key of another kind, and one with a password."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    folder = tmp_path_factory.mktemp("keys")
    pem, raw = s.Encoding.PEM, s.PrivateFormat.PKCS8
    for name in ("ours", "theirs"):
        key = ed25519.Ed25519PrivateKey.generate()
        (folder / f"{name}.pem").write_bytes(key.private_bytes(pem, raw, s.NoEncryption()))
        public = key.public_key().public_bytes(pem, s.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    secret = key.private_bytes(pem, raw, s.BestAvailableEncryption(b"secret"))
    (folder / "secret.pem").write_bytes(secret)
    other = ec.generate_private_key(ec.SECP256R1())
    (folder / "other.pem").write_bytes(other.private_bytes(pem, raw, s.NoEncryption()))
    (folder / "other.pub").write_bytes(other.public_key().public_bytes(pem, s.PublicFormat.SubjectPublicKeyInfo))
    return folder


@pytest.fixture
def signed(keys: Path, tmp_path: Path) -> Path:
    with Runlane("memory:") as app:
        app.audit.export(tmp_path / "log", key=keys / "ours.pem")
    return tmp_path / "log"


def test_a_signature_is_that_of_its_key_only(keys: Path, signed: Path, exported: tuple[Path, Manifest]) -> None:
    found = replay(signed, public_key=keys / "ours.pub")
    assert (found.clean, found.signed) == (True, True)
    told = found.manifest
    assert told.key is not None
    other = replay(signed, public_key=str(keys / "theirs.pub"))
    assert (say(other), other.signed) == (f"the manifest is signed with another key, {told.key}", False)
    assert say(replay(exported[0], public_key=keys / "ours.pub")) == "the manifest is not signed"
    assert replay(signed).clean


@pytest.mark.parametrize(
    ("field", "value"),
    [("made_by", "operator:x"), ("made_at", "2020-01-01T00:00:00.000000Z"), ("signature", "AAAA"), ("signature", "?")],
)
def test_a_manifest_changed_after_it_was_signed_is_found(keys: Path, signed: Path, field: str, value: str) -> None:
    rewrite(signed, **{field: value})
    assert say(replay(signed, public_key=keys / "ours.pub")) == "the manifest is not as it was signed"


def test_openssl_agrees_about_signature_and_fingerprint(keys: Path, signed: Path, tmp_path: Path) -> None:
    """What somebody without Runlane can check."""
    import base64
    import hashlib

    told = orjson.loads(manifest.path_of(signed).read_bytes())
    (tmp_path / "signature").write_bytes(base64.b64decode(told.pop("signature")))
    (tmp_path / "canonical").write_bytes(orjson.dumps(told, option=orjson.OPT_SORT_KEYS))
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", keys / "ours.pub", "-outform", "DER"], capture_output=True, check=True
    )
    assert hashlib.sha256(der.stdout).hexdigest() == told["key"]
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", keys / "ours.pub", "-rawin"]
    files = ["-in", tmp_path / "canonical", "-sigfile", tmp_path / "signature"]
    assert subprocess.run([*command, *files], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("other", "is no Ed25519 key"),
        ("secret", "is no unencrypted private key"),
        ("ours.pub", "is no unencrypted private key"),
        ("none", "cannot be read"),
    ],
)
def test_a_key_that_will_not_do_is_refused(keys: Path, tmp_path: Path, name: str, told: str) -> None:
    path = keys / name if "." in name else keys / f"{name}.pem"
    with Runlane("memory:") as app, pytest.raises(ConfigurationInvalid, match=told):
        app.audit.export(tmp_path / "log", key=path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "told"), [("other.pub", "is no Ed25519 key"), ("ours.pem", "is no public key"), ("none", "cannot be read")]
)
def test_a_public_key_that_will_not_do_is_refused(keys: Path, signed: Path, name: str, told: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=told):
        replay(signed, public_key=keys / name)


def test_without_the_package_there_are_no_signatures(
    signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for module in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationInvalid, match=r"signatures need a package: pip install 'runlane\[crypto\]'"):
        replay(signed, public_key=tmp_path / "any")
    assert replay(signed).clean
