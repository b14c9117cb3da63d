"""The documentation is executed: every Python block of the README and of docs/, in order, as a reader would."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import runlane
from runlane import codec
from runlane.capabilities import Capability
from runlane.errors import ErrorCode

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]
BLOCK = re.compile(r"^```python( continuation)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def programs(page: Path, *, continuations: bool = True) -> list[str]:
    """The page's programs; a block marked as continuation goes on with the one before, or is left out."""
    found: list[str] = []
    for continues, code in BLOCK.findall(page.read_text("utf-8")):
        if not continues:
            found.append(code)
        elif continuations:
            found[-1] += "\n" + code
    return found


@pytest.mark.parametrize(
    "program", [pytest.param(code, id=f"{page.name}-{n}") for page in PAGES for n, code in enumerate(programs(page))]
)
def test_documented_programs_run(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = program.splitlines()

    def compare(*values: object) -> None:
        """What is printed is what the comment behind it begins with; a … there stands for anything."""
        text = " ".join(map(str, values))
        _, _, comment = lines[sys._getframe(1).f_lineno - 1].partition("  # ")
        known, dots, _ = comment.partition("…")
        assert text.startswith(known) if dots else comment.startswith(text) or not comment, (text, comment)

    names: dict[str, object] = {"__name__": "documentation", "print": compare}
    try:
        exec(compile(program, "documentation", "exec"), names)
    finally:
        for value in list(names.values()):
            if isinstance(value, runlane.Runlane):
                value.close()


def test_the_readme_opens_with_the_example_of_the_specification(capsys: pytest.CaptureFixture[str]) -> None:
    example = programs(ROOT / "README.md")[0]
    assert "print(app.runs.get(triggered.run.id).status)      # succeeded" in example


def test_every_error_code_is_documented() -> None:
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    assert [code.value for code in ErrorCode if f"`{code.value}`" not in page] == []


def test_every_run_status_is_documented() -> None:
    page = (ROOT / "docs" / "tasks-and-runs.md").read_text("utf-8")
    assert [status.value for status in runlane.RunStatus if f"`{status.value}`" not in page] == []


def test_every_capability_of_a_lane_is_documented() -> None:
    page = (ROOT / "docs" / "lanes.md").read_text("utf-8")
    assert [flag.value for flag in Capability if f"`{flag.value}`" not in page] == []


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target, place in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
            if not target.startswith("http"):
                there = page.parent / target if target else page
                assert there.exists(), f"{page.name} links to {target}"
                assert not place or place in anchors(there), f"{page.name} links to {target}#{place}"


def anchors(page: Path) -> set[str]:
    """The places of a page that a link may name: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_concept_is_reached_from_the_overview() -> None:
    overview = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        if page.name != "concepts.md":
            assert f"({page.name})" in overview, f"docs/concepts.md does not lead to {page.name}"
            assert f"(docs/{page.name})" in readme, f"the README does not lead to {page.name}"


def test_every_test_that_a_page_names_is_there() -> None:
    missing = []
    for page in PAGES:
        for file, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text("utf-8")):
            place = ROOT / file
            if not place.exists() or (name and f"def {name}(" not in place.read_text("utf-8")):
                missing.append(f"{page.name}: {file}::{name}")
    assert missing == []


def test_public_names_are_exactly_the_promised_ones() -> None:
    assert sorted(runlane.__all__) == runlane.__all__
    for name in runlane.__all__:
        assert getattr(runlane, name).__doc__, f"{name} has no docstring"


def test_stored_names_are_data_and_unique() -> None:
    names = [name for name, _ in codec.STORED_AS.values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", name) for name in names)
