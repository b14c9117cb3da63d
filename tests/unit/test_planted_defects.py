"""The list of planted defects fits the code as it is: each can be planted, and has its test."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.defects.defect import Defect
from tests.defects.defects import BY_NAME, DEFECTS
from tests.defects.planting import ROOT, spoilt


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(DEFECTS) >= 20


def test_no_module_has_all_of_them() -> None:
    assert max(Counter(defect.file for defect in DEFECTS).values()) <= len(DEFECTS) // 4


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_it_can_be_planted_and_its_test_is_there(defect: Defect) -> None:
    text = spoilt(defect)
    if defect.file.endswith(".py"):
        compile(text, defect.file, "exec")
    file, *name = defect.test.partition("[")[0].split("::")
    assert not name or f"def {name[0]}(" in (ROOT / file).read_text("utf-8")
