"""Everything Runlane raises: one class per code, branch on ``error.code``.

RunlaneError
├── fix your code     ConfigurationInvalid, PayloadInvalid, TaskNotFound, CapabilityUnsupported
├── the answer is no  RunNotFound, ScheduleNotFound, SubjectNotFound, RunStateInvalid, QueueCapacityExceeded,
│                     PayloadErased, PayloadUnreadable
├── try again         StorageConflict, StorageUnavailable, TransportUnavailable, ProjectionFailed
├── an attempt ended  TaskFailed (NonRetryable), AttemptTimeout, LeaseLost, OperationCancelled, HistoryLimit
└── call us           InvariantViolation, AdapterContractViolation, InternalError
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar


class ErrorCode(StrEnum):
    """The stable names of errors, in failures, logs and ``error.code``."""

    ADAPTER_CONTRACT_VIOLATION = "adapter_contract_violation"
    CAPABILITY_UNSUPPORTED = "capability_unsupported"
    CONFIGURATION_INVALID = "configuration_invalid"
    INTERNAL_ERROR = "internal_error"
    INVARIANT_VIOLATION = "invariant_violation"
    OPERATION_CANCELLED = "operation_cancelled"
    PAYLOAD_INVALID = "payload_invalid"
    QUEUE_CAPACITY_EXCEEDED = "queue_capacity_exceeded"
    RUN_NOT_FOUND = "run_not_found"
    RUN_STATE_INVALID = "run_state_invalid"
    SCHEDULE_NOT_FOUND = "schedule_not_found"
    STORAGE_CONFLICT = "storage_conflict"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    TASK_FAILED = "task_failed"
    TASK_NOT_FOUND = "task_not_found"
    TRANSPORT_UNAVAILABLE = "transport_unavailable"
    LEASE_LOST = "lease_lost"
    ATTEMPT_TIMEOUT = "attempt_timeout"
    HISTORY_LIMIT = "history_limit"
    PAYLOAD_ERASED = "payload_erased"
    PAYLOAD_UNREADABLE = "payload_unreadable"
    SUBJECT_NOT_FOUND = "subject_not_found"
    PROJECTION_FAILED = "projection_failed"


class ConflictKind(StrEnum):
    """What a ``StorageConflict`` was about."""

    SEQUENCE = "sequence"
    IDEMPOTENCY_OWNER = "idempotency_owner"
    SINGLETON_OWNER = "singleton_owner"
    LEASE = "lease"
    SCHEDULE_OCCURRENCE = "schedule_occurrence"
    OUTBOX_CLAIM = "outbox_claim"
    RUN_EXISTS = "run_exists"


class RunlaneError(Exception):
    """Something Runlane could not do.

    Args:
        message: one sentence that names what was wrong and what would be right.
        retryable: whether the same call may succeed later; raised by a handler, whether the run may be retried.
        meta: facts for programs, JSON-serialisable.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL_ERROR
    default_retryable: ClassVar[bool] = False

    def __init__(
        self, message: str = "", *, retryable: bool | None = None, meta: Mapping[str, Any] | None = None
    ) -> None:
        self.message = message or (type(self).__doc__ or "").splitlines()[0]
        self.retryable = self.default_retryable if retryable is None else retryable
        self.meta: dict[str, Any] = dict(meta or {})
        super().__init__(self.message)


class AdapterContractViolation(RunlaneError):
    """A storage or transport adapter broke its interface."""

    code = ErrorCode.ADAPTER_CONTRACT_VIOLATION


class CapabilityUnsupported(RunlaneError):
    """The lane does not promise this feature."""

    code = ErrorCode.CAPABILITY_UNSUPPORTED


class ConfigurationInvalid(RunlaneError):
    """An option, a definition or an argument is not valid; repeating the call unchanged is pointless."""

    code = ErrorCode.CONFIGURATION_INVALID


class InternalError(RunlaneError):
    """Something unexpected that has no code of its own."""

    code = ErrorCode.INTERNAL_ERROR


class InvariantViolation(RunlaneError):
    """A state or a transition that cannot legitimately exist: a bug or a corrupted log."""

    code = ErrorCode.INVARIANT_VIOLATION


class OperationCancelled(RunlaneError):
    """Work was asked to stop before it had finished."""

    code = ErrorCode.OPERATION_CANCELLED


class PayloadInvalid(RunlaneError):
    """The payload does not fit the task's payload type, or is no storable JSON."""

    code = ErrorCode.PAYLOAD_INVALID


class QueueCapacityExceeded(RunlaneError):
    """A bounded queue has no free slot."""

    code = ErrorCode.QUEUE_CAPACITY_EXCEEDED
    default_retryable = True


class RunNotFound(RunlaneError):
    """No run has this id in this environment."""

    code = ErrorCode.RUN_NOT_FOUND


class RunStateInvalid(RunlaneError):
    """The run's status does not allow this operation."""

    code = ErrorCode.RUN_STATE_INVALID


class ScheduleNotFound(RunlaneError):
    """No schedule has this id in this environment."""

    code = ErrorCode.SCHEDULE_NOT_FOUND


class StorageConflict(RunlaneError):
    """Somebody else was faster; ``kind`` says about what."""

    code = ErrorCode.STORAGE_CONFLICT
    default_retryable = True

    def __init__(
        self,
        message: str = "",
        *,
        kind: ConflictKind,
        retryable: bool | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable, meta=meta)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), self.message, kind=self.kind), (), self.__dict__


class StorageUnavailable(RunlaneError):
    """The database cannot be reached, is full, or is locked for too long."""

    code = ErrorCode.STORAGE_UNAVAILABLE
    default_retryable = True


class TaskFailed(RunlaneError):
    """A handler failed; raised by a handler, it may be retried while the budget lasts."""

    code = ErrorCode.TASK_FAILED
    default_retryable = True


class NonRetryable(TaskFailed):
    """Raised by a handler: the run fails at once, whatever its retry budget."""

    default_retryable = False


class TaskNotFound(RunlaneError):
    """No task with this id is registered here."""

    code = ErrorCode.TASK_NOT_FOUND


class TransportUnavailable(RunlaneError):
    """Wakeups cannot be published at the moment."""

    code = ErrorCode.TRANSPORT_UNAVAILABLE
    default_retryable = True


class LeaseLost(RunlaneError):
    """The attempt's lease has passed to somebody else."""

    code = ErrorCode.LEASE_LOST


class AttemptTimeout(RunlaneError):
    """The attempt took longer than the task's timeout."""

    code = ErrorCode.ATTEMPT_TIMEOUT
    default_retryable = True


class HistoryLimit(RunlaneError):
    """The run's history has reached its greatest length."""

    code = ErrorCode.HISTORY_LIMIT


class PayloadErased(RunlaneError):
    """The payload's subject was erased; nothing can read it again."""

    code = ErrorCode.PAYLOAD_ERASED


class PayloadUnreadable(RunlaneError):
    """An encoded payload cannot be decoded here: without its key, or not as what it is stored."""

    code = ErrorCode.PAYLOAD_UNREADABLE


class ProjectionFailed(RunlaneError):
    """An inline projection could not fold what was appended; its own error is the cause, and nothing was written."""

    code = ErrorCode.PROJECTION_FAILED
    default_retryable = True


class SubjectNotFound(RunlaneError):
    """Nothing was ever encrypted for this subject in this environment."""

    code = ErrorCode.SUBJECT_NOT_FOUND
