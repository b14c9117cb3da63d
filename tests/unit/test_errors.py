"""One exception class per code, and the codes are exactly those of the contract."""

from __future__ import annotations

import pytest

import runlane
from runlane import errors
from runlane.errors import ConflictKind, ErrorCode, NonRetryable, RunlaneError, StorageConflict, TaskFailed

# SPEC section 16, word by word.
CODES = [
    "adapter_contract_violation", "capability_unsupported", "configuration_invalid", "internal_error",
    "invariant_violation", "operation_cancelled", "payload_invalid", "queue_capacity_exceeded", "run_not_found",
    "run_state_invalid", "schedule_not_found", "storage_conflict", "storage_unavailable", "task_failed",
    "task_not_found", "transport_unavailable", "lease_lost", "attempt_timeout", "history_limit",
]  # fmt: skip
# Beyond it.
CODES += ["payload_erased", "payload_unreadable", "subject_not_found", "projection_failed"]
KINDS = [
    "sequence", "idempotency_owner", "singleton_owner", "lease", "schedule_occurrence", "outbox_claim", "run_exists",
]  # fmt: skip

CLASSES = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, RunlaneError) and cls not in (RunlaneError, NonRetryable)
]
RETRYABLE = {
    "attempt_timeout", "queue_capacity_exceeded", "storage_conflict", "storage_unavailable", "task_failed",
    "transport_unavailable", "projection_failed",
}  # fmt: skip


def made(cls: type[RunlaneError], *args: object, **options: object) -> RunlaneError:
    if cls is StorageConflict:
        options["kind"] = ConflictKind.LEASE
    return cls(*args, **options)  # type: ignore[arg-type]


def test_the_codes_are_those_of_the_contract() -> None:
    assert [*ErrorCode] == CODES
    assert [*ConflictKind] == KINDS


def test_there_is_exactly_one_class_per_code() -> None:
    assert sorted(cls.code for cls in CLASSES) == sorted(CODES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_class_is_called_as_its_code(cls: type[RunlaneError]) -> None:
    assert cls.__name__ == "".join(word.capitalize() for word in cls.code.split("_"))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_carries_message_meta_and_retryability(cls: type[RunlaneError]) -> None:
    error = made(cls, "it went wrong", meta={"a": 1})
    assert isinstance(error, RunlaneError)
    assert str(error) == error.message == "it went wrong"
    assert error.meta == {"a": 1}
    assert error.retryable == (cls.code in RETRYABLE)
    assert made(cls, "x", retryable=not error.retryable).retryable is not error.retryable


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_without_words_says_what_its_class_means(cls: type[RunlaneError]) -> None:
    assert str(made(cls)) == (cls.__doc__ or "").splitlines()[0]
    assert made(cls).meta == {}


def test_meta_is_a_copy() -> None:
    meta = {"a": 1}
    error = RunlaneError("x", meta=meta)
    meta["a"] = 2
    assert error.meta == {"a": 1}


def test_non_retryable_is_a_task_failure_that_is_never_retried() -> None:
    error = NonRetryable("no use")
    assert isinstance(error, TaskFailed)
    assert (error.code, error.retryable) == ("task_failed", False)


def test_a_conflict_says_about_what() -> None:
    assert StorageConflict("x", kind=ConflictKind.RUN_EXISTS).kind == "run_exists"


def test_errors_that_users_branch_on_are_public() -> None:
    for cls in (*CLASSES, RunlaneError, NonRetryable):
        assert getattr(runlane, cls.__name__, cls) is cls
    assert runlane.RunlaneError is RunlaneError
    assert runlane.NonRetryable is NonRetryable
