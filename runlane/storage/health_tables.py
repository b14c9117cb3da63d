"""Whether the tables are there, in the version that this program needs, and as they were made."""

from __future__ import annotations

from runlane.health import Check, Health
from runlane.projections import version as version_of_folds
from runlane.storage import install, postgres_shape, shapes, sqlite_shape
from runlane.storage.health import Look
from runlane.storage.tables import VERSION, inline_projections

_MIGRATE, _UPGRADE = "run `runlane migrate`", "upgrade the runlane package of this program"


def tables(look: Look) -> Check:
    """The version of the tables, and that of the folds that have filled them."""
    connection, schema = look.tx.connection, look.database.schema
    version, needed, folds = install.installed_version(connection, schema), VERSION, version_of_folds.PROJECTION_VERSION
    values = {"version": version, "needed": needed, "folds_needed": folds}
    if version is None:
        told = "some of Runlane's tables are there, but not the one that says of which version they are"
        advice = "restore the table schema_version from a backup, or the whole database"
        return Check("tables", Health.CRITICAL, told, advice, values)
    if version != needed:
        told = f"the tables have version {version}, and this program needs {needed}"
        return Check("tables", Health.CRITICAL, told, _MIGRATE if version < needed else _UPGRADE, values)
    folded = install.folded_by(connection, schema) or 0
    values["folds"] = folded
    if folded != folds:
        told = f"the tables were folded by version {folded} of the folds, and this program has {folds}"
        return Check("tables", Health.CRITICAL, told, _MIGRATE if folded < folds else _UPGRADE, values)
    return Check("tables", Health.OK, f"the tables have version {version}, folded by version {folded}", None, values)


def schema(look: Look) -> Check:
    """Columns, constraints, indexes, triggers and functions, compared with those that Runlane makes."""
    version = install.installed_version(look.tx.connection, look.database.schema)
    if version not in (None, VERSION):
        told = f"not compared: of version {version} of the tables this program does not know what was made"
        return Check("schema", Health.WARNING, told, "see the check `tables`", {"version": version})
    if look.database.schema is None:
        expected = sqlite_shape.expected()
        return shapes.judged(expected, sqlite_shape.found(look.asked, expected))
    found = postgres_shape.found(look.asked, look.database.schema)
    there = ("table", inline_projections.name) in found
    inline = there and bool(look.asked(f'select from "{look.database.schema}".inline_projections limit 1'))
    return shapes.judged(postgres_shape.expected(look.database.schema, inline), found)
