"""Creating and checking the tables: ``schema.sql`` on PostgreSQL, the metadata on SQLite."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, func, insert, inspect, select

from runlane.errors import ConfigurationInvalid
from runlane.projections import version as version_of_folds
from runlane.storage import faults, roles, script, sqlite_ddl, tables, upgrades
from runlane.storage.tables import SCHEMA, VERSION

#: Serialises concurrent migrators of one database; any constant nobody else uses.
_MIGRATION_LOCK = 0x52756E6C616E65
_FOLDED = tables.projection_version
_HEAD = "create schema if not exists runlane;\nset local search_path to runlane, pg_temp;\n"


def schema_name(name: str) -> str:
    """`name`, if it can be a schema's name."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$]{0,62}", name):
        raise ConfigurationInvalid(f"schema must be a plain SQL name of at most 63 characters; got {name!r}")
    return name


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + schema_name(name).replace('"', '""') + '"'


def migrate(connection: Connection, schema: str | None, prefix: str | None = None) -> tuple[int, bool]:
    """Create or upgrade the tables within the open transaction, and the roles if their `prefix` is given; the version,
    and whether the folds have changed since the rows were made.

    Raises:
        ConfigurationInvalid: the tables are newer than this Runlane, or the roles cannot be made.
    """
    if schema is not None:
        connection.exec_driver_sql("select pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
    reached = _migrate_tables(connection, schema)
    if schema is not None and prefix is not None:
        roles.make(connection, schema, prefix)
    return reached


def _migrate_tables(connection: Connection, schema: str | None) -> tuple[int, bool]:
    version = installed_version(connection, schema)
    if version is None:
        _create(connection, schema)
        _stamp(connection, schema, VERSION)
        fold(connection, schema)
        return VERSION, False
    if version > VERSION:
        raise ConfigurationInvalid(_too_new(version))
    for reached in range(version + 1, VERSION + 1):
        upgrades.STEPS[reached](connection.execution_options(schema_translate_map={SCHEMA: schema}), schema)
        _stamp(connection, schema, reached)
    return VERSION, is_outdated(connection, schema)


def check(connection: Connection, schema: str | None, where: str) -> None:
    """Raise ``ConfigurationInvalid`` unless the tables are there, in this version."""
    version = installed_version(connection, schema)
    if version is None:
        raise faults.not_migrated(where)
    if version > VERSION:
        raise ConfigurationInvalid(f"{where}: {_too_new(version)}")
    if version < VERSION:
        raise ConfigurationInvalid(f"{where} has schema version {version}; run `runlane migrate` to reach {VERSION}")
    folded = folded_by(connection, schema)
    if folded is None or folded < version_of_folds.PROJECTION_VERSION:
        raise ConfigurationInvalid(
            f"{where} was folded by version {folded or 0} of the folds; run `runlane migrate` to rebuild it by version "
            f"{version_of_folds.PROJECTION_VERSION}"
        )
    if folded > version_of_folds.PROJECTION_VERSION:
        raise ConfigurationInvalid(
            f"{where} was folded by version {folded} of the folds, and this Runlane knows "
            f"{version_of_folds.PROJECTION_VERSION}; upgrade the runlane package"
        )


def is_outdated(connection: Connection, schema: str | None) -> bool:
    """Whether the tables were folded by an older version of the folds than this Runlane has."""
    return (folded_by(connection, schema) or 0) < version_of_folds.PROJECTION_VERSION


def folded_by(connection: Connection, schema: str | None) -> int | None:
    """The version of the folds by which the tables were made from the log, if that is known."""
    found: int | None = connection.execute(
        select(func.max(_FOLDED.c.version)), execution_options={"schema_translate_map": {SCHEMA: schema}}
    ).scalar_one()
    return found


def fold(connection: Connection, schema: str | None) -> None:
    """Note that the tables have been made from the log by this Runlane's folds."""
    options = {"schema_translate_map": {SCHEMA: schema}}
    mine = {"version": version_of_folds.PROJECTION_VERSION, "folded_at": datetime.now(UTC)}
    connection.execute(delete(_FOLDED).where(_FOLDED.c.version == mine["version"]), execution_options=options)
    connection.execute(insert(_FOLDED).values(**mine), execution_options=options)


def installed_version(connection: Connection, schema: str | None) -> int | None:
    """The newest applied version, or None where Runlane was never installed."""
    if not inspect(connection).has_table("schema_version", schema=schema):
        return None
    statement = select(tables.schema_version.c.version).order_by(tables.schema_version.c.version.desc()).limit(1)
    found: int | None = connection.execute(
        statement, execution_options={"schema_translate_map": {SCHEMA: schema}}
    ).scalar_one_or_none()
    return found


def ddl(schema: str) -> str:
    """The text of ``schema.sql`` for a schema of this name, without the roles."""
    text = script.tables()
    if _HEAD not in text:
        raise ConfigurationInvalid("schema.sql has lost its first two statements")
    name = quoted(schema)
    return text.replace(_HEAD, f"create schema if not exists {name};\nset local search_path to {name}, pg_temp;\n")


def _stamp(connection: Connection, schema: str | None, version: int) -> None:
    stamp = insert(tables.schema_version).values(version=version, applied_at=datetime.now(UTC))
    connection.execute(stamp, execution_options={"schema_translate_map": {SCHEMA: schema}})


def _create(connection: Connection, schema: str | None) -> None:
    if schema is None:
        for statement in sqlite_ddl.statements():
            connection.exec_driver_sql(statement)
        return
    # Without parameters psycopg sends the whole script at once, in this transaction.
    connection.exec_driver_sql(ddl(schema), execution_options={"no_parameters": True})
    connection.exec_driver_sql("reset search_path")


def _too_new(version: int) -> str:
    return f"the tables have version {version}, and this Runlane knows {VERSION}; upgrade the runlane package"
