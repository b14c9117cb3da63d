"""Who takes part: how each is set for the window, and what its tables say of a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.environments import python_of

DRIVERS = Path(__file__).parent / "drivers"
ROOT = Path(__file__).resolve().parents[3]


@frozen
class Contestant:
    """A library, and how it is looked at.

    Args:
        name: of its entry in the catalogue of the benchmarks, which pins the versions.
        settings: what makes the window, for the reader.
        named_by: by what a completion names the job; read in the source of the pinned version.
        states: selects the id, ``pending``, ``done`` or ``failed``, and the second of the outcome, of every job.
        extra: further environment of its processes.
    """

    name: str
    title: str
    settings: str
    named_by: str
    states: str
    extra: Mapping[str, str] = field(factory=dict)

    @property
    def script(self) -> Path:
        """Its driver."""
        return DRIVERS / f"with_{self.name}.py"

    def python(self) -> Path:
        """The Python of its environment, which is made now if it is not there."""
        return python_of(self.name, PEERS[self.name])

    def environment(self) -> dict[str, str]:
        """Ours, but a peer can import nothing of the project."""
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", **self.extra}
        environment.pop("PYTHONPATH", None)
        if self.python() == Path(sys.executable):
            environment["PYTHONPATH"] = str(ROOT)
        return environment


_RUNLANE = """
select id::text, case when status = 'succeeded' then 'done' when finished_at is null then 'pending' else 'failed' end,
       extract(epoch from finished_at)::float8
from runlane.runs
"""
# A job leaves the queue with its outcome, in one statement.
_PGQUEUER = """
select id::text, 'pending', null::float8 from pgqueuer
union all
select job_id::text, case status when 'successful' then 'done' else 'failed' end, extract(epoch from created)::float8
from pgqueuer_log where status in ('successful', 'exception', 'canceled', 'deleted')
"""
# Its log calls the success of a job that was waiting "cancelled".
_PROCRASTINATE = """
select id::text, case when status = 'succeeded' then 'done' when status in ('todo', 'doing') then 'pending'
       else 'failed' end,
       (select extract(epoch from max(at))::float8 from procrastinate_events event
        where event.job_id = job.id and type in ('succeeded', 'failed', 'cancelled', 'aborted')
          and job.status not in ('todo', 'doing'))
from procrastinate_jobs job where task_name = 'work'
"""

CONTESTANTS = {
    one.name: one
    for one in (
        Contestant(
            "runlane",
            "Runlane",
            "`lease_duration` is the window, `heartbeat` a third of it (the default proportion), workers look for lost "
            "runs every second (default); `max_lost` without a bound, as the others have none",
            "the session and the attempt that it was leased to, and the number of the last event",
            _RUNLANE,
        ),
        Contestant(
            "pgqueuer",
            "PgQueuer",
            "`heartbeat_timeout` is the window (it beats twice in it), `dequeue_timeout` 1 s, "
            "`restart_on_failure`, as `pgq run` has them, and a pool of connections",
            "its id: the row is deleted, whoever has claimed it since",
            _PGQUEUER,
        ),
        Contestant(
            "procrastinate",
            "Procrastinate",
            'the periodic task of its guide "Retry stalled jobs", every second and before other jobs; '
            "`seconds_since_heartbeat` and `stalled_worker_timeout` are the window, `update_heartbeat_interval` a "
            "third of it (the default proportion)",
            "its id, if its status is `todo` or `doing`, whoever has fetched it since",
            _PROCRASTINATE,
        ),
    )
}
#: Only for the forced scenario: its workers do not ask their own clocks, so that the database alone has to refuse.
BLIND = Contestant(
    "runlane",
    "Runlane, without the worker's clock",
    CONTESTANTS["runlane"].settings,
    CONTESTANTS["runlane"].named_by,
    _RUNLANE,
    {"PEERS_BLIND": "1"},
)
