"""Plant defects and see them killed: ``python -m tests.defects [part of a name …]``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.defects.defects import DEFECTS
from tests.defects.planting import asking, plant


def main(parts: list[str]) -> int:
    """Plant those whose names have one of `parts`, or all; how many survived."""
    chosen = [one for one in DEFECTS if not parts or any(part in one.name for part in parts)]
    survived = 0
    with asking() as asked:
        for defect in chosen:
            with tempfile.TemporaryDirectory(prefix="runlane-defect-") as folder:
                plant(defect, Path(folder))
                verdict = asked.ask(defect, Path(folder))
            survived += not verdict.killed
            print(
                f"{'killed  ' if verdict.killed else 'SURVIVED'}  {defect.name}\n          by {defect.test}", flush=True
            )
            if not verdict.killed:
                print(verdict.said)
    print(f"{len(chosen) - survived} of {len(chosen)} defects killed")
    return survived


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
