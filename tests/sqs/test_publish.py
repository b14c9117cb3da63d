"""Publishing: what is sent, and what is said about each wakeup when SQS takes it, refuses it, or is not there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from runlane import Queue
from runlane.errors import ConfigurationInvalid
from runlane.sqs import SqsQueue, SqsTransport
from runlane.sqs.batches import MOST_BYTES
from runlane.transport import Publisher, PublishOutcome, PublishStatus, Wakeup
from runlane.values import new_run_id
from tests.sqs.server import Body, SqsServer, refusal
from tests.support import START

EMAILS = Queue("emails")
REPORTS = Queue("reports")
PUBLISHED, FAILED, REJECTED = PublishStatus.PUBLISHED, PublishStatus.FAILED, PublishStatus.REJECTED


def wakeup(queue: str = "emails", run_id: UUID | None = None, second: float = 0, **options: Any) -> Wakeup:
    return Wakeup("default", run_id or new_run_id(), queue, START + timedelta(seconds=second), **options)


def statuses(outcomes: Sequence[PublishOutcome]) -> list[PublishStatus]:
    return [outcome.status for outcome in outcomes]


@pytest.fixture
def transport(client: Any, url: str) -> SqsTransport:
    return SqsTransport([SqsQueue(EMAILS, url=url)], client=client)


@pytest.fixture
def received(client: Any) -> Callable[[str], list[Body]]:
    """Everything in an SQS queue."""

    def receive(url: str) -> list[Body]:
        def portions() -> Iterator[list[Body]]:
            while found := client.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"]
            ).get("Messages"):
                yield found

        return [message for portion in portions() for message in portion]

    return receive


def test_it_is_a_publisher(transport: SqsTransport) -> None:
    assert isinstance(transport, Publisher)


def test_each_wakeup_is_one_message_that_says_what_it_says(
    transport: SqsTransport, url: str, received: Callable[[str], list[Body]]
) -> None:
    sent = [wakeup(second=n, trace_carrier={"traceparent": f"00-{n}"}) for n in range(23)]
    assert statuses(transport.publish(sent)) == [PUBLISHED] * 23
    assert {Wakeup.from_json(message["Body"]) for message in received(url)} == set(sent)


def test_ten_messages_a_call_at_most(transport: SqsTransport, sqs: SqsServer) -> None:
    transport.publish([wakeup() for _ in range(23)])
    assert sorted(len(call["Entries"]) for call in sqs.made("SendMessageBatch")) == [3, 10, 10]


def test_nothing_is_sent_for_nothing(transport: SqsTransport, sqs: SqsServer) -> None:
    assert transport.publish([]) == []
    assert sqs.made("SendMessageBatch") == []


def test_calls_stay_below_the_size_that_sqs_takes(transport: SqsTransport, sqs: SqsServer) -> None:
    big = [wakeup(trace_carrier={"baggage": "ä" * 40_000}) for _ in range(7)]  # 80 kB of UTF-8 each
    assert statuses(transport.publish(big)) == [PUBLISHED] * 7
    calls = sqs.made("SendMessageBatch")
    assert all(sum(len(entry["MessageBody"].encode()) for entry in call["Entries"]) <= MOST_BYTES for call in calls)
    assert len(calls) == 3


def test_a_trace_carrier_too_large_for_any_message_stays_behind(
    transport: SqsTransport, url: str, received: Callable[[str], list[Body]]
) -> None:
    small, large = wakeup(trace_carrier={"traceparent": "00"}), wakeup(trace_carrier={"baggage": "x" * MOST_BYTES})
    assert statuses(transport.publish([small, large])) == [PUBLISHED] * 2
    assert {Wakeup.from_json(message["Body"]) for message in received(url)} == {
        small,
        evolve(large, trace_carrier=None),
    }


def test_characters_that_sqs_refuses_are_escaped(
    client: Any, url: str, sqs: SqsServer, received: Callable[[str], list[Body]]
) -> None:
    odd = Queue("e\ufffe\uffffé")
    transport = SqsTransport([SqsQueue(odd, url=url)], client=client)
    sent = wakeup(odd.name)
    assert statuses(transport.publish([sent])) == [PUBLISHED]
    (call,) = sqs.made("SendMessageBatch")
    assert not {"\ufffe", "\uffff"} & set(call["Entries"][0]["MessageBody"])
    assert Wakeup.from_json(received(url)[0]["Body"]) == sent


def test_each_queue_has_its_own_sqs_queue(
    client: Any, make_queue: Callable[..., str], received: Callable[[str], list[Body]]
) -> None:
    emails, reports = make_queue(), make_queue()
    transport = SqsTransport([SqsQueue(EMAILS, url=emails), SqsQueue(REPORTS, url=reports)], client=client)
    assert statuses(transport.publish([wakeup("emails"), wakeup("reports"), wakeup("emails")])) == [PUBLISHED] * 3
    assert (len(received(emails)), len(received(reports))) == (2, 1)


def test_a_queue_without_a_binding_is_left_to_a_process_that_has_one(transport: SqsTransport) -> None:
    outcomes = transport.publish([wakeup("strange"), wakeup()])
    assert statuses(outcomes) == [FAILED, PUBLISHED]
    assert outcomes[0].detail == "no SQS queue is bound to 'strange'; add SqsQueue(…) to SqsTransport([…])"


class TestNames:
    """Queues that are given by name."""

    def test_are_looked_up_once_at_the_start(self, client: Any, url: str, sqs: SqsServer) -> None:
        transport = SqsTransport([SqsQueue(EMAILS, name=url.rpartition("/")[2])], client=client)
        transport.start()
        for _ in range(3):
            assert statuses(transport.publish([wakeup()])) == [PUBLISHED]
        assert len(sqs.made("GetQueueUrl")) == 1
        assert {call["QueueUrl"] for call in sqs.made("SendMessageBatch")} == {url}

    def test_that_do_not_exist_stop_the_start(self, client: Any) -> None:
        with pytest.raises(ConfigurationInvalid, match="no SQS queue 'nowhere' for queue 'emails'; create it"):
            SqsTransport([SqsQueue(EMAILS, name="nowhere")], client=client).start()

    def test_that_lead_to_the_queue_of_another_one_stop_the_start(self, client: Any, url: str) -> None:
        by_name = SqsQueue(Queue("reports"), name=url.rpartition("/")[2])
        for bindings in ([SqsQueue(EMAILS, url=url), by_name], [by_name, SqsQueue(EMAILS, url=url)]):
            with pytest.raises(ConfigurationInvalid, match="'emails' and 'reports' are bound to one SQS queue"):
                SqsTransport(bindings, client=client).start()

    def test_that_cannot_be_looked_up_now_are_looked_up_later(
        self, client: Any, url: str, sqs: SqsServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        transport = SqsTransport([SqsQueue(EMAILS, name=url.rpartition("/")[2])], client=client)
        sqs.stop()
        with caplog.at_level(logging.WARNING, "runlane.sqs"):
            transport.start()
        assert "cannot be looked up for now: EndpointConnectionError" in caplog.text
        assert statuses(transport.publish([wakeup()])) == [FAILED]
        sqs.start()
        assert statuses(transport.publish([wakeup()])) == [PUBLISHED]


class TestPartialFailures:
    """A batch of which SQS takes only some."""

    @pytest.mark.parametrize(
        ("code", "sender_fault", "status"),
        [
            ("InvalidMessageContents", True, REJECTED),
            ("InvalidParameterValue", True, REJECTED),
            ("MessageTooLong", True, REJECTED),
            ("InternalError", False, FAILED),
            ("InternalFailure", True, FAILED),
            ("ServiceUnavailable", False, FAILED),
            ("RequestThrottled", True, FAILED),
            ("ThrottlingException", True, FAILED),
            ("KMS.ThrottlingException", True, FAILED),
            ("KmsDisabled", True, FAILED),
            ("AccessDenied", True, FAILED),
            ("OverLimit", True, FAILED),
            ("InvalidMessageContents", False, FAILED),
        ],
    )
    def test_each_message_has_the_outcome_that_sqs_gave_it(
        self, transport: SqsTransport, sqs: SqsServer, code: str, sender_fault: bool, status: PublishStatus
    ) -> None:
        sent = [wakeup() for _ in range(12)]

        def refuse_odd_ones(action: str, body: Body) -> Any:
            odd = [entry for entry in body["Entries"] if int(entry["Id"]) % 2]
            even = [entry for entry in body["Entries"] if not int(entry["Id"]) % 2]
            return 200, {
                # In an order of its own, as SQS promises none.
                "Successful": [{"Id": e["Id"], "MessageId": "m", "MD5OfMessageBody": "x"} for e in reversed(even)],
                "Failed": [
                    {"Id": e["Id"], "Code": code, "SenderFault": sender_fault, "Message": "because"} for e in odd
                ],
            }

        sqs.faults.append(refuse_odd_ones)
        # The digest is not what was sent; botocore checks it for single messages only.
        outcomes = transport.publish(sent)
        assert statuses(outcomes) == [PUBLISHED, status] * 6
        assert {outcome.detail for outcome in outcomes[1::2]} == {f"{code}: because"}

    def test_a_message_that_the_answer_passes_over_is_tried_again(
        self, transport: SqsTransport, sqs: SqsServer
    ) -> None:
        sqs.faults.append(lambda action, body: (200, {"Successful": [], "Failed": []}))
        assert statuses(transport.publish([wakeup()])) == [FAILED]

    def test_a_call_that_fails_takes_no_other_call_along(self, transport: SqsTransport, sqs: SqsServer) -> None:
        def fail_the_second(action: str, body: Body) -> Any:
            return refusal("InternalFailure", status=500) if body["Entries"][0]["Id"] == "10" else None

        sqs.faults.append(fail_the_second)
        outcomes = transport.publish([wakeup() for _ in range(30)])
        assert statuses(outcomes) == [PUBLISHED] * 10 + [FAILED] * 10 + [PUBLISHED] * 10


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("QueueDoesNotExist", "QueueDoesNotExist: the reason"),
        ("AccessDeniedException", "AccessDeniedException: the reason"),
        ("RequestThrottled", "RequestThrottled: the reason"),
        # What AWS says about these quotes headers and tokens.
        ("SignatureDoesNotMatch", "SignatureDoesNotMatch"),
        ("InvalidClientTokenId", "InvalidClientTokenId"),
        ("IncompleteSignature", "IncompleteSignature"),
    ],
)
def test_what_an_operator_can_repair_is_tried_again(
    transport: SqsTransport, sqs: SqsServer, code: str, words: str
) -> None:
    sqs.faults.append(lambda action, body: refusal(code, "the reason"))
    assert list(transport.publish([wakeup()])) == [PublishOutcome(FAILED, words)]


def test_an_answer_that_is_none_is_tried_again(transport: SqsTransport, sqs: SqsServer) -> None:
    sqs.faults.append(lambda action, body: (200, {"Successful": "all of them"}))
    assert statuses(transport.publish([wakeup()])) == [FAILED]


def test_a_deleted_queue_fails_until_it_is_there_again(transport: SqsTransport, client: Any, url: str) -> None:
    client.delete_queue(QueueUrl=url)
    assert statuses(transport.publish([wakeup()])) == [FAILED]
    client.create_queue(QueueName=url.rpartition("/")[2])
    assert statuses(transport.publish([wakeup()])) == [PUBLISHED]


def test_nothing_secret_and_no_message_is_told_when_sqs_is_away(
    transport: SqsTransport, sqs: SqsServer, caplog: pytest.LogCaptureFixture
) -> None:
    sqs.stop()
    with caplog.at_level(logging.DEBUG, "runlane"):
        (outcome,) = transport.publish([wakeup(trace_carrier={"baggage": "private"})])
    assert outcome.status is FAILED
    assert (outcome.detail or "").startswith("EndpointConnectionError: Could not connect")
    for secret in ("very-secret-key", "AKIA", "private", "requested_at"):
        assert secret not in f"{outcome.detail} {caplog.text}"


def test_much_does_not_take_long_when_sqs_is_away(transport: SqsTransport, sqs: SqsServer) -> None:
    """Each call that nobody answers may take seconds: after a few in a row the others are not tried."""
    sqs.stop()
    tried: list[str] = []

    def count(event_name: str, **_: Any) -> None:
        tried.append(event_name)

    events: Any = transport.client.meta.events
    events.register("before-send.sqs.SendMessageBatch", count)
    try:
        assert statuses(transport.publish([wakeup() for _ in range(1000)])) == [FAILED] * 1000
    finally:
        events.unregister("before-send.sqs.SendMessageBatch", count)
    assert 3 <= len(tried) <= 10  # three in a row, and those that were under way beside them


class TestFifo:
    """A FIFO queue orders by group and drops doubles by id."""

    @pytest.fixture
    def fifo_url(self, make_queue: Callable[..., str]) -> str:
        return make_queue(fifo=True)

    @pytest.fixture
    def fifo(self, client: Any, fifo_url: str) -> SqsTransport:
        return SqsTransport([SqsQueue(EMAILS, url=fifo_url)], client=client)

    def test_each_run_is_a_group(
        self, fifo: SqsTransport, fifo_url: str, received: Callable[[str], list[Body]]
    ) -> None:
        sent = [wakeup() for _ in range(3)]
        assert statuses(fifo.publish(sent)) == [PUBLISHED] * 3
        groups = {message["Attributes"]["MessageGroupId"] for message in received(fifo_url)}
        assert groups == {str(one.run_id) for one in sent}

    def test_a_request_published_again_within_five_minutes_arrives_again(
        self, fifo: SqsTransport, sqs: SqsServer
    ) -> None:
        """As when its queue was paused, so that the first one was ignored, and is resumed."""
        one = wakeup()
        assert statuses([*fifo.publish([one]), *fifo.publish([one])]) == [PUBLISHED] * 2
        known = [entry["MessageDeduplicationId"] for call in sqs.made("SendMessageBatch") for entry in call["Entries"]]
        assert len(set(known)) == 2

    def test_a_later_request_of_the_same_run_arrives_too(self, fifo: SqsTransport, fifo_url: str, client: Any) -> None:
        first = wakeup()
        later = wakeup(run_id=first.run_id, second=0.000001)
        assert statuses(fifo.publish([first, later])) == [PUBLISHED] * 2
        messages = client.receive_message(QueueUrl=fifo_url, MaxNumberOfMessages=10)["Messages"]
        assert [Wakeup.from_json(message["Body"]) for message in messages] == [first, later]

    def test_a_standard_queue_gets_neither(self, transport: SqsTransport, sqs: SqsServer) -> None:
        transport.publish([wakeup()])
        (call,) = sqs.made("SendMessageBatch")
        assert set(call["Entries"][0]) == {"Id", "MessageBody"}


def test_a_client_made_here_is_closed_and_made_again(
    url: str, sqs: SqsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for name, value in {
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLEEXAMPLE00",
        "AWS_SECRET_ACCESS_KEY": "very-secret-key",
        "AWS_ENDPOINT_URL": sqs.endpoint,
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    transport = SqsTransport([SqsQueue(EMAILS, url=url)])
    for _ in range(2):
        transport.start()
        first: Any = transport.client
        assert statuses(transport.publish([wakeup()])) == [PUBLISHED]
        transport.close()
        assert transport.client is not first
        transport.close()


def test_a_client_of_the_callers_is_left_open(transport: SqsTransport, client: Any) -> None:
    transport.start()
    transport.close()
    assert transport.client is client
    assert statuses(transport.publish([wakeup()])) == [PUBLISHED]
