"""Every example is a whole program that runs as it stands and prints what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PRINTS = {
    "background.py": """\
order-1: succeeded after 3 attempt(s): {'receipt': 'order-1-4200'}
order-2: failed after 1 attempt(s): cannot charge 0 cents
""",
    "polling.py": "succeeded: sales.csv, released 2 times, 0 failures\n",
    "transaction.py": "order-2: sold out\norder-1: order-1 confirmed\n",
    "asyncio_service.py": """\
holiday: sea -> sea.thumb
holiday: hill -> hill.thumb
holiday: town -> town.thumb
""",
}


def test_each_example_is_checked() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == set(PRINTS)
    index = (EXAMPLES / "README.md").read_text()
    assert all(f"({name})" in index for name in PRINTS)


@pytest.mark.parametrize("name", PRINTS)
def test_it_runs_as_it_stands(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(PRINTS[name])
    assert "Traceback" not in done.stderr
