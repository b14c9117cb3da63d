"""How the roles of PostgreSQL are made: again, by many at once, beside other installations, by who may not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from runlane import ConfigurationInvalid, Runlane, postgres_lane
from runlane.storage.roles import NAMES
from runlane.storage.tables import VERSION
from tests.engine.tasks import echo
from tests.faults.operations import OPTIONS
from tests.storage.cast import Cast, cast, is_permitted
from tests.support import at_once


@pytest.fixture(scope="module")
def there(postgres: Any) -> Iterator[Cast]:
    with cast(postgres) as made:
        yield made


def acl(there: Cast) -> list[tuple[Any, ...]]:
    asked = "select c.oid::regclass::text, a.attname, c.relacl::text, a.attacl::text from pg_class c"
    joined = f"{asked} join pg_attribute a on a.attrelid = c.oid where relnamespace = 'runlane'::regnamespace"
    functions = there.execute("select proname, null, proacl::text, null from pg_proc where pronamespace = "
                              "'runlane'::regnamespace order by 1")  # fmt: skip
    return sorted(there.execute(joined), key=str) + functions


def test_making_them_again_changes_nothing(there: Cast) -> None:
    before = acl(there)
    assert there.owner.migrate(roles=there.prefix) == VERSION
    assert acl(there) == before


def test_what_was_granted_beside_is_taken_back_and_a_login_stays(there: Cast) -> None:
    before = acl(there)
    there.execute(f"grant delete, truncate on runlane.events to {there.role('worker')}")
    there.execute(f"revoke insert on runlane.runs from {there.role('producer')}")
    assert acl(there) != before
    there.owner.migrate(roles=there.prefix)
    assert {str(row).count("worker") for row in acl(there)} == {str(row).count("worker") for row in before}
    assert there.app(there.logins["producer"]).start().trigger(echo, 1).outcome == "created"


def test_a_rebuild_keeps_what_was_granted(there: Cast) -> None:
    assert there.owner.audit.rebuild().swapped
    with psycopg.connect(there.logins["worker"]) as connection:
        assert is_permitted(connection, "update runlane.runs set status = null where false")
        assert not is_permitted(connection, "update runlane.runs set task_id = null where false")
        assert not is_permitted(connection, "delete from runlane.runs where false")


def test_many_at_once_make_them_once(postgres: Any, there: Cast) -> None:
    """Also where another database of the same server makes its own, and one that wants the same names."""
    url, prefix = postgres.empty(), f"{there.prefix}x"
    apps = [Runlane(url) for _ in range(6)]
    try:
        assert at_once([lambda app=app: app.migrate(roles=prefix) for app in apps]) == [VERSION] * 6
        with pytest.raises(ConfigurationInvalid, match=f"{prefix}_auditor belongs to another installation.*--role-pre"):
            there.owner.migrate(roles=prefix)
    finally:
        for app in apps:
            app.close()
        drop(url, prefix)
        postgres.drop(url)


def drop(url: str, prefix: str) -> None:
    roles = ", ".join(f'"{prefix}_{name}"' for name in NAMES)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"drop owned by {roles}; drop role {roles}")


def test_the_names_begin_with_the_schemas(postgres: Any, there: Cast) -> None:
    url, schema = postgres.empty(), f"Mixed_{there.prefix}"
    app = Runlane(postgres_lane(url, schema=schema), **OPTIONS)
    try:
        app.migrate(roles=True)
        with psycopg.connect(url) as connection:
            asked = "select rolname, rolcanlogin, rolsuper, shobj_description(oid, 'pg_authid') from pg_roles"
            found = connection.execute(f"{asked} where rolname like '{schema}%'").fetchall()
            assert {row[0] for row in found} == {f"{schema}_{name}" for name in NAMES}
            database = make_url(url).database
            assert {row[1:] for row in found} == {(False, False, f"Runlane: schema {schema} of database {database}")}
            connection.execute(f'set role "{schema}_producer"')
            assert is_permitted(connection, f'insert into "{schema}".runs (id) select null where false')
        assert app.start().run_now(echo, 1).executed
    finally:
        app.close()
        drop(url, schema)
        postgres.drop(url)


def test_who_may_not_make_roles_is_told_what_is_missing(postgres: Any, there: Cast) -> None:
    url, prefix, owner = postgres.empty(), f"{there.prefix}y", f"{there.prefix}_owner"
    there.execute(f"create role {owner} login")
    there.execute(f"grant create on database {make_url(url).database} to {owner}")
    app = Runlane(make_url(url).set(username=owner).render_as_string(hide_password=False))
    try:
        with pytest.raises(
            ConfigurationInvalid, match=f'create role "{prefix}_auditor" nologin;.* migrate again'
        ) as no:
            app.migrate(roles=prefix)
        with psycopg.connect(url) as connection:
            assert not connection.execute("select from pg_namespace where nspname = 'runlane'").fetchall(), "half made"
        there.execute(no.value.message.split("`")[1])
        assert app.migrate(roles=prefix) == VERSION
    finally:
        app.close()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"drop owned by {owner} cascade")
        drop(url, prefix)
        there.execute(f"drop role {owner}")
        postgres.drop(url)


@pytest.mark.parametrize("lane", ["memory:", "sqlite"])
def test_there_are_no_roles_elsewhere(lane: str, tmp_path: Any) -> None:
    file = tmp_path / "none.db"
    with pytest.raises(ConfigurationInvalid, match="roles are made on PostgreSQL only"):
        Runlane(lane if lane == "memory:" else f"sqlite:///{file}").migrate(roles=True)
    assert not file.exists()


@pytest.mark.parametrize("prefix", ["", "a b", "pg_runlane", "x" * 53, 'a"b', 1, None])
def test_a_prefix_has_to_be_a_plain_name(there: Cast, prefix: Any) -> None:
    with pytest.raises(ConfigurationInvalid, match="prefix of"):
        there.owner.migrate(roles=prefix)
