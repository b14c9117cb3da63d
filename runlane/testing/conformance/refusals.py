"""What has to be refused on a lane that does not promise it: definitions, and calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from runlane.app import Runlane
from runlane.capabilities import Capability
from runlane.tasks import Queue, Task
from runlane.testing.conformance import jobs
from runlane.values import new_run_id

_ID = new_run_id()

#: Options of a runtime, each refused when it is made.
DEFINITIONS: Sequence[tuple[Capability, dict[str, Any]]] = (
    (Capability.ENFORCES_QUEUE_CONCURRENCY, {"queues": [Queue("few", default=True, concurrency_limit=1)]}),
    (Capability.CLAIMS_SCHEDULE_OCCURRENCES, {"tasks": [jobs.minutely]}),
    (Capability.ENFORCES_IDEMPOTENCY, {"tasks": [jobs.idempotent]}),
    (Capability.ENFORCES_SINGLETON, {"tasks": [jobs.single]}),
)

#: Calls on a runtime with a task, each refused before anything is written.
CALLS: Sequence[tuple[Capability, Callable[[Runlane, Task[..., Any]], object]]] = (
    (Capability.ENFORCES_IDEMPOTENCY, lambda app, task: app.trigger(task, idempotency_key="k")),
    (Capability.ENFORCES_IDEMPOTENCY, lambda app, task: app.runs.find_current(task, "k")),
    (Capability.ENFORCES_IDEMPOTENCY, lambda app, task: app.idempotency_keys.reset(task, "k")),
    (Capability.ENFORCES_SINGLETON, lambda app, task: app.trigger(task, singleton_key="k")),
    (Capability.ENFORCES_SINGLETON, lambda app, task: app.runs.find_active(task, singleton_key="k")),
    (Capability.LEASES_RUNS, lambda app, task: app.run_now(task)),
    (Capability.LEASES_RUNS, lambda app, task: app.execute_next()),
    (Capability.LEASES_RUNS, lambda app, task: app.worker("drain")),
    (Capability.LEASES_RUNS, lambda app, task: app.tick()),
    (Capability.OPERATOR_READS, lambda app, task: app.runs.list()),
    (Capability.OPERATOR_READS, lambda app, task: app.runs.count()),
    (Capability.OPERATOR_READS, lambda app, task: app.runs.cancel_many()),
    (Capability.OPERATOR_READS, lambda app, task: app.queues.list()),
    (Capability.READS_RUN_HISTORY, lambda app, task: app.runs.events(_ID)),
    (Capability.READS_RUN_HISTORY, lambda app, task: app.runs.attempts(_ID)),
    (Capability.READS_RUN_HISTORY, lambda app, task: app.audit.verify()),
    (Capability.PRUNES_RUNS, lambda app, task: app.runs.prune("30d")),
    (Capability.CLAIMS_SCHEDULE_OCCURRENCES, lambda app, task: app.schedules.list()),
    (Capability.CLAIMS_SCHEDULE_OCCURRENCES, lambda app, task: app.schedules.trigger("minutely")),
)
