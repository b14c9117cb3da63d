"""Applications on the lanes that are looked at, and what every test here asks of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from runlane import Check, Health, Runlane, Thresholds
from runlane.health import Bound
from tests.conftest import PostgresServer
from tests.support import postgres_url, reused_postgres

__all__ = ["postgres_url", "reused_postgres"]

#: For lengths of time: everything is too long, but not critical; everything is critical.
AT_ONCE, NOW = Bound(timedelta()), Bound(timedelta(), timedelta())


def looked_at(app: Runlane, name: str, **thresholds: Any) -> Check:
    """One check of a doctor who judges by these figures."""
    found = app.doctor(thresholds=Thresholds(**thresholds)).check(name)
    assert found is not None
    assert not found.found.startswith("could not"), found.found
    assert "\n" not in found.found
    assert (found.advice is None) == (found.status is Health.OK), found
    return found


@contextmanager
def session(url: str, **options: Any) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's session on PostgreSQL, who gives himself a name."""
    with psycopg.connect(url, application_name="somebody", **options) as connection:
        yield connection


@pytest.fixture(scope="module")
def database_url(postgres: PostgresServer) -> Iterator[str]:
    """One PostgreSQL database for all tests of a module, which leave it as they found it."""
    url = postgres.migrated()
    yield url
    postgres.drop(url)


@pytest.fixture
def app(database_url: str) -> Iterator[Runlane]:
    """An application on it."""
    with Runlane(database_url) as made:
        made.migrate()  # it is another database than the one it was copied from, and the log has to note that
        yield made
