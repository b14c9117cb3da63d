"""Each lane that comes with Runlane passes the suite that anybody's lane has to pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from runlane import ConfigurationInvalid, Lane, memory_lane, postgres_lane, sqlite_lane
from runlane.lanes import lane_of
from runlane.storage.database import Database
from runlane.testing import RecordingTransport
from runlane.testing.conformance import LaneConformance
from runlane.transport.watch import FileTransport


class TestMemory(LaneConformance):
    @pytest.fixture
    def lane(self) -> Lane:
        return memory_lane()


class TestPublishing(LaneConformance):
    """A lane whose runs are delivered by wakeups; polling workers work beside them."""

    @pytest.fixture
    def lane(self) -> Lane:
        return Lane(Database("memory:"), RecordingTransport(), "publishing")


class TestSqlite(LaneConformance):
    @pytest.fixture
    def lane(self, sqlite_url: str) -> Lane:
        return sqlite_lane(sqlite_url)

    @pytest.fixture
    def another_lane(self, sqlite_url: str) -> Lane:
        return sqlite_lane(sqlite_url)


class TestPostgres(LaneConformance):
    @pytest.fixture
    def lane(self, postgres_url: str) -> Lane:
        return postgres_lane(postgres_url)

    @pytest.fixture
    def another_lane(self, postgres_url: str) -> Lane:
        return postgres_lane(postgres_url)


@pytest.mark.parametrize("url", ["sqlite://app.db", "sqlite://user@/app.db", "sqlite://host/app.db"])
def test_a_sqlite_url_names_no_host(url: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"names a host; write sqlite:///file.db"):
        lane_of(url)


def test_the_file_that_is_watched_is_the_one_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, elsewhere = tmp_path / "real", tmp_path / "elsewhere"
    real.mkdir()
    elsewhere.mkdir()
    (tmp_path / "link.db").symlink_to(real / "app.db")
    monkeypatch.chdir(real)
    named = {
        "sqlite:///app.db": "app.db",
        f"sqlite:///{tmp_path}/link.db": "app.db",
        f"sqlite:///file:{real}/a%2520b.db?uri=true": "a b.db",
        f"sqlite:///file://{real}/c.db?uri=true": "c.db",
    }
    lanes = {lane_of(url): real / name for url, name in named.items()}
    monkeypatch.chdir(elsewhere)
    for lane, file in lanes.items():
        lane.start()
        assert file.exists()
        assert isinstance(lane.transport, FileTransport)
        assert lane.transport._files == (Path(f"{file}-wal"), file)
        lane.close()
