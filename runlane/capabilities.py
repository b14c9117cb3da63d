"""What a lane may promise, in the words that adapters state it with."""

from __future__ import annotations

from enum import StrEnum


class Capability(StrEnum):
    """One promise; what needs it is refused on a lane that does not make it, and nothing is emulated."""

    DURABLE_STATE = "durable_state"
    PROCESS_LOCAL_STATE = "process_local_state"
    READS_RUN_HISTORY = "reads_run_history"
    PRUNES_RUNS = "prunes_runs"
    LEASES_RUNS = "leases_runs"
    CLAIMS_SCHEDULE_OCCURRENCES = "claims_schedule_occurrences"
    PERSISTS_OUTBOX = "persists_outbox"
    ENFORCES_IDEMPOTENCY = "enforces_idempotency"
    ENFORCES_SINGLETON = "enforces_singleton"
    ENFORCES_QUEUE_CONCURRENCY = "enforces_queue_concurrency"
    OPERATOR_READS = "operator_reads"
    PRODUCTION_DURABLE = "production_durable"


#: What a lane adds to the promises of its storage.
OF_THE_LANE = frozenset({Capability.OPERATOR_READS, Capability.PRODUCTION_DURABLE})
#: What a storage may promise; of the first two it promises exactly one.
OF_THE_STORAGE = frozenset(Capability) - OF_THE_LANE
WHERE_STATE_LIVES = frozenset({Capability.DURABLE_STATE, Capability.PROCESS_LOCAL_STATE})
