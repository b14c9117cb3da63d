"""The runtime that a consumer works for, whichever face of it was given."""

from __future__ import annotations

from runlane.aio import AsyncRunlane
from runlane.app import Runlane
from runlane.errors import ConfigurationInvalid
from runlane.sqs.transport import SqsTransport


def runlane_of(app: Runlane | AsyncRunlane) -> Runlane:
    """The sync face of a runtime: consumers have threads of their own, and ``async def`` handlers an event loop.

    Raises:
        ConfigurationInvalid: it is no runtime.
    """
    if isinstance(app, AsyncRunlane):
        return app._app
    if not isinstance(app, Runlane):
        raise ConfigurationInvalid(f"app must be a Runlane or an AsyncRunlane, not {type(app).__name__}")
    return app


def transport_of(app: Runlane) -> SqsTransport:
    """The transport of a runtime.

    Raises:
        ConfigurationInvalid: it is not SQS.
    """
    transport = app.lane.transport
    if not isinstance(transport, SqsTransport):
        raise ConfigurationInvalid(
            f"the lane's transport is {transport.name!r}; build the runtime on Lane(Database(url), SqsTransport([…]))"
        )
    return transport
