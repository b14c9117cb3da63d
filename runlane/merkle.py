"""Merkle trees as RFC 6962 has them, over leaves that come one by one: memory grows with the logarithm of their number.

The root of one leaf is its own hash; that of more is the hash over the roots of the left part, as many leaves as the
greatest power of two below their number, and of the rest.  Leaves and nodes are hashed behind different first bytes, so
that neither can stand for the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256


def leaf(data: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\0" + data).digest()


def node(left: bytes, right: bytes) -> bytes:
    """The hash over two subtrees."""
    return sha256(b"\1" + left + right).digest()


class Frontier:
    """What has to be kept of a tree that grows: the roots of its whole subtrees, the greatest first."""

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []

    def add(self, leaf_hash: bytes) -> None:
        """One more leaf, or the root of one more subtree where all have the same size."""
        self.size += 1
        self._roots.append(leaf_hash)
        number = self.size
        while number % 2 == 0:
            right = self._roots.pop()
            self._roots[-1] = node(self._roots[-1], right)
            number //= 2

    def root(self) -> bytes:
        """The root of all leaves so far."""
        if not self._roots:
            return sha256(b"").digest()
        found = self._roots[-1]
        for left in self._roots[-2::-1]:
            found = node(left, found)
        return found


def path(index: int, size: int, leaves: Iterable[bytes]) -> list[bytes]:
    """What is needed beside the leaf `index` to come to the root of `size` leaves, from below; reads `leaves` once."""
    ranges = _beside(index, size)
    subtrees = [Frontier() for _ in ranges]
    in_order = sorted(range(len(ranges)), key=lambda number: ranges[number])
    place = 0
    for number, leaf_hash in enumerate(leaves):
        if number == index:
            continue
        while number >= ranges[in_order[place]][1]:
            place += 1
        subtrees[in_order[place]].add(leaf_hash)
    return [subtree.root() for subtree in subtrees]


def climb(leaf_hash: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that a leaf and its path lead to.

    Raises:
        ValueError: there is no such leaf, or the path has not the length of one.
    """
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} of {size}")
    ranges = _beside(index, size)
    if len(ranges) != len(path):
        raise ValueError(f"the path of leaf {index} of {size} has {len(ranges)} hashes, not {len(path)}")
    found = leaf_hash
    for (begin, _), other in zip(ranges, path, strict=True):
        found = node(other, found) if begin <= index else node(found, other)
    return found


def _beside(index: int, size: int) -> list[tuple[int, int]]:
    """The subtrees that the path of a leaf is made of, from below: the first leaf of each, and the one behind."""
    found, begin = [], 0
    while size > 1:
        half = 1 << (size - 1).bit_length() - 1
        if index < begin + half:
            found.append((begin + half, begin + size))
            size = half
        else:
            found.append((begin, begin + half))
            begin, size = begin + half, size - half
    return found[::-1]
