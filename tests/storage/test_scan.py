"""Pages of a scan: all rows, in order, and a connection that is of use between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlalchemy import text

from runlane import InternalError
from runlane.storage.database import Database
from runlane.storage.scan import flow, pages
from tests.support import database_at

ROWS = 11
NUMBERS = f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {ROWS}) select "


@pytest.fixture
def database(shared_url: str) -> Iterator[Database]:
    with database_at(shared_url) as made:
        yield made


@pytest.mark.parametrize("batch", [1, 4, ROWS, ROWS + 1])
def test_rows_come_in_order_and_other_statements_go_on_between_them(database: Database, batch: int) -> None:
    with database.read() as tx, closing(pages(tx, NUMBERS + "i from n order by i", [], batch)) as found:
        seen = []
        for rows in found:
            assert 1 <= len(rows) <= batch
            seen += [row[0] for row in rows]
            assert tx.execute(text("select 7")).scalar_one() == 7
    assert seen == list(range(1, ROWS + 1))


def test_nothing_has_no_pages(database: Database) -> None:
    with database.read() as tx:
        assert list(pages(tx, NUMBERS + "i from n where i < 0", [], 2)) == []


def test_who_stops_early_has_a_connection_of_use(database: Database) -> None:
    with database.read() as tx:
        for _ in range(3):
            with closing(flow(tx, NUMBERS + "i from n order by i", [], 2)) as found:
                assert [next(found)[0], next(found)[0], next(found)[0]] == [1, 2, 3]
            assert tx.execute(text("select 7")).scalar_one() == 7


def test_what_fails_on_a_later_page_is_told_in_the_words_of_the_database(postgres_url: str) -> None:
    with database_at(postgres_url) as database, pytest.raises(InternalError, match="division by zero"):
        with database.read() as tx:
            list(flow(tx, NUMBERS + "1 / (9 - i) from n", [], 2))
