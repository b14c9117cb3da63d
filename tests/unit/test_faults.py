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
#: And those of libpq about an answer of no known kind.
STRANGE = exc.DatabaseError("commit", (), psycopg.DatabaseError("unexpected response from server"))


@pytest.mark.parametrize("error", [TWICE, STRANGE])
def test_a_protocol_that_was_broken_off_is_a_database_that_is_away(error: exc.DBAPIError) -> None:
    found = faults.translate(error, "the database")
    assert isinstance(found, StorageUnavailable)
    assert found.retryable
    assert str(error.orig) in found.message


@pytest.mark.parametrize("error", [TWICE, STRANGE])
def test_nobody_knows_what_was_done_then(error: exc.DBAPIError) -> None:
    assert faults.is_broken_off(error)


@pytest.mark.parametrize("of", [psycopg.errors.InternalError_, psycopg.errors.DataCorrupted])
def test_an_internal_error_of_the_server_is_an_answer(of: type[psycopg.Error]) -> None:
    error = exc.InternalError("select 1", (), of("of the server"))
    assert not faults.is_broken_off(error)
    found: RunlaneError = faults.translate(error, "the database")
    assert isinstance(found, InternalError)
    assert not found.retryable


@pytest.mark.parametrize("of", [psycopg.errors.ConnectionException, psycopg.errors.StatementCompletionUnknown])
def test_a_server_or_pooler_may_say_itself_that_it_does_not_know(of: type[psycopg.Error]) -> None:
    assert faults.is_broken_off(exc.OperationalError("commit", (), of("server conn crashed?")))


def test_a_damaged_file_is_told_so() -> None:
    told = sqlite3.InternalError("malformed")
    told.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    error = exc.InternalError("select 1", (), told)
    assert "damaged" in faults.translate(error, "the file").message
