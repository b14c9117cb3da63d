"""Whether a database has the tables, indexes and guards that Runlane made, piece by piece: the comparison."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from attrs import frozen

from runlane.health import Check, Health, worst
from runlane.storage.spans import counted, some

#: What is missing or different and how bad that is; anything else is critical.
_MISSING = {"index": Health.WARNING}
#: What a stranger has added and may do harm; anything else is only told of.
_ADDED = {"rule": Health.CRITICAL, "constraint": Health.WARNING}


@frozen
class Piece:
    """One thing of a schema: what kind, its name, how it is defined.

    `severity` is how bad it is where it is missing, different or, if it is a stranger's, there at all.  `make` is the
    statement that brings it back where it is missing, `mend` the one that puts it right where it is different.
    """

    kind: str
    name: str
    definition: str
    severity: Health | None = None
    make: str | None = None
    mend: str | None = None


@frozen
class Drift:
    """A piece that is ``missing``, ``changed`` or ``extra``."""

    how: str
    piece: Piece
    status: Health
    found: str | None = None

    @property
    def fix(self) -> str | None:
        """The statement that puts it right, if there is one."""
        return {"missing": self.piece.make, "changed": self.piece.mend}.get(self.how)

    @property
    def text(self) -> str:
        """The piece by its kind and name."""
        return f"{self.piece.kind} {self.piece.name}"


Shape = Mapping[tuple[str, str], Piece]


def of(pieces: Iterator[Piece]) -> Shape:
    """Pieces by kind and name."""
    return {(piece.kind, piece.name): piece for piece in pieces}


def plain(sql: str, schema: str | None = None) -> str:
    """SQL without what a server adds or changes when it prints it back."""
    text = " ".join(sql.lower().split())
    if schema is not None:
        for name in (f'"{schema.lower()}"', schema.lower(), "runlane"):
            text = re.sub(rf"(?<![\w\"$]){re.escape(name)}\.", "", text)
    text = re.sub(r"::[a-z_. ]+?(\[\])?(?=[,)\]\s=]|$)", "", text)
    text = re.sub(r"= any \(\s*array\[(.*?)\]\)", r"in (\1)", text)
    text = re.sub(r"\bwith \([^)]*\)", "", text.replace("using btree", ""))
    return re.sub(r"[()\s\"'`;]", "", text)


def compared(expected: Shape, found: Shape) -> list[Drift]:
    """Where the two differ, the worst first."""
    drifts = []
    for key, piece in expected.items():
        there = found.get(key)
        if there is None:
            # A table that is missing is enough; its columns and indexes go without saying.
            table = piece.name.partition(".")[0]
            if piece.kind == "table" or "." not in piece.name or ("table", table) in found:
                drifts.append(Drift("missing", piece, _severity(piece)))
        elif there.definition != piece.definition:
            drifts.append(Drift("changed", piece, _severity(piece), there.definition))
    for key, piece in found.items():
        if key not in expected:
            drifts.append(Drift("extra", piece, piece.severity or _ADDED.get(piece.kind, Health.OK)))
    return sorted(drifts, key=lambda drift: (-drift.status.code, drift.how, drift.text))


def _severity(piece: Piece) -> Health:
    return piece.severity or _MISSING.get(piece.kind, Health.CRITICAL)


def judged(expected: Shape, found: Shape) -> Check:
    """The check of a schema."""
    drifts = compared(expected, found)
    status = worst(*(drift.status for drift in drifts))
    values = {how: [drift.text for drift in drifts if drift.how == how] for how in ("missing", "changed", "extra")}
    remark = f"; not ours: {some(values['extra'])}" if values["extra"] else ""
    if status is Health.OK:
        return Check("schema", status, f"all {counted(len(expected), 'piece')} are as made{remark}", None, values)
    wrong = [drift for drift in drifts if drift.status is not Health.OK]
    told = "; ".join(
        f"{ {'missing': 'missing', 'changed': 'not as made', 'extra': 'put in by somebody else'}[how] }: {some(names)}"
        for how in ("missing", "changed", "extra")
        if (names := [drift.text for drift in wrong if drift.how == how])
    )
    fixes = [drift.fix for drift in wrong if drift.fix is not None]
    advice = "find out who did that, and put it back as schema.sql has it"
    if any(drift.text.startswith(("trigger", "function", "rule")) for drift in wrong):
        advice += "; then `runlane audit verify`, as history may have been changed meanwhile"
    if fixes:
        advice += ": " + "; ".join(fixes[:3])
    return Check("schema", status, told, advice, {**values, "fixes": fixes})
