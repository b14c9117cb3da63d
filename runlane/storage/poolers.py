"""Poolers such as PgBouncer between us and PostgreSQL: how they are noticed, and what is left undone behind one.

In transaction mode each transaction may be on another session of the server, which other clients use in between.  What
belongs to a session is lost there, or worse, stays for somebody else: prepared statements, settings, LISTEN, locks that
outlive a transaction.  A pooler has to give each client a key for cancelling of its own, so the process that the
connection says it talks to is not the one that answers.  Which mode it is in, it does not tell: what is notified from
elsewhere comes to a session that listens, and to nobody if it was only lent.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL

from runlane.errors import ConfigurationInvalid, StorageUnavailable
from runlane.shown import shown
from runlane.storage import engines

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger("runlane.storage")

#: Which part of the documentation has the rest.
SECTION = "docs/deployment.md, Behind PgBouncer"
#: In the URL: after how many executions a statement is prepared, or `none`.
THRESHOLD = "prepare_threshold"
#: Seconds for which a notification is waited for, and for which without a look at whether to go on.
_PATIENCE, _SLICE = 2.0, 0.1
#: How it says that it does not take what we say first; there is a code for all that is wrong with the protocol only.
_REFUSED = "unsupported startup parameter"
_PID = "select pg_backend_pid()"


def threshold(url: URL) -> int | None:
    """After how many executions a statement is prepared, as the URL says, one at least; None for never.

    That some texts hold several statements, which cannot be prepared, is known behind their first execution.

    Raises:
        ConfigurationInvalid: it says something else.
    """
    given = url.query[THRESHOLD]
    if given == "none":
        return None
    if not isinstance(given, str) or not re.fullmatch("[0-9]{1,9}", given):
        raise ConfigurationInvalid(f"{THRESHOLD} in the URL must be a number or none; got {shown(given)}")
    return max(1, int(given))


def attach(engine: Engine, url: URL) -> None:
    """Let connections of this engine notice a pooler, and ask for nothing that it cannot do."""
    dialect: Any = engine.dialect
    plain, refused = dialect.connect, threading.Event()

    def connect(*given: Any, **parameters: Any) -> Any:
        if refused.is_set():
            parameters.pop("options", None)
        try:
            return plain(*given, **parameters)
        except dialect.loaded_dbapi.OperationalError as error:
            if _REFUSED not in str(error) or "options" not in parameters:
                raise
            if "options" in url.query:
                raise ConfigurationInvalid(
                    "the pooler takes no options=; leave them out of the URL and give them to the role"
                    f" (`alter role … set …`): {SECTION}"
                ) from error
        refused.set()
        del parameters["options"]
        return plain(*given, **parameters)

    dialect.connect = connect  # no listener to do_connect: the first one that connects has the others unheard

    @event.listens_for(engine, "connect")
    def connected(driver: Any, entry: Any) -> None:
        driver.autocommit = True
        entry.info["pooled"] = is_between(driver)
        if entry.info["pooled"]:
            if THRESHOLD not in url.query:
                driver.prepare_threshold = None
            driver.execute("set timezone to 'UTC'", prepare=False)  # poolers know of it, and carry it along
        driver.autocommit = False


def is_between(connection: psycopg.Connection[Any]) -> bool:
    """Whether somebody else answers than who was connected to."""
    found = connection.execute(_PID, prepare=False).fetchone()
    return found is not None and found[0] != connection.info.backend_pid


def keeps_sessions(
    connection: psycopg.Connection[Any],
    connect: Callable[[], psycopg.Connection[Any]],
    is_wanted: Callable[[], bool] = lambda: True,
) -> bool:
    """Whether a connection that commits each statement stays on one session of the server, or nobody is between.

    Args:
        connect: makes another such connection.
        is_wanted: whether the answer is of interest still; if not, it may be wrong.
    """
    if not is_between(connection):
        return True
    channel = f"runlane_probe_{secrets.token_hex(8)}"
    connection.execute(f"listen {channel}".encode(), prepare=False)
    with connect() as other:
        other.execute("select pg_notify(%s, '')", (channel,), prepare=False)
    heard, deadline = False, monotonic() + _PATIENCE
    while not heard and monotonic() < deadline and is_wanted():
        heard = any(True for _ in connection.notifies(timeout=_SLICE, stop_after=1))
    connection.execute(f"unlisten {channel}".encode(), prepare=False)
    return heard


def require_session(engine: Engine, where: str, what: str) -> None:
    """Go on only if connections of this engine stay on one session of the server for `what`.

    Raises:
        ConfigurationInvalid: a pooler in transaction mode is between.
    """
    import psycopg

    with engine.connect() as connection:
        if not connection.info.get("pooled"):
            return
    _, told = engine.dialect.create_connect_args(engine.url)
    parameters: dict[str, Any] = {"connect_timeout": 10, **told}
    parameters.pop("context", None)  # SQLAlchemy's adapters

    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(**parameters, autocommit=True)

    try:
        with connect() as probing:
            if keeps_sessions(probing, connect):
                return
    except psycopg.Error as error:
        raise StorageUnavailable(f"{where} cannot be reached: {str(error).splitlines()[0]}") from error
    raise ConfigurationInvalid(
        f"{where} is reached through a pooler in transaction mode, and {what} needs a session of its own; repeat this"
        f" with a URL that leads to PostgreSQL itself ({SECTION})"
    )


def check(connection: Connection, wanted: dict[str, str], where: str) -> None:
    """See whether a session behind a pooler has the settings that ours have by themselves; says so where it has not.

    Raises:
        ConfigurationInvalid: transactions would not see what others have committed.
    """
    if not connection.info.get("pooled"):
        return
    asked = ", ".join(f"current_setting('{name}')" for name in wanted)
    *found, role = connection.exec_driver_sql(f"select {asked}, quote_ident(current_user)").one()
    missing = [name for name, value in zip(wanted, found, strict=True) if value != wanted[name]]
    remedy = "; ".join(f"alter role {role} set {name} = '{wanted[name]}'" for name in missing)
    if engines.ISOLATION in missing:
        raise ConfigurationInvalid(
            f"{where} is reached through a pooler, and its transactions are not {wanted[engines.ISOLATION]}: {remedy}"
            f" ({SECTION})"
        )
    if missing:
        log.warning(
            "%s is reached through a pooler, which leaves out settings that keep claims quick: %s; then let the pooler"
            " connect anew (%s)",
            where,
            remedy,
            SECTION,
        )
