"""A PgBouncer in transaction mode before the server of a chaos, to be killed and halted."""

from __future__ import annotations

from pathlib import Path

import psycopg

from runlane.storage.engines import settings
from tests.bouncer import Bouncer
from tests.chaos.server import OwnPostgres

#: Fewer connections to the server than its clients have, and no long grudge against a server that was away: by default
#: PgBouncer does not try it again for 15 seconds.
_SETTINGS = {"default_pool_size": 5, "server_login_retry": 1, "query_wait_timeout": 10}


class OwnBouncer:
    """Lives as long as the episode; use it from the main thread, with which it dies.

    Args:
        folder: a new one, for its files and its socket.
        server: which runs, with the database; what its connections have to be like is given to the database, as is
            written in docs/deployment.md, since a pooler passes on nothing that a client asks for.
    """

    def __init__(self, folder: Path, server: OwnPostgres, database: str) -> None:
        for name, value in settings(synchronous=True).items():
            server.execute(f"alter database {database} set {name} = '{value}'")
        folder.mkdir()
        self.bouncer = Bouncer(folder, server.url(database), **_SETTINGS)
        self.bouncer.start()
        self._halting: psycopg.Connection[tuple[object, ...]] | None = None
        #: How clients reach the database by way of it.
        self.url = self.bouncer.url(database)

    def kill(self) -> None:
        """SIGKILL; whoever was connected finds out at once, the server too."""
        self.bouncer.kill()
        self._forget()

    def start(self) -> None:
        """Start it again, if it does not run, and let everybody through, if it was halted."""
        self.bouncer.start()
        self.resume()

    def pause(self) -> bool:
        """Let transactions end and begin no more, as for a restart of the server; whether it was not halted already."""
        if self._halting is not None:
            return False
        self._halting = self.bouncer.console()
        self._halting.pgconn.send_query(b"pause")  # answered when the last transaction is over, which may take long
        return True

    def resume(self) -> None:
        """Go on after that."""
        if self._halting is not None:
            self.bouncer.asked("resume")
            self._forget()

    def close(self) -> None:
        """End."""
        self.kill()

    def _forget(self) -> None:
        if self._halting is not None:
            self._halting.close()
            self._halting = None
