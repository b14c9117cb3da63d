"""Whether the tables are there, in the version that this program needs, and as they were made."""

from __future__ import annotations

from runlane.health import Check, Health
from runlane.projections import version as version_of_folds
from runlane.storage import install, postgres_shape, shapes, sqlite_shape
from runlane.storage.health import Look
from runlane.storage.spans import some
from runlane.storage.tables import VERSION

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
    expected = postgres_shape.expected(look.database.schema)
    return shapes.judged(expected, postgres_shape.found(look.asked, look.database.schema))


def settings(look: Look) -> Check:
    """PostgreSQL: settings under which a crash loses what was committed, or which let the tables rot."""
    names = ("fsync", "full_page_writes", "autovacuum", "track_counts", "synchronous_commit")
    listed = ", ".join(f"current_setting('{name}')" for name in names)
    values = dict(zip(names, look.asked(f"select {listed}")[0], strict=True))
    off = [name for name in names[:4] if values[name] == "off"]
    if off:
        harm = {
            "fsync": "a crash of the machine destroys the database",
            "full_page_writes": "a crash of the machine tears pages",
            "autovacuum": "dead rows are never removed",
            "track_counts": "autovacuum does not know where it is needed",
        }
        told = "; ".join(f"{name} is off: {harm[name]}" for name in off)
        advice = "; ".join(f"alter system set {name} = on" for name in off) + "; select pg_reload_conf()"
        return Check("settings", Health.CRITICAL, told, advice, values)
    asynchronous = values["synchronous_commit"] in ("off", "local")
    if asynchronous and look.database.chose_speed:
        told = "synchronous_commit is off, as this program has chosen: a crash may lose the last moments before it"
        return Check("settings", Health.OK, told, None, values)
    if asynchronous:
        lost = "a crash" if values["synchronous_commit"] == "off" else "a failover"
        told = f"synchronous_commit is {values['synchronous_commit']}: {lost} may lose what was acknowledged before it"
        advice = "`alter role … set synchronous_commit = on` for the role of this program, or `alter database`"
        return Check("settings", Health.WARNING, told, advice, values)
    return Check("settings", Health.OK, f"{some(names, 9)} are as they should be", None, values)
