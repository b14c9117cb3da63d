"""What PostgreSQL refuses a role, told so that an administrator knows what to grant.

The server names the object and not the privilege; which ones a statement needs on a table stands in the statement.
"""

from __future__ import annotations

import re

from runlane.errors import ConfigurationInvalid

_OBJECT = re.compile(r"permission denied for (relation|table|view|sequence|function|schema) (\S+)")
_NAMED = r'\s+(?:only\s+)?(?:"?[\w$%]+"?\.)?"?{name}"?(?![\w$])'
_VERBS = {"INSERT": "insert into", "UPDATE": "update", "DELETE": "delete from", "SELECT": "(?:from|join|using)"}
_LOCKS = re.compile(r"\bfor (?:no key )?update\b")
_OTHERS = {"function": ["EXECUTE"], "sequence": ["SELECT"], "schema": ["USAGE, to make tables CREATE"]}


def denied(text: str, statement: str | None, where: str) -> ConfigurationInvalid:
    """The error for what a role may not do.

    Args:
        text: what the server said.
        statement: what it was asked, if that is known.
        where: names the database.
    """
    said = text.splitlines()[0]
    found = _OBJECT.match(said)
    wanted = [] if found is None else needed(statement or "", found[1], found[2])
    needs = f" (it needs {', '.join(wanted)})" if wanted else ""
    return ConfigurationInvalid(
        f"{where} denies this role: {said}{needs}; docs/roles.md tells which role may do what",
        meta={"denied": said.removeprefix("permission denied for "), "needs": wanted},
    )


def needed(statement: str, kind: str, name: str) -> list[str]:
    """The privileges that a statement needs on an object, as far as its text tells."""
    if kind in _OTHERS:
        return _OTHERS[kind]
    text = statement.lower()
    named = _NAMED.format(name=re.escape(name.lower()))
    found = [privilege for privilege, verb in _VERBS.items() if re.search(rf"(?<![\w$]){verb}{named}", text)]
    return [*found, "UPDATE to lock rows"] if "SELECT" in found and _LOCKS.search(text) else found
