"""``schema.sql``, which makes the tables on PostgreSQL, and single statements of it."""

from __future__ import annotations

import re
from importlib import resources

from runlane.errors import ConfigurationInvalid


def whole() -> str:
    """All of it."""
    return (resources.files("runlane") / "schema.sql").read_text("utf-8")


def function(name: str) -> str:
    """The statement that creates the function of this name."""
    found = re.search(rf"^create function {re.escape(name)}\(.*?^\$\$;$", whole(), re.DOTALL | re.MULTILINE)
    if found is None:
        raise ConfigurationInvalid(f"schema.sql has lost its function {name}")
    return found[0]
