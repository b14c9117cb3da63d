"""Defects of one line, as data: each breaks a promise, and a named test has to notice."""

from __future__ import annotations

from tests.defects import evidence, hostility, pure, storing, working
from tests.defects.defect import Defect

DEFECTS: list[Defect] = [
    defect for family in (pure, storing, working, evidence, hostility) for defect in family.DEFECTS
]
BY_NAME = {defect.name: defect for defect in DEFECTS}
