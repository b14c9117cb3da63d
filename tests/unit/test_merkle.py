"""Merkle trees: the root is that of RFC 6962, whatever the number of leaves, and a path proves its leaf alone."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runlane.merkle import Frontier, climb, leaf, path

leaves = st.lists(st.binary(max_size=8), min_size=1, max_size=70)


def defined(data: list[bytes]) -> bytes:
    """The root, word by word as section 2.1 of the RFC defines it."""
    if not data:
        return sha256(b"").digest()
    if len(data) == 1:
        return sha256(b"\x00" + data[0]).digest()
    k = 1
    while 2 * k < len(data):
        k *= 2
    return sha256(b"\x01" + defined(data[:k]) + defined(data[k:])).digest()


def root_of(hashes: list[bytes]) -> bytes:
    tree = Frontier()
    for one in hashes:
        tree.add(one)
    return tree.root()


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_the_root_is_the_one_of_the_rfc(data: list[bytes]) -> None:
    assert root_of([leaf(one) for one in data]) == defined(data)


def test_a_known_root() -> None:
    """Seven leaves, whose root is published with the reference implementation of certificate transparency."""
    data = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
    hashes = [leaf(bytes.fromhex(one)) for one in data]
    assert root_of(hashes).hex() == "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"


@given(leaves, st.data())
def test_a_path_leads_from_its_leaf_to_the_root(data: list[bytes], draw: st.DataObject) -> None:
    hashes = [leaf(one) for one in data]
    index = draw.draw(st.integers(0, len(hashes) - 1))
    found = path(index, len(hashes), iter(hashes))
    assert climb(hashes[index], index, len(hashes), found) == defined(data)
    assert len(found) <= (len(hashes) - 1).bit_length()


@given(leaves, st.data())
def test_no_other_leaf_and_no_other_place_fit_a_path(data: list[bytes], draw: st.DataObject) -> None:
    hashes = [leaf(bytes([number]) + one) for number, one in enumerate(data)]
    index, other = (draw.draw(st.integers(0, len(hashes) - 1)) for _ in range(2))
    found, root = path(index, len(hashes), hashes), root_of(hashes)
    assert climb(leaf(b"another"), index, len(hashes), found) != root
    if other != index:
        assert climb(hashes[other], index, len(hashes), found) != root
    for place in range(len(found)):
        changed = [*found[:place], leaf(found[place]), *found[place + 1 :]]
        assert climb(hashes[index], index, len(hashes), changed) != root


@given(st.integers(1, 1000), st.integers(0, 20), st.integers(-3, 1003))
def test_a_path_of_another_length_is_refused(size: int, length: int, index: int) -> None:
    right = len(path(index, size, [b""] * size)) if 0 <= index < size else None
    if length != right:
        with pytest.raises(ValueError):
            climb(b"", index, size, [b""] * length)
