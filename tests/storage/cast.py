"""Who may do what on PostgreSQL: the six roles, what each is for, and logins that have them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.engine import make_url

from runlane import ConfigurationInvalid, Lane, Runlane, SettableClock, TickReport
from runlane.storage import tables
from runlane.storage.database import Database
from runlane.storage.roles import NAMES
from tests.engine.post import Post
from tests.faults.operations import OPERATIONS, OPTIONS, Operation, Prepared

TABLES = sorted(table.name for table in tables.metadata.tables.values())
_ABOUT_RUNS = {
    "runs.get", "runs.get of an event", "runs.get of an instant", "runs.list", "runs.count", "runs.events",
    "runs.attempts", "runs.find_active", "runs.find_current", "runs.wait",
}  # fmt: skip
_BIRTHS = {one.name for one in OPERATIONS if one.path in ("trigger", "trigger_many")}
_ATTEMPTS = {one.name for one in OPERATIONS if one.path in ("execute_next", "execute_delivery", "worker")}
_CANCELS = {one.name for one in OPERATIONS if one.path in ("runs.cancel", "runs.cancel_many")}
_AGAIN = {"runs.rerun", "runs.rerun_many", "runs.retry", "runs.retry_many"}
_CHECKPOINTS = {one.name for one in OPERATIONS if one.path == "audit.checkpoint"}
_ERASURES = {one.name for one in OPERATIONS if one.path in ("audit.erase", "audit.rewrap")}
_SCHEDULES = {"schedules.pause", "schedules.resume", "schedules.trigger"}
_QUEUES = {"queues.pause", "queues.resume"}
_DEFINED = {"schedules.list", "schedules.get", "schedules.preview", "schedules.occurrences", "queues.list"}
#: The operations of tests/faults/operations.py that each role is for.
FOR: dict[str, set[str]] = {
    "producer": _BIRTHS | _ABOUT_RUNS,
    "worker": _ATTEMPTS,
    "maintainer": {"tick", *_CHECKPOINTS},
    "operator": _CANCELS
    | _AGAIN
    | _SCHEDULES
    | _QUEUES
    | _ERASURES
    | _ABOUT_RUNS
    | _DEFINED
    | {"idempotency_keys.reset", "runs.why", "doctor"},
    "pruner": {"runs.prune", "runs.prune into an archive", "runs.prune, dry"},
    "auditor": {one.name for one in OPERATIONS if one.path.startswith("audit.")}
    - {"audit.repair", "audit.rebuild", "audit.rebuild, dry", *_CHECKPOINTS, *_ERASURES}
    | _ABOUT_RUNS
    | _DEFINED
    | {"runs.why", "doctor", "follow", "projections.list", "projections.read"},
}
#: What changes something and takes no other privileges than that, so that the database cannot tell it apart.
ALSO: dict[str, set[str]] = {
    "producer": _AGAIN | {"idempotency_keys.reset"},
    "worker": _CANCELS,
    "maintainer": _BIRTHS | _AGAIN | _CANCELS | _SCHEDULES | {"idempotency_keys.reset"},
    "operator": _BIRTHS,
    "pruner": set(),
    "auditor": set(),
}


class Cast:
    """A migrated database with its roles, a login for each, and applications connected as them."""

    def __init__(self, server: Any) -> None:
        self.url: str = server.migrated()
        self.prefix = f"t{os.getpid()}_{uuid4().hex[:6]}"
        self.clock = SettableClock()
        self._numbers = count(1)
        self._made: list[Runlane] = []
        self._logins: list[str] = []
        self.owner = self.app(self.url)
        self.owner.migrate(roles=self.prefix)
        self.owner.start()
        self.logins = {name: self.login(name) for name in NAMES}

    def role(self, name: str) -> str:
        """The role of this name here."""
        return f"{self.prefix}_{name}"

    def login(self, *names: str) -> str:
        """The URL of a new login that has these roles."""
        login = f"{self.prefix}_login{next(self._numbers)}"
        granted = f" in role {', '.join(map(self.role, names))}" if names else ""
        self.execute(f"create role {login} login{granted}")
        self._logins.append(login)
        return make_url(self.url).set(username=login).render_as_string(hide_password=False)

    def app(self, url: str, *, delivers: bool = False, **options: Any) -> Runlane:
        """An application that connects there."""
        database = Database(url, busy_timeout=5.0, patience=0.1)
        lane = Lane(database, Post()) if delivers else Lane(database)
        made = Runlane(lane, **{"clock": self.clock, **OPTIONS, **options})
        self._made.append(made)
        return made

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Execute SQL as the owner of everything."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def close(self, server: Any) -> None:
        """Close and drop what was made."""
        for app in self._made:
            app.close()
        roles = [*self._logins, *map(self.role, NAMES)]
        self.execute(f"drop owned by {', '.join(roles)}; drop role {', '.join(roles)}")
        server.drop(self.url)

    def stored(self) -> list[tuple[Any, ...]]:
        """How much there is of everything that decides something."""
        names = [name for name in TABLES if name not in ("sessions", "maintainers")]
        of_each = " union all ".join(f"select '{name}', count(*), 0 from runlane.{name}" for name in names)
        return sorted(self.execute(f"{of_each} union all select 'steps', 0, sum(sequence) from runlane.runs"))


@contextmanager
def cast(server: Any) -> Iterator[Cast]:
    """One that is gone afterwards."""
    made = Cast(server)
    try:
        yield made
    finally:
        made.close(server)


def call(operation: Operation, app: Runlane, arguments: Prepared) -> Any:
    """Call it; what a tick tells of is raised."""
    done = operation.call(app, arguments)
    if isinstance(done, TickReport) and done.errors:
        raise ConfigurationInvalid(str(done.errors[0]))
    return done


def is_permitted(connection: psycopg.Connection[Any], statement: str) -> bool:
    """Whether the role may; whatever else is wrong with the statement, which is undone."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(statement)
    except InsufficientPrivilege:
        return False
    except psycopg.Error:
        return True
    return True
