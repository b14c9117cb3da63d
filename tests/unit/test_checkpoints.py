"""Checkpoints as statements: the tree of parts, the file, the signature."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from attrs import asdict, evolve

from runlane import ConfigurationInvalid, checkpoints, merkle
from runlane.checkpoints import Checkpoint, Tree
from runlane.export.signing import Checker, Signer
from tests.keys import make_keys

STATED = Checkpoint("default", 2, 9, 40, 12, "ab" * 32, "5e0f", "cd" * 32, "ef" * 32)


@pytest.mark.parametrize("leaves", [*range(1, 20), 63, 64, 65, 127, 128, 129, 1000, 4097])
def test_the_parts_make_the_same_root_as_the_leaves(leaves: int) -> None:
    tree, whole = Tree(), merkle.Frontier()
    for number in range(1, leaves + 1):
        name = str(UUID(int=number))
        one = checkpoints.leaf(name, 1, number, "ab")
        tree.add((name, 1, number), one)
        whole.add(one)
    parts = tree.parts()
    assert tree.root() == whole.root().hex()
    assert checkpoints.root_of(bytes.fromhex(part.root) for part in parts) == whole.root()
    assert tree.leaves == leaves == parts[-1].position
    assert len(parts) == leaves if leaves < 64 else 32 <= len(parts) < 64 + 1
    assert [part.position for part in parts] == sorted({part.position for part in parts})


def test_a_leaf_is_of_all_that_is_known_of_its_event() -> None:
    one, other = (str(UUID(int=number)) for number in (1, 2))
    facts = (one, 2, 3, "ab")
    others = [(other, 2, 3, "ab"), (one, 3, 3, "ab"), (one, 2, 4, "ab"), (one, 2, 3, "a")]
    assert len({checkpoints.leaf(*one) for one in [facts, *others]}) == 5
    text = b"\x0000000000-0000-0000-0000-000000000001\n2\n3\nab"
    assert checkpoints.leaf(*facts).hex() == sha256(text).hexdigest()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.json"
    file.write_bytes(STATED.dumps())
    assert checkpoints.read(file) == STATED


def changed(**values: Any) -> bytes:
    return orjson.dumps(orjson.loads(STATED.dumps()) | values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is no checkpoint"),
        (b"[]", "is no checkpoint"),
        (b"{}", "is no checkpoint"),
        (b"\xff\xfe", "is no checkpoint"),
        (changed(checkpoint_version=2), "has version 2, and this Runlane reads 1; upgrade it"),
        (changed(number="2"), "number is '2'"),
        (changed(number=True), "number is True"),
        (changed(root=None), "root is None"),
        (changed(extra=1), r"\(extra\)"),
        (changed().replace(b'"root"', b'"roof"'), r"\(roof, root\)"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, text: bytes, says: str) -> None:
    file = tmp_path / "checkpoint.json"
    file.write_bytes(text)
    with pytest.raises(ConfigurationInvalid, match=says):
        checkpoints.read(file)
    with pytest.raises(ConfigurationInvalid, match="cannot be read"):
        checkpoints.read(tmp_path / "missing.json")


def test_a_signature_is_of_every_fact(tmp_path: Path) -> None:
    private, public = make_keys(tmp_path)
    checker = Checker(public)
    known = {checker.fingerprint: checker}
    signed = STATED.signed(Signer(private))
    assert signed.why_unsigned(known) is None
    assert STATED.why_unsigned(known) == "not signed"
    assert "another key" in (signed.why_unsigned({}) or "")
    others = {"environment": "x", "previous": None, "root": "00" * 32, "epoch": "0"}
    for name, value in asdict(STATED).items():
        if name not in ("digest", "key", "signature"):
            other = evolve(signed, **{name: others.get(name, value + 1 if isinstance(value, int) else value)})
            assert other.why_unsigned(known) == "a signature that is not of this key", name
