"""PostgreSQL: shadows are tables beside the live ones, and take their names at the end.

What was appended while they were built is found by ``events.tx``: a transaction that a snapshot does not see has an id
of at least the snapshot's xmin, whatever the order in which identity values were drawn and committed.  So all that is
missing in what was folded under one snapshot or later ones has a ``tx`` from that xmin on; streams found without need
are only folded again.  The upper bound, the first id not yet given away, leaves out events that came from another
cluster with a dump and have ids of there.  It takes one pass over the log: no index is kept for it, which every append
would pay for.  The last time it is made the tables are locked: that pass is most of the time for which others wait
(measured: 1.4 s for a million events, on two cores that had twice as much to do).

The lock is asked for again and again with short patience, as everybody else queues up behind who waits for it.  Where
views, foreign keys, policies or publications depend on the tables, which cannot follow a new table under the old name,
the live ones are put right row by row instead.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from runlane.storage.folding import Row
from runlane.storage.install import quoted
from runlane.storage.shadows import LIVE, PREFIX, PRUNED, RESETS, Shadows
from runlane.storage.tables import SCHEMA
from runlane.storage.transaction import Transaction

#: Our connections are made for the plans of small statements; these read whole tables.
_PLANS = (
    "set local enable_seqscan = on; set local enable_bitmapscan = on; set local enable_mergejoin = on;"
    "set local plan_cache_mode = auto; set local idle_in_transaction_session_timeout = 0"
)
_LOCK = 0x52756E6C  # with the schema's name: one rebuild at a time
_INDEXES = """
    select i.indexrelid::int8 as oid, c.relname as name, pg_get_indexdef(i.indexrelid) as definition, i.indisprimary,
      con.conname as constrains, con.contype as kind
    from pg_index i join pg_class c on c.oid = i.indexrelid
    left join pg_constraint con
      on con.conindid = i.indexrelid and con.conrelid = i.indrelid and con.contype in ('p', 'u')
    where i.indrelid = %s::regclass order by i.indisprimary desc, c.relname"""
_OPTIONS = "select unnest(reloptions) from pg_class where oid = %s::regclass"
_TRIGGERS = """
    select tgname, pg_get_triggerdef(oid), tgenabled from pg_trigger
    where tgrelid = %s::regclass and not tgisinternal order by tgname"""
_GRANTS = """
    select case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end, a.privilege_type,
      a.is_grantable, null
    from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a where c.oid = %s::regclass
    union all
    select case when a.grantee = 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end, a.privilege_type,
      a.is_grantable, quote_ident(t.attname)
    from pg_attribute t, aclexplode(t.attacl) a where t.attrelid = %s::regclass and not t.attisdropped"""
_OWNER = """
    select quote_ident(pg_get_userbyid(relowner)), quote_literal(obj_description(oid, 'pg_class'))
    from pg_class where oid = %s::regclass"""
_DEPENDENTS = """
    select pg_describe_object(d.classid, d.objid, d.objsubid) from pg_class c join pg_depend d
      on d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
      or d.refclassid = 'pg_type'::regclass and d.refobjid = c.reltype
    where c.oid = any(%s::regclass[]) and d.deptype = 'n' and d.classid <> 'pg_trigger'::regclass
      and not (d.classid = 'pg_constraint'::regclass
        and exists (select from pg_constraint k where k.oid = d.objid and k.conrelid = c.oid))
    union all
    select 'policy ' || polname from pg_policy where polrelid = any(%s::regclass[])
    union all
    select 'publication' from pg_publication_rel where prrelid = any(%s::regclass[])
    union all
    select 'inheritance' from pg_inherits where inhrelid = any(%s::regclass[]) or inhparent = any(%s::regclass[])"""


class PostgresShadows:
    """How a rebuild works on one schema of a server."""

    schema = SCHEMA
    is_json_opaque = True

    def __init__(self, schema: str) -> None:
        self._schema = quoted(schema)
        self._name = schema

    def put(self, tx: Transaction, name: str, columns: Sequence[str], found: Sequence[Row]) -> None:
        statement = f"copy {self._shadow(name)} ({', '.join(columns)}) from stdin"
        driver: Any = tx.connection.connection.driver_connection
        with _told(tx, statement):
            with driver.cursor() as cursor, cursor.copy(statement) as copy:
                for row in found:
                    copy.write_row(row)

    def lock(self, tx: Transaction) -> bool:
        """Whether no other rebuild is under way; the connection holds the lock from now on."""
        locked: bool = tx.connection.exec_driver_sql(
            "select pg_try_advisory_lock(%s, hashtext(%s))", (_LOCK, self._name)
        ).scalar_one()
        return locked

    def unlock(self, tx: Transaction) -> None:
        """Let others rebuild."""
        tx.connection.exec_driver_sql("select pg_advisory_unlock(%s, hashtext(%s))", (_LOCK, self._name))

    def create(self, tx: Transaction) -> None:
        """Make empty shadows; those that a killed rebuild has left go."""
        self.drop(tx)
        for name, live in {**LIVE, RESETS: LIVE["idempotency_keys"]}.items():
            source, shadow = self._live(live.name), self._shadow(name)
            self._do(tx, f"create table {shadow} (like {source} including all excluding indexes)")
            for (option,) in self._ask(tx, _OPTIONS, source):
                self._do(tx, f"alter table {shadow} set ({option})")

    def add_keys(self, tx: Transaction) -> None:
        """What rows are found by, once the first ones are there."""
        for name, live in {**LIVE, RESETS: LIVE["idempotency_keys"]}.items():
            self._index(tx, name, live.name, primary=True)
            self._do(tx, f"analyze {self._shadow(name)}")

    def add_indexes(self, tx: Transaction) -> None:
        """All indexes and constraints that the live tables have, whoever made them, under names for the time being."""
        for name in LIVE:
            self._index(tx, name, name, primary=False)

    def mark(self, tx: Transaction) -> str:
        """How far the log can have been read by what follows: see above."""
        for setting in _PLANS.split(";"):
            self._do(tx, setting)
        horizon: str = tx.connection.exec_driver_sql(
            "select pg_snapshot_xmin(pg_current_snapshot())::text"
        ).scalar_one()
        return horizon

    def touched(self, tx: Transaction, mark: str) -> Generator[Sequence[Any], None, None]:
        """The streams that may have been appended to since: id, the least of the new events' types, and whether one
        of these tells of pruned runs."""
        with tx.connection.execute(self._touched, {"mark": mark}) as found:
            yield from found

    @cached_property
    def _touched(self) -> Any:
        return text(
            f"select stream_id, min(type), bool_or(type = '{PRUNED}') from {self._live('events')}"
            " where tx >= cast(:mark as xid8) and tx < (select pg_snapshot_xmax(pg_current_snapshot()))"
            " group by stream_id"
        ).execution_options(yield_per=2000)

    def can_wait(self, tx: Transaction, milliseconds: int) -> None:
        """For how long this transaction may wait for a lock."""
        self._do(tx, f"set local lock_timeout = {milliseconds}")

    def hold(self, tx: Transaction) -> None:
        """Let nobody else write the live tables, or use them at all where they are going to be replaced."""
        mode = "share row exclusive" if self._dependents(tx) else "access exclusive"
        self._do(tx, f"lock table {', '.join(map(self._live, LIVE))} in {mode} mode")

    def exchange(self, tx: Transaction, shadows: Shadows) -> None:
        """Put the shadows in the place of the live tables."""
        if self._dependents(tx):
            shadows.put_right(tx)
            return
        for name in LIVE:
            self._replace(tx, name)

    def drop(self, tx: Transaction) -> None:
        """Remove the shadows."""
        for name in (*LIVE, RESETS):
            self._do(tx, f"drop table if exists {self._shadow(name)}")

    def _dependents(self, tx: Transaction) -> bool:
        """Whether something depends on the live tables that cannot follow them."""
        oids = [self._live(name) for name in LIVE]
        return tx.connection.exec_driver_sql(_DEPENDENTS, (oids,) * 5).first() is not None

    def _index(self, tx: Transaction, name: str, live: str, *, primary: bool) -> None:
        shadow = self._shadow(name)
        for index in self._ask(tx, _INDEXES, self._live(live)):
            if index.indisprimary is not primary:
                continue
            made = _for_the_time(name, index.oid)
            head, _, definition = index.definition.partition(" USING ")
            unique = "unique " if head.startswith("CREATE UNIQUE") else ""
            self._do(tx, f"create {unique}index {made} on {shadow} using {definition}")
            if index.kind is not None:
                kind = "primary key" if primary else "unique"
                self._do(tx, f"alter table {shadow} add constraint {made} {kind} using index {made}")

    def _replace(self, tx: Transaction, name: str) -> None:
        live, shadow = self._live(name), self._shadow(name)
        ((owner, comment),) = self._ask(tx, _OWNER, live)
        indexes, triggers = self._ask(tx, _INDEXES, live), self._ask(tx, _TRIGGERS, live)
        self._do(tx, f"alter table {shadow} owner to {owner}")
        granted, given = ({tuple(row) for row in self._ask(tx, _GRANTS, table, table)} for table in (live, shadow))
        self._do(tx, f"drop table {live}")
        self._do(tx, f"alter table {shadow} rename to {name}")
        for index in indexes:
            made = _for_the_time(name, index.oid)
            if index.kind is not None:
                constrains = _quote(index.constrains)
                self._do(tx, f"alter table {live} rename constraint {made} to {constrains}")
            else:
                self._do(tx, f"alter index {self._schema}.{made} rename to {_quote(index.name)}")
        for trigger, definition, enabled in triggers:
            self._do(tx, definition)
            if enabled != "O":
                how = {"A": "enable always", "R": "enable replica", "D": "disable"}[enabled]
                self._do(tx, f"alter table {live} {how} trigger {_quote(trigger)}")
        for role, privilege, _, column in sorted(given - granted, key=str):
            self._do(tx, f"revoke {privilege}{_of(column)} on {live} from {role}")
        for role, privilege, grantable, column in sorted(granted - given, key=str):
            option = " with grant option" if grantable else ""
            self._do(tx, f"grant {privilege}{_of(column)} on {live} to {role}{option}")
        if comment is not None:
            self._do(tx, f"comment on table {live} is {comment}")

    def _live(self, name: str) -> str:
        return f"{self._schema}.{name}"

    def _shadow(self, name: str) -> str:
        return f"{self._schema}.{PREFIX}{name}"

    @staticmethod
    def _do(tx: Transaction, statement: str) -> None:
        tx.connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    @staticmethod
    def _ask(tx: Transaction, question: str, *parameters: str) -> Sequence[Any]:
        found: Sequence[Any] = tx.connection.exec_driver_sql(question, parameters).all()
        return found


class _told:
    """Driver errors as SQLAlchemy's, where its own way cannot be taken."""

    def __init__(self, tx: Transaction, statement: str) -> None:
        self._dialect, self._statement = tx.connection.dialect, statement

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        driver: Any = self._dialect.dbapi
        if isinstance(error, driver.Error):
            raise DBAPIError.instance(self._statement, None, error, driver.Error, dialect=self._dialect) from error


def _for_the_time(name: str, oid: int) -> str:
    """The name of what stands for an index until the end."""
    return f"{PREFIX}{name}_{oid}"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _of(column: str | None) -> str:
    return "" if column is None else f" ({column})"
