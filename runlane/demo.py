"""The demonstration: measure every file of Python's standard library in background runs, with a schedule that takes
stock every second and a polling run that waits for the rest and then writes a report.

It is an ordinary program on the public names, and everything it prints can be asked of the database afterwards.
"""

from __future__ import annotations

import ast
import hashlib
import io
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from attrs import frozen

from runlane.app import Runlane
from runlane.context import Context, Release
from runlane.errors import ConfigurationInvalid, NonRetryable
from runlane.policy import Fixed, Retry
from runlane.projections.runs import Run
from runlane.requests import Trigger
from runlane.tasks import Queue, Schedule, Task, task
from runlane.values import RunStatus
from runlane.worker import Worker, check_concurrency

DATABASE = "sqlite:///runlane-demo.db"
REPORT = Path("runlane-demo-report.json")
_BATCH = 500


@frozen
class SourceFile:
    """What a measuring run is about."""

    path: str


@frozen
class Prepared:
    """The runs of a start: how many are new, how many were there, and the one that reports."""

    created: int
    found: int
    report: Run


def standard_library() -> list[Path]:
    """Every ``.py`` file of the running interpreter's standard library, without installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    return [file for file in python_files(root) if not {"site-packages", "dist-packages"} & set(file.parts)]


def python_files(root: Path) -> list[Path]:
    """`root` itself, or every ``.py`` file below it, sorted.

    Raises:
        ConfigurationInvalid: there is none.
    """
    found = [root] if root.is_file() else sorted(root.rglob("*.py"))
    if not found:
        raise ConfigurationInvalid(f"--files {root}: there is no such file, and no .py file below it")
    return found


def measure(payload: SourceFile) -> dict[str, Any]:
    """Size, lines, SHA-256 and top-level imports of a file."""
    data = Path(payload.path).read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise NonRetryable(f"{payload.path} does not decode: {error}") from error
    return {
        "bytes": len(data),
        "lines": text.count("\n") + (not text.endswith("\n") and text != ""),
        "sha256": hashlib.sha256(data).hexdigest(),
        "imports": top_level_imports(text),
    }


def top_level_imports(text: str) -> list[str] | None:
    """The modules that a source imports at its top level; None if it is no Python of today."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return None
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return sorted(found)


class Demo:
    """One start of the demonstration.

    Args:
        database: where the runs are kept.
        files: what to measure; None is the standard library.
        concurrency: the greatest number of attempts at once.
    """

    def __init__(self, database: str = DATABASE, files: Path | None = None, concurrency: int = 10) -> None:
        check_concurrency(concurrency)  # a worker would only say so once all the runs are made
        self._files = standard_library() if files is None else python_files(files)
        self._concurrency = concurrency
        self.measure: Task[..., Any] = task("demo.measure", retry=Retry(3, Fixed("200ms")))(measure)
        self._stock = task("demo.take_stock", schedules=[Schedule("demo-every-second", every="1s")])(self._take_stock)
        self.report: Task[..., Any] = task("demo.report", priority=1)(self._write_report)
        # Short, so that a start after SIGKILL has the lost runs back within seconds.
        self.app = Runlane(
            database,
            queues=[Queue("demo", default=True)],
            tasks=[self.measure, self._stock, self.report],
            environment="demo",
            heartbeat="1s",
            lease_duration="3s",
        )

    def prepare(self) -> Prepared:
        """Make the runs that are not there yet; a second start finds those of the first."""
        self.app.migrate()
        self.app.start()
        known = {run.idempotency_key for run in self.measured()}
        keys = {_key(file): file for file in self._files}
        wanted = [
            Trigger(self.measure, SourceFile(str(file)), idempotency_key=key)
            for key, file in keys.items()
            if key not in known
        ]
        for start in range(0, len(wanted), _BATCH):
            self.app.trigger_many(wanted[start : start + _BATCH])
        together = hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()
        return Prepared(len(wanted), len(keys) - len(wanted), self._reporting(f"report-{together[:40]}"))

    def _reporting(self, key: str) -> Run:
        """The run that reports; one that has failed, as where its file could not be written, has a successor."""
        run = self.app.trigger(self.report, idempotency_key=key).run
        number = 1
        while not (run.status.is_active or run.status is RunStatus.SUCCEEDED):
            number += 1
            run = self.app.trigger(self.report, idempotency_key=f"{key}-{number}").run
        return run

    def measured(self) -> Iterator[Run]:
        """Every measuring run, oldest first."""
        cursor: str | None = None
        while True:
            page = self.app.runs.list(tasks=[self.measure], order="oldest", limit=_BATCH, cursor=cursor)
            yield from page.data
            if (cursor := page.next_cursor) is None:
                return

    @contextmanager
    def working(self) -> Iterator[Worker]:
        """A worker in the background; at the end it stops gracefully, and what is due by then is worked off."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of the files that are measured
            worker = self.app.worker(concurrency=self._concurrency, poll_interval=0.1, maintenance_interval=0.25)
            worker.start()
            try:
                yield worker
            finally:
                worker.stop()
            self.app.worker("drain", concurrency=self._concurrency, maintenance=False).run()

    def _take_stock(self) -> dict[str, int]:
        return {status.value: count for status, count in self.app.runs.count(tasks=[self.measure]).items()}

    def _write_report(self, payload: None, context: Context) -> Release | dict[str, Any]:
        counts = self.app.runs.count(tasks=[self.measure])
        waiting = sum(count for status, count in counts.items() if status.is_active)
        if waiting:
            return context.release("500ms", reason=f"{waiting} files are not measured yet")
        summary = summarize(self.measured())
        keep_report(summary)
        return summary


def keep_report(summary: dict[str, Any]) -> None:
    """Have the file hold this report: that of an earlier start may be gone, or hold the report of other files.

    Raises:
        OSError: it cannot be written.
    """
    data = orjson.dumps(summary, option=orjson.OPT_INDENT_2)
    if not REPORT.is_file() or REPORT.read_bytes() != data:
        REPORT.write_bytes(data)


def summarize(runs: Iterable[Run]) -> dict[str, Any]:
    """Totals over measuring runs that have ended."""
    files, size, lines = 0, 0, 0
    imports: Counter[str] = Counter()
    failures: list[str] = []
    for run in runs:
        if run.status is not RunStatus.SUCCEEDED:
            failures.append(run.payload["path"])
            continue
        files += 1
        size += run.result["bytes"]
        lines += run.result["lines"]
        imports.update(run.result["imports"] or ())
    return {
        "files": files,
        "bytes": size,
        "lines": lines,
        "most_imported": dict(imports.most_common(10)),
        "not_measured": sorted(failures),
    }


def _key(file: Path) -> str:
    """The same for the same version of a file: a start after it has changed measures it anew."""
    facts = file.stat()
    return hashlib.sha256(f"{file}\0{facts.st_size}\0{facts.st_mtime_ns}".encode()).hexdigest()[:40]


def first_and_last(items: Sequence[Any], most: int) -> tuple[Sequence[Any], Sequence[Any], int]:
    """The first and last of `items`, `most` together at the most, and how many lie between."""
    if len(items) <= most:
        return items, (), 0
    half = most // 2
    return items[: most - half], items[-half:], len(items) - most
