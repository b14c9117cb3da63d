"""The report in HTML: one file that needs no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write(document: dict[str, Any], stem: Path) -> Path:
    """Store the report as ``STEM.html``."""
    file = stem.with_name(stem.name + ".html")
    file.write_text("")
    return file
