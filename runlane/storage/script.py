"""``schema.sql``, which makes the tables on PostgreSQL, and single statements of it."""

from __future__ import annotations

import re
from importlib import resources

from runlane.errors import ConfigurationInvalid

#: Where the part begins that is executed only if it is asked for.
_ROLES = "\n-- The roles. "


def whole() -> str:
    """All of it."""
    return (resources.files("runlane") / "schema.sql").read_text("utf-8")


def tables() -> str:
    """What makes the tables, without the roles."""
    return _parted()[0]


def roles() -> str:
    """What makes the roles, for tables that are there."""
    return _parted()[1]


def _parted() -> tuple[str, str]:
    first, mark, second = whole().partition(_ROLES)
    if not mark:
        raise ConfigurationInvalid("schema.sql has lost the line where its roles begin")
    return first + "\n", mark + second


def function(name: str) -> str:
    """The statement that creates the function of this name."""
    found = re.search(rf"^create function {re.escape(name)}\(.*?\$\$;$", whole(), re.DOTALL | re.MULTILINE)
    if found is None:
        raise ConfigurationInvalid(f"schema.sql has lost its function {name}")
    return found[0]
