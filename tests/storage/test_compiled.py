"""Compiled statements are shared by the engines that would compile them alike, and by no others."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.sql.compiler import SQLCompiler

from runlane import Runlane, postgres_lane
from tests.engine.tasks import echo


def test_a_further_application_compiles_nothing_again(shared_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(app: Runlane) -> None:
        run = app.trigger(echo, 1).run
        assert app.execute_next() is not None
        assert app.runs.list(limit=2, tasks=[echo]).data[0].id == run.id
        assert app.audit.verify().identical

    for environment in ("first", "second"):  # what comes again goes another way on SQLite
        with Runlane(shared_url, tasks=[echo], environment=environment) as app:
            use(app)
    compiled: list[str] = []
    begin = SQLCompiler.__init__

    def beginning(self: Any, dialect: Any, statement: Any, *args: Any, **options: Any) -> None:
        begin(self, dialect, statement, *args, **options)
        compiled.append(self.string)

    monkeypatch.setattr(SQLCompiler, "__init__", beginning)
    with Runlane(shared_url, tasks=[echo], environment="third") as app:
        use(app)
    assert [text for text in compiled if "schema_version" not in text] == []


def test_what_names_another_schema_is_another_statement(postgres: Any) -> None:
    url = postgres.empty()
    apps = [Runlane(postgres_lane(url, schema=name), tasks=[echo]) for name in ("one", "two")]
    for app in apps:
        app.migrate()
    for number, app in enumerate(apps):
        with app:
            for _ in range(number + 1):
                app.trigger(echo, 1, idempotency_key=f"key-{_}")
            assert len(app.runs.list().data) == number + 1
            assert app.audit.verify().runs == number + 1
    postgres.drop(url)
