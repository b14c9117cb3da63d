"""Which SQS queue is whose: every mistake is refused when the transport is built."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from runlane import Queue
from runlane.errors import ConfigurationInvalid
from runlane.sqs import SqsQueue, SqsTransport

EMAILS = Queue("emails")
REPORTS = Queue("reports")
URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/emails"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "exactly one of url and name"),
        ({"url": URL, "name": "emails"}, "exactly one of url and name"),
        ({"url": "emails"}, "url of the SQS queue of 'emails' must be like https://"),
        ({"url": "https://sqs.eu-central-1.amazonaws.com"}, "must be like"),
        ({"url": "https://me:secret@sqs/1/emails"}, "must be like"),
        ({"name": "e mails"}, "letters, digits"),
        ({"name": "emails.txt"}, "may end in '.fifo'; got 'emails.txt'"),
        ({"name": "e" * 81}, "1 to 80"),
        ({"name": 7}, "got 7"),
    ],
)
def test_a_binding_that_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationInvalid) as caught:
        SqsQueue(EMAILS, **options)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_binding_is_of_a_queue_definition() -> None:
    with pytest.raises(ConfigurationInvalid, match="takes the Queue"):
        SqsQueue("emails", url=URL)  # type: ignore[arg-type]


def test_fifo_queues_are_known_by_their_suffix() -> None:
    assert SqsQueue(EMAILS, name="emails.fifo").fifo
    assert SqsQueue(EMAILS, url=URL + ".fifo").fifo
    assert not SqsQueue(EMAILS, name="emails").fifo
    assert not SqsQueue(EMAILS, url=URL).fifo


@pytest.mark.parametrize(
    ("queues", "words"),
    [
        ([], "at least one SqsQueue"),
        ([EMAILS], "takes SqsQueue"),
        ([SqsQueue(EMAILS, name="a"), SqsQueue(EMAILS, name="b")], "queue 'emails' is bound to two SQS queues"),
        ([SqsQueue(EMAILS, name="a"), SqsQueue(REPORTS, name="a")], "'emails' and 'reports' are bound to one"),
        ([SqsQueue(EMAILS, url=URL), SqsQueue(REPORTS, url=URL)], "each needs one of its own"),
    ],
)
def test_bindings_that_contradict_each_other_are_refused(queues: list[Any], words: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=words):
        SqsTransport(queues)


def test_queues_without_a_binding_are_named() -> None:
    transport = SqsTransport([SqsQueue(EMAILS, url=URL)])
    transport.check(["emails"])
    with pytest.raises(ConfigurationInvalid, match=r"no SQS queue is bound to 'reports', 'slow'; add SqsQueue"):
        transport.check(["reports", "emails", "slow"])


def test_without_boto3_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigurationInvalid, match=r"needs boto3: pip install 'runlane\[sqs\]'"):
        SqsTransport([SqsQueue(EMAILS, url=URL)])


def test_neither_runlane_nor_the_names_of_its_sqs_part_import_boto3() -> None:
    program = "import sys, runlane, runlane.sqs; print([m for m in sys.modules if m.startswith('boto')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_client_needs_a_region(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationInvalid, match="set AWS_REGION"):
        SqsTransport([SqsQueue(EMAILS, name="emails")]).start()
