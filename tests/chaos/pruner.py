"""Prunes by the command line, as an operator would, and keeps what goes: the judge wants the whole history."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from sqlite3 import Error as SqliteError

import psycopg
from attrs import evolve

from tests.chaos.history import Event, Evidence
from tests.chaos.nursery import ROOT
from tests.chaos.sites import Site


class Pruner:
    """Removes runs that ended `age` seconds ago, every so many seconds.

    Everything in the log is read before each prune.  What is removed then was there: the command is told an instant, as
    it may take its time to start, and that is older than the transactions that a reader cannot see.
    """

    def __init__(self, site: Site, every: float, age: float) -> None:
        self._site = site
        self._every = every
        self._age = age
        self._events: dict[int, Event] = {}
        self._marks = [0, 0]
        self._process: subprocess.Popen[bytes] | None = None
        self._due = time.monotonic() + every
        #: How often it went well, and how often the database was away.
        self.tally: Counter[str] = Counter()

    def look(self) -> None:
        """Prune if it is time; returns at once, the command goes on beside."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self.tally["pruned" if self._process.returncode == 0 else "prune_failed"] += 1
            self._process = None
        if time.monotonic() < self._due:
            return
        with suppress(psycopg.Error, SqliteError):  # away: another time
            before = datetime.now(UTC) - timedelta(seconds=self._age)
            self._keep()
            self._process = self._start(before)
            self._due = time.monotonic() + self._every

    def end(self) -> None:
        """Wait until none is under way, and prune a last time."""
        for due in (0.0, math.inf):
            if self._process is not None:
                self._process.wait(120)
            self._due = due
            self.look()

    def whole(self, evidence: Evidence) -> tuple[Evidence, list[str]]:
        """The evidence with what was pruned, and what is wrong with that."""
        here = {event.position for event in evidence.events}
        gone = [event for position, event in self._events.items() if position not in here]
        pruned = frozenset(event.stream for event in gone)
        told = Counter[str]()
        for event in evidence.events:
            if event.type == "environment.pruned":
                told.update(runs=event.data["runs"], events=event.data["events"])
        findings = []
        if (told["runs"], told["events"]) != (len(pruned), len(gone)):
            findings.append(
                f"{len(pruned):,} runs with {len(gone):,} events are gone, and the log tells of {dict(told)} as pruned"
            )
        self.tally.update(runs_pruned=told["runs"], events_pruned=told["events"])
        events = sorted([*evidence.events, *gone], key=lambda event: event.position)
        return evolve(evidence, events=events, pruned=pruned), findings

    def _keep(self) -> None:
        """All that is new since the look before the last one: a transaction may be slow, but not for that long."""
        for event in self._site.events(self._marks[0]):
            self._events[event.position] = event
        self._marks = [self._marks[1], max(self._events, default=0)]

    def _start(self, before: datetime) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "runlane", "--app", "tests.chaos.jobs:app", "runs", "prune"]
        command += ["--older-than", before.isoformat(), "--reason", "it has ended a while ago"]
        environment = os.environ | {"RUNLANE_CHAOS_URL": self._site.urls[0], "PYTHONPATH": str(ROOT)}
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
