"""Each transport that comes with Runlane passes the suite that anybody's transport has to pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from runlane.lanes import lane_of
from runlane.testing import RecordingTransport
from runlane.testing.conformance import PublisherConformance, TransportConformance
from runlane.transport import Transport
from runlane.transport.local import LocalTransport
from runlane.transport.notify import NotifyTransport
from runlane.transport.watch import FileTransport


class TestLocal(TransportConformance):
    @pytest.fixture
    def transport(self) -> Transport:
        return LocalTransport()


class TestFile(TransportConformance):
    @pytest.fixture
    def transport(self, tmp_path: Path) -> Transport:
        return FileTransport(tmp_path / "runlane.db")


class TestNotify(TransportConformance):
    @pytest.fixture
    def transport(self, postgres_url: str) -> Transport:
        transport = lane_of(postgres_url).transport
        assert isinstance(transport, NotifyTransport)
        return transport


class TestNotifyWithoutAServer(TransportConformance):
    """Nobody who rings may notice that the server is away; within the process rings are heard."""

    @pytest.fixture
    def transport(self) -> Transport:
        return NotifyTransport("host=127.0.0.1 port=1 connect_timeout=2", "runlane")


class TestRecording(PublisherConformance):
    @pytest.fixture
    def transport(self) -> Transport:
        return RecordingTransport()
