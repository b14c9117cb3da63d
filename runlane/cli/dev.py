"""``runlane dev``: a worker for a developer's laptop, started anew whenever the source changes.

This process watches and never imports the program; another one does the work (``runlane.cli.dev_worker``), so that a
reload really imports everything again, and a program that cannot be imported stops nobody.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import click

from runlane.cli import completion
from runlane.cli.dev_worker import Teller, Work, tell_stopping, work
from runlane.cli.options import Length
from runlane.cli.program import Program, program_options
from runlane.errors import ConfigurationInvalid

#: Seconds for which a worker process may outlive its attempts before it is killed.
_PATIENCE = 5.0


@click.command(short_help="Work, and start anew when the source changes; for a laptop.")
@program_options
@click.option(
    "--watch",
    "watched",
    multiple=True,
    type=click.Path(exists=True, resolve_path=True, path_type=Path),
    help="A folder whose *.py and pyproject.toml count, or a file; repeatable (default: this folder).",
)
@click.option("--no-reload", is_flag=True, help="Work without watching the source.")
@click.option(
    "--queue",
    "queues",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.queues,
    help="Only this queue; repeatable.",
)
@click.option("--concurrency", default=10, show_default=True, help="The greatest number of attempts at once.")
@click.option(
    "--stop-timeout",
    type=Length(),
    default="3s",
    show_default=True,
    help="How long attempts may go on when it stops; then they are queued again.",
)
@click.option("--lifeline", type=int, hidden=True)
@click.pass_obj
def dev(
    program: Program,
    /,
    watched: tuple[Path, ...],
    no_reload: bool,
    queues: tuple[str, ...],
    concurrency: int,
    stop_timeout: timedelta,
    lifeline: int | None,
) -> None:
    """Work on a laptop: a worker with maintenance that starts anew when the source changes.

    Tables are created or upgraded at the start, each attempt that ends is a line, and Ctrl-C stops it (twice: at
    once). Source that cannot be imported is shown, and the next change tried.
    """
    named = program.named(tasks=True)
    if no_reload or lifeline is not None:
        work(program, Work(named, queues, concurrency, stop_timeout, lifeline, _described(watched)))
        return
    options = [f"--queue={name}" for name in queues] + [f"--watch={path}" for path in watched]
    options += [f"--concurrency={concurrency}", f"--stop-timeout={stop_timeout // timedelta(milliseconds=1)}ms"]
    _Supervisor(_command(program, options), watched, stop_timeout, Teller(program.json)).run()


def _command(program: Program, options: Sequence[str]) -> list[str]:
    shared = [f"--{name}={value}" for name in ("app", "environment") if (value := getattr(program, name))]
    shared += [f"--{name}" for name in ("json", "debug") if getattr(program, name)]
    return [sys.executable, "-m", "runlane", *shared, "dev", *options]


def _described(watched: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in watched) or "this folder"


class _Asked:
    """How often a signal asked for the end; without a lock, which a signal handler must not wait for."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.times += 1

    def is_set(self) -> bool:
        """Whether it was asked at all; watching ends then."""
        return self.times > 0


class _Supervisor:
    """Watches the source, and keeps one worker process on what it is now."""

    def __init__(self, command: list[str], watched: Sequence[Path], stop_timeout: timedelta, teller: Teller) -> None:
        self._command = command
        self._watched = list(watched) or [Path.cwd()]
        self._grace = stop_timeout.total_seconds()
        self._teller = teller
        self._asked = _Asked()
        self._worker: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._ended = False

    def run(self) -> None:
        """Go on until SIGINT or SIGTERM.

        Raises:
            ConfigurationInvalid: watchfiles is not installed.
        """
        batches = self._batches()
        with self._signals():
            try:
                for changed in batches:
                    if self._worker is None:  # watching has begun: nothing that changes from now on is missed
                        self._start()
                    elif changed:
                        self._teller.tell("changed", f"changed: {', '.join(changed)}", paths=changed)
                        self._stop()
                        self._start()
                    else:
                        self._look()
                if self._worker is not None and self._asked.is_set():
                    tell_stopping(self._teller)
            finally:
                self._stop()
        self._teller.tell("stopped", "stopped")

    def _batches(self) -> Iterator[list[str]]:
        """What has changed since the batch before, often nothing."""
        try:
            from watchfiles import DefaultFilter, watch
        except ImportError:
            raise ConfigurationInvalid(
                "reloading needs watchfiles: pip install 'runlane[reload]', or work without it by --no-reload"
            ) from None
        wanted = _filter(self._watched, DefaultFilter())
        folders = {path if path.is_dir() else path.parent for path in self._watched}
        # Not filtered in there: it would not come back while a database file beside the source changes all the time.
        batches = watch(
            *folders, watch_filter=None, stop_event=self._asked, debounce=400, rust_timeout=200, yield_on_timeout=True
        )
        return (sorted({_short(path) for change, path in batch if wanted(change, path)}) for batch in batches)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before: dict[int, Any] = {
            number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self) -> None:
        """Start a worker process.  It hears of this one's end, however that comes, by the pipe that closes then."""
        theirs, self._lifeline = os.pipe()
        # Ctrl-C goes to every process of the terminal, but this one decides how the other stops.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._worker = subprocess.Popen(  # noqa: S603
                [*self._command, f"--lifeline={theirs}"],
                pass_fds=(theirs,),
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(theirs)
        self._ended = False

    def _look(self) -> None:
        """Say once that the worker process has ended by itself."""
        code = None if self._worker is None else self._worker.poll()
        if code is not None and not self._ended:
            self._ended = True
            self._teller.tell(
                "waiting", f"not running (exit code {code}): waiting for a change, Ctrl-C stops", exit_code=code
            )

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        with suppress(ProcessLookupError):
            worker.terminate()
        deadline = monotonic() + self._grace + _PATIENCE
        while worker.poll() is None:
            if self._asked.times > 1 and self._lifeline >= 0:
                self._drop_lifeline()  # not a second signal, which may become one with the first
                deadline = min(deadline, monotonic() + _PATIENCE)
            if monotonic() > deadline:
                self._teller.tell("killed", "the worker did not stop in time and is killed; its runs come back")
                worker.kill()
            with suppress(subprocess.TimeoutExpired):
                worker.wait(0.05)
        self._drop_lifeline()

    def _drop_lifeline(self) -> None:
        """Let the worker process know that nobody waits for its attempts."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def _filter(watched: Sequence[Path], default: Callable[[Any, str], bool]) -> Callable[[Any, str], bool]:
    """Which changes count: source in watched folders, and the very files that were named."""
    files = {str(path) for path in watched if not path.is_dir()}
    folders = [path for path in watched if path.is_dir()]

    def wanted(change: Any, path: str) -> bool:
        if path in files:
            return True
        changed = Path(path)
        if changed.suffix != ".py" and changed.name != "pyproject.toml":
            return False
        # `default` ignores folders by their names; what is above those that are watched has none that matter.
        below = [str(changed.relative_to(folder)) for folder in folders if changed.is_relative_to(folder)]
        return any(default(change, one) for one in below)

    return wanted


def _short(path: str) -> str:
    """As seen from here, where that is shorter."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
