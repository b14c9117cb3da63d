"""The documentation is executed: every Python block of the README and of docs/, in order, as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import runlane
from runlane import codec
from runlane.errors import ErrorCode

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]
BLOCK = re.compile(r"^```python( continuation)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def programs(page: Path) -> list[str]:
    """The page's programs; a block marked as continuation goes on with the one before."""
    found: list[str] = []
    for continues, code in BLOCK.findall(page.read_text("utf-8")):
        if continues:
            found[-1] += "\n" + code
        else:
            found.append(code)
    return found


@pytest.mark.parametrize(
    "program", [pytest.param(code, id=f"{page.name}-{n}") for page in PAGES for n, code in enumerate(programs(page))]
)
def test_documented_programs_run(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "documentation"}
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
    page = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    assert [status.value for status in runlane.RunStatus if f"`{status.value}`" not in page] == []


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_public_names_are_exactly_the_promised_ones() -> None:
    assert sorted(runlane.__all__) == runlane.__all__
    for name in runlane.__all__:
        assert getattr(runlane, name).__doc__, f"{name} has no docstring"


def test_stored_names_are_data_and_unique() -> None:
    names = [name for name, _ in codec.STORED_AS.values()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"(run|schedule|environment)\.[a-z_]+", name) for name in names)
