"""boto3's client, made at need: `import runlane` costs nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runlane.errors import ConfigurationInvalid
from runlane.sqs.faults import words_of

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

#: Seconds to wait for a connection and for an answer; an answer to a long poll takes up to 20.
_CONNECT, _READ = 3, 30
#: Connections kept open: pollers, senders and the two threads that look after messages.
_POOL = 32


def check_boto3() -> None:
    """Make sure that boto3 can be imported.

    Raises:
        ConfigurationInvalid: it is not installed.
    """
    try:
        import boto3  # noqa: F401
    except ImportError as error:
        raise ConfigurationInvalid("Amazon SQS needs boto3: pip install 'runlane[sqs]'") from error


def make_client() -> SQSClient:
    """A client with the region and the credentials of boto3's own search: environment, files, role.

    It tries each call twice at most: what fails longer waits in the outbox, or for the consumer's next round.

    Raises:
        ConfigurationInvalid: there is no region, or the configuration cannot be read.
    """
    import boto3.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=_CONNECT,
        read_timeout=_READ,
        max_pool_connections=_POOL,
        retries={"total_max_attempts": 2, "mode": "standard"},
    )
    try:
        # A session of its own: boto3's default session must not be shared between threads.
        made: Any = boto3.session.Session().client("sqs", config=config)
    except BotoCoreError as error:
        raise ConfigurationInvalid(
            f"boto3 cannot make an SQS client ({words_of(error)}); set AWS_REGION, or pass SqsTransport(client=…)"
        ) from error
    client: SQSClient = made
    return client
