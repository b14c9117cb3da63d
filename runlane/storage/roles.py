"""The least-privilege roles of PostgreSQL, as ``schema.sql`` has them: made where they are missing, and granted anew.

A role belongs to the whole server.  So its name begins with the schema's, or with a prefix that the operator chose, and
the comment of a role that Runlane made says which database it was made for; one that says another is never granted
anything here.  An administrator may make the roles beforehand, where the owner of the tables may not.
"""

from __future__ import annotations

import re

from sqlalchemy import Connection, text

from runlane.errors import ConfigurationInvalid
from runlane.storage import script

#: What a process can be, and what its role's name ends with.
NAMES = ("producer", "worker", "maintainer", "operator", "pruner", "auditor")
_LONGEST = 63 - max(map(len, NAMES)) - 1
_PREFIX = re.compile(rf"[A-Za-z_][A-Za-z0-9_$]{{0,{_LONGEST - 1}}}")
_NAMED = re.compile(rf"(\'?)\brunlane_({'|'.join(NAMES)})\b")
_FOUND = text(
    "select rolname, shobj_description(oid, 'pg_authid') from pg_roles where rolname = any(:names) order by rolname"
)
_MAY_MAKE = text("select rolsuper or rolcreaterole from pg_roles where rolname = current_user")
_MINE = text("select format('Runlane: schema %s of database %s', cast(:schema as text), current_database())")


def prefix_of(roles: bool | str, schema: str | None) -> str | None:
    """What the names of the roles begin with; None if none are asked for.

    Raises:
        ConfigurationInvalid: roles are asked for where there are none, or this cannot begin their names.
    """
    if roles is False:
        return None
    if not isinstance(roles, bool | str):
        raise ConfigurationInvalid(f"roles must be True, False or the prefix of their names; got {roles!r}")
    if schema is None:
        raise ConfigurationInvalid("roles are made on PostgreSQL only; who may use a file is said by its permissions")
    prefix = schema if roles is True else roles
    if not _PREFIX.fullmatch(prefix) or prefix.startswith("pg_"):
        raise ConfigurationInvalid(
            f"the prefix of roles must be a plain SQL name of at most {_LONGEST} characters that does not begin with "
            f"pg_; got {prefix!r}"
        )
    return prefix


def names(prefix: str) -> list[str]:
    """The roles of an installation."""
    return [f"{prefix}_{name}" for name in NAMES]


def make(connection: Connection, schema: str, prefix: str) -> None:
    """Make the roles that are missing, and grant all of them exactly what they need, within the open transaction.

    Raises:
        ConfigurationInvalid: one belongs to another installation, or is missing and this user may not make roles.
    """
    _check_owners(connection, schema, prefix)
    missing = set(names(prefix)) - {name for name, _ in _found(connection, prefix)}
    if missing and not connection.execute(_MAY_MAKE).scalar_one():
        wanted = " ".join(f"create role {_quoted(name)} nologin;" for name in sorted(missing))
        raise ConfigurationInvalid(
            f"this user may not create roles (CREATEROLE); have an administrator run `{wanted}` and migrate again"
        )
    connection.exec_driver_sql(f'set local search_path to "{schema}", pg_temp')
    connection.exec_driver_sql(statements(schema, prefix), execution_options={"no_parameters": True})
    connection.exec_driver_sql("reset search_path")
    _check_owners(connection, schema, prefix)  # of those that another database made at the same moment


def statements(schema: str, prefix: str) -> str:
    """The part of ``schema.sql`` that makes the roles, with these names."""

    def named(found: re.Match[str]) -> str:
        name = f"{prefix}_{found[2]}"
        return f"'{name}" if found[1] else _quoted(name)

    return re.sub(r"\bon schema runlane\b", f"on schema {_quoted(schema)}", _NAMED.sub(named, script.roles()))


def _check_owners(connection: Connection, schema: str, prefix: str) -> None:
    mine = connection.execute(_MINE, {"schema": schema}).scalar_one()
    for name, comment in _found(connection, prefix):
        if comment is not None and comment.startswith("Runlane: ") and comment != mine:
            raise ConfigurationInvalid(
                f"the role {name} belongs to another installation ({comment.removeprefix('Runlane: ')}); choose a "
                f"prefix of your own (--role-prefix), or `comment on role {_quoted(name)} is null` if that one is gone"
            )


def _found(connection: Connection, prefix: str) -> list[tuple[str, str | None]]:
    return [(row[0], row[1]) for row in connection.execute(_FOUND, {"names": names(prefix)})]


def _quoted(name: str) -> str:
    return f'"{name}"'
