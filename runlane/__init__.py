"""Runlane: a durable run engine.  User code is not the durable thing; a run is."""

from runlane.aesgcm import AesGcm
from runlane.aio import AsyncRunlane, AsyncWorker
from runlane.app import Runlane
from runlane.attribution import Attribution
from runlane.capabilities import Capability
from runlane.checkpoints import Checkpoint
from runlane.clock import SettableClock
from runlane.context import Context, Release, Signal
from runlane.engine.deliver import Delivery, DeliveryOutcome, IgnoreReason
from runlane.engine.erase import Erasure
from runlane.engine.tick import TickReport
from runlane.engine.trigger import Triggered
from runlane.errors import (
    AdapterContractViolation,
    AttemptTimeout,
    CapabilityUnsupported,
    ConfigurationInvalid,
    ConflictKind,
    ErrorCode,
    HistoryLimit,
    InternalError,
    InvariantViolation,
    LeaseLost,
    NonRetryable,
    OperationCancelled,
    PayloadErased,
    PayloadInvalid,
    PayloadUnreadable,
    ProjectionFailed,
    QueueCapacityExceeded,
    RunlaneError,
    RunNotFound,
    RunStateInvalid,
    ScheduleNotFound,
    StorageConflict,
    StorageUnavailable,
    SubjectNotFound,
    TaskFailed,
    TaskNotFound,
    TransportUnavailable,
)
from runlane.health import Check, Diagnosis, Health, Thresholds
from runlane.inline import Executed
from runlane.lanes import Lane, memory_lane, postgres_lane, sqlite_lane
from runlane.payload_codec import CodecContext, KeyedCodec, PayloadCodec, Sealed, SealedReason
from runlane.policy import Exponential, Fixed, Retry
from runlane.projections.attempts import Attempt
from runlane.projections.differences import FieldChange, RunDiff
from runlane.projections.fleet import Fleet, HeldKey, Holding, KeyKind
from runlane.projections.occurrences import Occurrence, OccurrenceOutcome
from runlane.projections.runs import Run
from runlane.projections.timeline import Moment
from runlane.pruning import Pruned
from runlane.reading import Page
from runlane.requests import Trigger
from runlane.sealing import Checkpointed
from runlane.storage.findings import Difference, Verification
from runlane.storage.rebuild import Rebuilt
from runlane.tasks import Queue, Schedule, Task, task
from runlane.values import Actor, Failure, Lease, RunStatus, TriggerOutcome
from runlane.wakeup import PublishOutcome, PublishStatus, Wakeup
from runlane.worker import Worker

__all__ = [
    "Actor",
    "AdapterContractViolation",
    "AesGcm",
    "AsyncRunlane",
    "AsyncWorker",
    "Attempt",
    "AttemptTimeout",
    "Attribution",
    "Capability",
    "CapabilityUnsupported",
    "Check",
    "Checkpoint",
    "Checkpointed",
    "CodecContext",
    "ConfigurationInvalid",
    "ConflictKind",
    "Context",
    "Delivery",
    "DeliveryOutcome",
    "Diagnosis",
    "Difference",
    "Erasure",
    "ErrorCode",
    "Executed",
    "Exponential",
    "Failure",
    "FieldChange",
    "Fixed",
    "Fleet",
    "Health",
    "HeldKey",
    "HistoryLimit",
    "Holding",
    "IgnoreReason",
    "InternalError",
    "InvariantViolation",
    "KeyKind",
    "KeyedCodec",
    "Lane",
    "Lease",
    "LeaseLost",
    "Moment",
    "NonRetryable",
    "Occurrence",
    "OccurrenceOutcome",
    "OperationCancelled",
    "Page",
    "PayloadCodec",
    "PayloadErased",
    "PayloadInvalid",
    "PayloadUnreadable",
    "ProjectionFailed",
    "Pruned",
    "PublishOutcome",
    "PublishStatus",
    "Queue",
    "QueueCapacityExceeded",
    "Rebuilt",
    "Release",
    "Retry",
    "Run",
    "RunDiff",
    "RunNotFound",
    "RunStateInvalid",
    "RunStatus",
    "Runlane",
    "RunlaneError",
    "Schedule",
    "ScheduleNotFound",
    "Sealed",
    "SealedReason",
    "SettableClock",
    "Signal",
    "StorageConflict",
    "StorageUnavailable",
    "SubjectNotFound",
    "Task",
    "TaskFailed",
    "TaskNotFound",
    "Thresholds",
    "TickReport",
    "TransportUnavailable",
    "Trigger",
    "TriggerOutcome",
    "Triggered",
    "Verification",
    "Wakeup",
    "Worker",
    "memory_lane",
    "postgres_lane",
    "sqlite_lane",
    "task",
]
