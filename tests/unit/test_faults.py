"""What an error of a driver means."""

from __future__ import annotations

import sqlite3

import psycopg
import pytest
from sqlalchemy import exc

from runlane import RunlaneError, StorageUnavailable
from runlane.errors import InternalError
from runlane.storage import faults

#: The driver's own words for a pooler that passes on an answer, and then says that the server is gone.
TWICE = exc.InternalError("release x", (), psycopg.InternalError("received 2 results from command 'RELEASE x'"))


def test_a_protocol_that_was_broken_off_is_a_database_that_is_away() -> None:
    found = faults.translate(TWICE, "the database")
    assert isinstance(found, StorageUnavailable)
    assert found.retryable
    assert "received 2 results" in found.message


def test_nobody_knows_what_was_done_then() -> None:
    assert faults.is_broken_off(TWICE)


@pytest.mark.parametrize("of", [psycopg.errors.InternalError_, psycopg.errors.DataCorrupted])
def test_an_internal_error_of_the_server_is_an_answer(of: type[psycopg.Error]) -> None:
    error = exc.InternalError("select 1", (), of("of the server"))
    assert not faults.is_broken_off(error)
    found: RunlaneError = faults.translate(error, "the database")
    assert isinstance(found, InternalError)
    assert not found.retryable


def test_a_damaged_file_is_an_answer() -> None:
    told = sqlite3.InternalError("malformed")
    told.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    error = exc.InternalError("select 1", (), told)
    assert not faults.is_broken_off(error)
    assert "damaged" in faults.translate(error, "the file").message
