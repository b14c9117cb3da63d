"""A virtual environment for each peer, made once and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.catalogue import Peer

#: Where the environments are kept; not under version control.
CACHE = Path(__file__).parents[2] / ".benchmarks" / "peers"
_NEWEST = 14  # of the Pythons 3.x that are looked for
_PATIENCE = 600.0  # seconds for an installation


class Unavailable(Exception):
    """A peer cannot be measured here, and why."""


def python_of(name: str, peer: Peer, cache: Path = CACHE) -> Path:
    """The Python that a peer runs on, in an environment that is made now if there is none for these versions.

    Raises:
        Unavailable: there is no Python that is new enough, or the packages cannot be installed.
    """
    if not peer.requirements:
        return Path(sys.executable)
    base = interpreter(peer.python)
    folder = cache / name
    stamp, wanted = folder / "made-of", "\n".join([_version_of(base) or "", *peer.requirements])
    if not stamp.exists() or stamp.read_text() != wanted:
        _make(base, folder, peer.requirements)
        stamp.write_text(wanted)
    return folder / "bin" / "python"


def interpreter(oldest: tuple[int, int]) -> Path:
    """This Python if it is new enough, else the first that is found which is.

    Raises:
        Unavailable: there is none.
    """
    if sys.version_info[:2] >= oldest:
        return Path(sys.executable)
    for candidate in _candidates(oldest):
        if _version_of(candidate) is not None:
            return candidate
    needed = ".".join(map(str, oldest))
    raise Unavailable(f"needs Python {needed} or newer; there is none on the PATH, in pyenv or known to uv")


def _candidates(oldest: tuple[int, int]) -> Iterator[Path]:
    names = [f"python3.{minor}" for minor in range(oldest[1], _NEWEST + 1)]
    yield from (Path(found) for name in names if (found := shutil.which(name)))
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from (found for name in names for found in sorted(pyenv.glob(f"versions/*/bin/{name}")))
    if shutil.which("uv"):
        command = ["uv", "python", "find", f">={oldest[0]}.{oldest[1]}"]
        yield Path(subprocess.run(command, capture_output=True, text=True).stdout.strip() or "uv-knows-none")


def _version_of(python: Path) -> str | None:
    """What it says; None if it does not run, as pyenv's stand-ins do for versions that are not switched on."""
    try:
        done = subprocess.run([python, "--version"], capture_output=True, text=True, timeout=30)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _make(python: Path, folder: Path, requirements: tuple[str, ...]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([str(python), "-m", "venv", str(folder)], [*pip, *requirements]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
        if done.returncode != 0:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise Unavailable(f"cannot be installed: {''.join(last) or 'pip said nothing'}")
