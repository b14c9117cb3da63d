"""The roles of PostgreSQL: what each may do, by statements and by operations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from runlane import ConfigurationInvalid, RunlaneError
from runlane.storage import rows
from runlane.storage.roles import NAMES
from tests.engine.tasks import echo
from tests.faults.operations import OPERATIONS, Operation
from tests.storage.cast import ALSO, FOR, TABLES, Cast, call, cast, is_permitted

each_role = pytest.mark.parametrize("role", NAMES)
KEPT = ("schema_version", "projection_version", "inline_projections")
#: Who may do what to which table; nobody else may do anything else to any.
MAY: dict[str, dict[str, str]] = {
    "producer": {"runs": "select insert", "idempotency_keys": "select insert update delete"}
    | {"outbox": "select insert update"},
    "worker": {"runs": "select update", "sessions": "select insert update delete", "queues": "select"}
    | {"outbox": "insert"},
    "maintainer": {"runs": "select insert update", "idempotency_keys": "select insert update delete"}
    | {"outbox": "select insert update", "sessions": "select update delete", "queues": "select"}
    | {"maintainers": "select insert update delete", "schedules": "select insert update"}
    | {"occurrences": "select insert", "log_epochs": "select insert"},
    "operator": {"runs": "select insert update", "idempotency_keys": "select insert update delete"}
    | {"outbox": "select insert update", "sessions": "select", "queues": "select insert update"}
    | {"schedules": "select update"},
    "pruner": {"runs": "select", "idempotency_keys": "select", "log_epochs": "select"},
    "auditor": dict.fromkeys(TABLES, "select"),
}
for _role, _tables in MAY.items():
    _tables |= dict.fromkeys(KEPT, "select")
    _tables["events"] = "select" if _role == "auditor" else "select insert"
    _tables["subject_keys"] = {"auditor": "select", "pruner": "select", "operator": "select insert update"}.get(
        _role, "select insert"
    )
#: The columns of tables in which not all may be set.
UPDATED = {
    "runs": {*rows.STATE, "digest"} - {"id"},
    "idempotency_keys": {"run_id", "reset_at"},
    "outbox": {"status", "due_at", "attempts", "claimed_by", "detail"},
    "sessions": {"expires_at"},
    "maintainers": {"session_id", "expires_at"},
    "subject_keys": {"master", "wrapped", "erased_at"},
}
NOT_INSERTED = {"events": {"tx", "position"}}
FUNCTIONS = {
    "event_digest": {"producer", "worker", "maintainer", "operator"},
    "lock_for_pruning": {"pruner"},
    "prune_runs": {"pruner"},
    "refuse_change": set(),
    "refuse_untold_deletion": set(),
    "require_inline": set(),
}
#: What only the owner of the tables, or of the server, may do.
NOBODYS = [
    "truncate runlane.events, runlane.runs cascade",
    "create table runlane.mine (id int)",
    "create index on runlane.runs (id)",
    "alter table runlane.runs add column mine int",
    "alter table runlane.events disable trigger events_append_only",
    "alter table runlane.events disable trigger all",
    "alter table runlane.events enable row level security",
    "drop trigger events_pruned on runlane.events",
    "create trigger mine before insert on runlane.events execute function runlane.refuse_change()",
    "create rule mine as on insert to runlane.events do instead nothing",
    "create or replace function runlane.refuse_change() returns trigger language plpgsql as 'begin return null; end'",
    "drop function runlane.refuse_untold_deletion() cascade",
    "drop table runlane.events",
    "drop schema runlane cascade",
    "alter schema runlane rename to mine",
    "comment on table runlane.events is 'mine'",
    "lock table runlane.events in access exclusive mode",
    "set session_replication_role = replica",
    "set local session_replication_role = replica",
    "select setval('runlane.events_position_seq', 1)",
    "select nextval('runlane.events_position_seq')",
    "create role mine",
]


@pytest.fixture(scope="module")
def there(postgres: Any) -> Iterator[Cast]:
    with cast(postgres) as made:
        yield made


def columns_of(there: Cast, table: str) -> list[str]:
    asked = f"select attname from pg_attribute where attrelid = 'runlane.{table}'::regclass and attnum > 0"
    return [row[0] for row in there.execute(f"{asked} and not attisdropped")]


# Statement by statement.


def test_the_matrix_knows_every_table_and_function(there: Cast) -> None:
    """A new table has to say here, in schema.sql and in docs/roles.md who may do what to it."""
    of_schema = "where relnamespace = 'runlane'::regnamespace and relkind in ('r', 'p', 'v', 'm')"
    assert sorted(row[0] for row in there.execute(f"select relname from pg_class {of_schema}")) == TABLES
    found = there.execute("select proname from pg_proc where pronamespace = 'runlane'::regnamespace")
    assert {row[0] for row in found} == set(FUNCTIONS)


@each_role
def test_each_role_may_do_exactly_this_to_each_table(there: Cast, role: str) -> None:
    with psycopg.connect(there.logins[role]) as connection:
        found = {}
        for table in TABLES:
            columns = columns_of(there, table)
            name, some = f"runlane.{table}", UPDATED.get(table, columns)
            inserted = ", ".join(column for column in columns if column not in NOT_INSERTED.get(table, ()))
            nulls = ", ".join(["null"] * (inserted.count(",") + 1))
            kinds = {
                "select": f"select * from {name} limit 0",
                "insert": f"insert into {name} ({inserted}) select {nulls} where false",
                "update": f"update {name} set {', '.join(f'{column} = default' for column in some)} where false",
                "delete": f"delete from {name} where false",
                "truncate": f"truncate {name}",
            }
            allowed = [kind for kind, statement in kinds.items() if is_permitted(connection, statement)]
            for kind in ("references", "trigger"):
                assert connection.execute(f"select has_table_privilege('{name}', '{kind}')").fetchone() == (False,)
            if allowed:
                found[table] = " ".join(allowed)
        assert found == MAY[role]


@each_role
def test_each_role_may_set_exactly_these_columns(there: Cast, role: str) -> None:
    with psycopg.connect(there.logins[role]) as connection:
        for table in TABLES:
            columns = set(columns_of(there, table))
            updated = {c for c in columns if is_permitted(connection, f"update runlane.{table} set {c} = default")}
            assert updated == (UPDATED.get(table, columns) if "update" in MAY[role].get(table, "") else set()), table
            insert = "insert into runlane.{0} ({1}) overriding system value select null where false"
            inserted = {c for c in columns if is_permitted(connection, insert.format(table, c))}
            may = "insert" in MAY[role].get(table, "")
            assert inserted == (columns - NOT_INSERTED.get(table, set()) if may else set()), table


@each_role
def test_each_role_may_execute_exactly_these_functions(there: Cast, role: str) -> None:
    for name, roles in FUNCTIONS.items():
        asked = f"select has_function_privilege('{there.role(role)}', oid, 'execute') from pg_proc"
        found = there.execute(f"{asked} where proname = '{name}' and pronamespace = 'runlane'::regnamespace")
        assert found == [(role in roles,)], name
    with psycopg.connect(there.logins[role]) as connection:
        assert is_permitted(connection, "select runlane.lock_for_pruning('{}')") is (role == "pruner")
        assert is_permitted(connection, "select runlane.prune_runs(null, null, '{}')") is (role == "pruner")


@pytest.mark.parametrize("statement", NOBODYS)
def test_what_is_the_owners_alone(there: Cast, statement: str) -> None:
    everything = there.login(*NAMES)
    with psycopg.connect(everything) as connection:
        assert not is_permitted(connection, statement)
        assert not is_permitted(connection, f"set role {make_url(there.url).username or 'postgres'}")


def test_public_may_do_nothing(there: Cast) -> None:
    public = "where a.grantee = 0"
    functions = f"select proname from pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) a {public}"
    assert there.execute(f"{functions} and pronamespace = 'runlane'::regnamespace") == []
    tables = f"select relname from pg_class, aclexplode(relacl) a {public} and relnamespace = 'runlane'::regnamespace"
    assert there.execute(tables) == []
    with psycopg.connect(there.login()) as connection:
        for table in TABLES:
            assert not is_permitted(connection, f"select from runlane.{table}")


def test_history_is_guarded_in_every_mode_and_nothing_cascades(there: Cast) -> None:
    asked = "select tgname, tgenabled, tgtype & 8 > 0, tgtype & 16 > 0, tgtype & 32 > 0 from pg_trigger"
    found = there.execute(f"{asked} where tgrelid = 'runlane.events'::regclass order by tgname")
    assert found == [
        ("events_append_only", "A", False, True, True),  # update and truncate
        ("events_pruned", "A", True, False, False),  # delete
    ]
    keys = "select conname from pg_constraint where contype = 'f' and connamespace = 'runlane'::regnamespace"
    assert there.execute(keys) == []


# Operation by operation.


@each_role
@pytest.mark.parametrize("delivers", [False, True], ids=["polling", "delivering"])
def test_each_role_can_do_what_it_is_for(there: Cast, role: str, delivers: bool) -> None:
    owner, app = there.app(there.url, delivers=delivers).start(), there.app(there.logins[role], delivers=delivers)
    app.start()
    for operation in OPERATIONS:
        if operation.name in FOR[role] | ALSO[role]:
            call(operation, app, operation.prepare(owner, there.clock))
    assert there.owner.audit.verify().identical


#: These write what no role may.
OWNERS = {"audit.rebuild", "audit.rebuild, dry"}


@each_role
def test_each_role_is_refused_everything_else_that_writes(there: Cast, role: str) -> None:
    app = there.app(there.logins[role]).start()
    refused = [one for one in OPERATIONS if one.writes or one.name in OWNERS]
    for operation in [one for one in refused if one.name not in FOR[role] | ALSO[role]]:
        arguments = operation.prepare(there.owner, there.clock)
        before = there.stored()
        with pytest.raises(RunlaneError, match=r"denies this role|a follower needs SELECT on the sequence"):
            call(operation, app, arguments)
        # A tick is many steps, and both may recover what another worker held before they come to what they may not.
        is_partial = operation.path == "tick" and role in ("worker", "operator")
        assert is_partial or there.stored() == before, operation.name
    assert there.owner.audit.verify().identical


def test_a_refusal_names_the_missing_privilege(there: Cast) -> None:
    refused = [
        ("auditor", lambda app: app.trigger(echo, 1), r"denied for table (events|runs) \(it needs INSERT\)"),
        ("worker", lambda app: app.queues.pause("main"), r"for table queues \(it needs (INSERT|UPDATE)\)"),
        ("operator", lambda app: app.runs.prune("1d"), r"for function lock_for_pruning \(it needs EXECUTE\)"),
        ("producer", lambda app: app.runs.cancel(run.id), r"for table runs \(it needs SELECT, UPDATE to lock rows\)"),
    ]
    run = there.owner.run_now(echo, 1).run
    there.clock.advance(timedelta(days=2))
    for role, attempt, message in refused:
        with pytest.raises(ConfigurationInvalid, match=message) as caught:
            attempt(there.app(there.logins[role]).start())
        assert caught.value.meta["denied"].split()[1] in message


def test_a_producer_gives_back_the_key_of_what_a_singleton_refused(there: Cast) -> None:
    app = there.app(there.logins["producer"]).start()
    app.trigger(echo, 1, singleton_key="one")
    again = app.trigger(echo, 2, singleton_key="one", idempotency_key="fresh")
    assert (again.outcome, app.trigger(echo, 3, idempotency_key="fresh").outcome) == ("reused_singleton", "created")


@pytest.mark.parametrize("role", ["producer", "maintainer", "operator"])
def test_what_it_makes_is_published_at_once(there: Cast, role: str, caplog: pytest.LogCaptureFixture) -> None:
    app = there.app(there.logins[role], delivers=True).start()
    run = app.trigger(echo, 1).run
    assert run.id in {wakeup.run_id for wakeup in app.lane.transport.take()}
    assert not caplog.records


def test_a_worker_that_keeps_house_has_two_roles(there: Cast) -> None:
    there.owner.trigger(echo, 1)
    with there.app(there.login("worker", "maintainer"), heartbeat="1s", lease_duration="3s") as app:
        session = app._runtime.session()
        assert session.beat()
        app.worker("drain").run()
        app._runtime.keep_house(1.0)
        kept = f"select count(*) from runlane.maintainers where session_id = '{session.holder.session_id}'"
        assert there.execute(kept) == [(1,)]
        app._runtime.leave_house(1.0)
        assert there.execute(kept) == [(0,)]
    assert there.execute(f"select from runlane.sessions where id = '{session.holder.session_id}'") == []


def test_a_maintainer_opens_a_new_epoch_after_a_restore(there: Cast) -> None:
    there.execute("update runlane.log_epochs set identity = '1/00000001/1'")
    before = there.execute("select count(*) from runlane.log_epochs")[0][0]
    there.app(there.logins["worker"]).start()
    assert there.execute("select count(*) from runlane.log_epochs") == [(before,)]
    there.app(there.logins["maintainer"]).start()
    assert there.execute("select count(*) from runlane.log_epochs") == [(before + 1,)]


def test_only_told_histories_go_through_the_function(there: Cast) -> None:
    run = there.owner.run_now(echo, 1).run
    with psycopg.connect(there.logins["pruner"]) as connection:
        for told in ("null, null", f"'{run.id}', 1"):
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="append-only"):
                connection.execute(f"select runlane.prune_runs({told}, array['{run.id}'::uuid])")
            connection.rollback()
    assert there.owner.runs.get(run.id) == run


def test_every_operation_has_its_place() -> None:
    """What no role is for is the owner's, or takes two roles."""
    placed = set().union(*FOR.values()) | OWNERS
    rest: list[Operation] = [one for one in OPERATIONS if one.name not in placed]
    owners = {"project", "projections.rebuild", "projections.remove", "audit.repair"}
    assert {one.path for one in rest} == {"run_now", "follow", *owners}
