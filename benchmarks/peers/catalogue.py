"""The peers: what is installed of each, what it keeps of a finished job, and what it does not do.

The versions are pinned here and nowhere else.  What is said of a peer was read in its source at that version.
"""

from __future__ import annotations

from attrs import frozen

_PSYCOPG = "psycopg[binary,pool]==3.3.9"
_UVLOOP = "uvloop==0.23.0"


@frozen
class Peer:
    """A job library for PostgreSQL.

    Args:
        requirements: what its environment holds; empty for Runlane, which is measured as it is checked out.
        keeps: what is left of a job that has succeeded.
        lacks: what a reader of the figures should know that it does not do.
        python: the oldest Python that it runs on.
    """

    title: str
    requirements: tuple[str, ...]
    keeps: str
    lacks: str
    python: tuple[int, int] = (3, 11)


PEERS = {
    "runlane": Peer(
        "Runlane",
        (),
        "the whole history: an event with its data for every change of state, and the run that they fold to, with its "
        "result; the database refuses changes of events",
        "no workflows of several steps, no rate limits, no web dashboard",
    ),
    "pgqueuer": Peer(
        "PgQueuer",
        ("pgqueuer==1.6.0", "asyncpg==0.32.0", _PSYCOPG, _UVLOOP),
        "a log row per state (queued, picked, successful) without payload; the job itself is deleted",
        "no fencing (a completion names the job, not the claim), no results, payloads are bytes, no limits per key",
    ),
    "chancy": Peer(
        "Chancy",
        ("chancy==0.26.0", _PSYCOPG, _UVLOOP),
        "one row, overwritten; pruned after a day by default",
        "no history, no results, no limit over all workers; finished states wait in memory first, by default for 1 s",
    ),
    "oban": Peer(
        "Oban",
        ("oban==0.7.0", _PSYCOPG, _UVLOOP),
        "one row, overwritten, with its errors; pruned after a day by default",
        "no history, no results; unique jobs, limits over all workers, workflows and bulk acknowledgement are paid for",
        (3, 12),
    ),
    "dbos": Peer(
        "DBOS",
        ("dbos==3.4.0", "sqlalchemy==2.1.9", _PSYCOPG, _UVLOOP),
        "the workflow's row, overwritten, and a row each of its input and its output",
        "no history of states, no bulk call; queues poll; recovery by other machines and retention are paid for",
    ),
    "procrastinate": Peer(
        "Procrastinate",
        ("procrastinate==3.10.0", _PSYCOPG, _UVLOOP),
        "the job's row, overwritten, and an event row per change of state with its type and time",
        "no fencing (a completion looks at the status only), no results; jobs of dead workers need a task of your own",
    ),
}
