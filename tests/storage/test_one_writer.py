"""Only storage/log.py writes events and the tables folded from them, storage/restore.py puts back what another log
holds, only storage/prune.py removes what they wrote, and only repairs make rows again from events: proven over the
sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import runlane
from runlane.storage import script

ROOT = Path(runlane.__file__).parent
MODULES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted(ROOT.rglob("*.py"))
    # The suite for other people's storages tries what a database has to refuse.
    if "__pycache__" not in path.parts and "conformance" not in path.parts
]
WRITER = "storage/log.py"
#: Writes whole histories of another database into an environment without any.
RESTORER = "storage/restore.py"
#: Takes whole histories away again, and writes nothing.
PRUNER = "storage/prune.py"
#: Gives what an earlier version has written its digests, when the tables are brought up to date.
BACKFILL = "storage/backfill.py"
#: What makes rows from events again, and appends none.
MENDERS = {"storage/repair.py", "storage/shadows.py"}
#: Where the writer's statements are spelled out per database.
CLAIMS = "storage/postgres_claims.py"
BIRTHS = "storage/postgres_births.py"
STATEMENTS = {"storage/postgres.py", BIRTHS, CLAIMS, "storage/sqlite.py"}
FOLDED = {"events", "runs", "idempotency_keys", "schedules", "occurrences", "queues"}
#: The dialects' methods that change those tables.
DIALECT_WRITES = {
    "insert_events",
    "insert_runs",
    "update_runs",
    "lease_runs",
    "finish_runs",
    "finish_and_lease",
    "claim_keys",
}
#: The one that removes rows of them.
DIALECT_DELETE = "delete_runs"
_WRITE_SQL = re.compile(
    r"\b(?:insert\s+(?:or\s+\w+\s+)?into|update|delete\s+from|truncate(?:\s+table)?|merge\s+into)\s+"
    r"(?:\{\}\.|\w+\.)?(" + "|".join(sorted(FOLDED)) + r")\b",
    re.IGNORECASE,
)


@cache
def parsed(module: str) -> ast.Module:
    """The source of a module of the package."""
    return ast.parse((ROOT / module).read_text("utf-8"))


def sql_writes(tree: ast.AST) -> set[str]:
    """The folded tables that texts of a module write."""
    found: set[str] = set()
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            text = node.value
        else:
            continue
        found |= {match[1].lower() for match in _WRITE_SQL.finditer(text)}
    return found


def aliases(tree: ast.AST) -> dict[str, set[str]]:
    """Names that a module gives to tables."""
    found: dict[str, set[str]] = {}

    def assign(target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=True):
                assign(one, other)
        elif isinstance(target, ast.Name) and ast.unparse(value).startswith("tables."):
            found.setdefault(target.id, set()).add(ast.unparse(value).removeprefix("tables.").partition(".")[0])

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                assign(target, node.value)
    return found


def core_writes(tree: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """Each insert, update or delete made with SQLAlchemy: the verb, and the tables it may be about."""
    known = aliases(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in ("insert", "update", "delete"):
            continue
        table = node.args[0] if isinstance(node.func, ast.Name) and node.args else getattr(node.func, "value", None)
        text = "" if table is None else ast.unparse(table)
        if text.startswith("tables."):
            yield name, {text.removeprefix("tables.")}
        elif text in known:
            yield name, known[text]
        elif isinstance(node.func, ast.Name):
            yield name, {f"unresolved {text}"}


def dialect_calls(tree: ast.AST) -> set[str]:
    called = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    return called & {*DIALECT_WRITES, DIALECT_DELETE}


OTHERS = [module for module in MODULES if module != WRITER]


@pytest.mark.parametrize("module", sorted(set(OTHERS) - STATEMENTS - {BACKFILL}))
def test_no_text_of_another_module_writes_a_folded_table(module: str) -> None:
    assert sql_writes(parsed(module)) == set()


def test_what_fills_in_digests_writes_nothing_else() -> None:
    assert sql_writes(parsed(BACKFILL)) == {"events", "runs"}
    changed = re.findall(r"(\w+\s+\w+)\s+(?:events|runs)\b", (ROOT / BACKFILL).read_text("utf-8"))
    assert not {words for words in changed if words.split()[0] in ("insert", "delete", "truncate", "merge")}
    assert set(re.findall(r"update (?:events|runs) set (\w+)", (ROOT / BACKFILL).read_text("utf-8"))) == {"digest"}


@pytest.mark.parametrize("module", OTHERS)
def test_no_statement_of_another_module_writes_a_folded_table(module: str) -> None:
    for verb, targets in core_writes(parsed(module)):
        mends = module in MENDERS
        assert mends or not any(one.startswith("unresolved") for one in targets), f"{verb} of {targets}: name the table"
        restores = module == RESTORER and verb == "insert"
        assert restores or not targets & ({"events"} if mends else FOLDED), f"{module} has a {verb} of {targets}"


@pytest.mark.parametrize("module", sorted(set(OTHERS) - STATEMENTS))
def test_only_the_log_and_the_pruner_call_what_the_databases_spell_out(module: str) -> None:
    wanted = {PRUNER: {DIALECT_DELETE}, RESTORER: {"insert_events"}}
    assert dialect_calls(parsed(module)) == wanted.get(module, set())


def test_the_search_finds_the_one_writer() -> None:
    """If it found nothing there, it would find nothing elsewhere."""
    assert dialect_calls(parsed(WRITER)) == DIALECT_WRITES
    assert {"schedules", "occurrences", "idempotency_keys", "queues"} <= set().union(
        *(t for _, t in core_writes(parsed(WRITER)))
    )
    for module in STATEMENTS:
        wanted = {"events", "runs"} if module in (BIRTHS, CLAIMS) else {"events", "runs", "idempotency_keys"}
        assert sql_writes(parsed(module)) >= wanted


_ONCE = {"events": 1, "runs": 1, "idempotency_keys": 1}
_DELETE_SQL = re.compile(r"delete\s+from\s+(?:\{\}\.)?(\w+)", re.IGNORECASE)


@pytest.mark.parametrize("module", MODULES)
def test_only_the_statement_of_the_pruner_deletes_history(module: str) -> None:
    """One statement per database and table, and it takes the run, its events and its key together."""
    source = (ROOT / module).read_text("utf-8")
    deleted = [name.lower() for name in _DELETE_SQL.findall(source.replace("{schema}", "{}"))]
    wanted = _ONCE if module == "storage/sqlite.py" else {}
    assert {name: deleted.count(name) for name in FOLDED if name in deleted} == wanted


def test_on_postgres_the_statement_of_the_pruner_stands_in_its_function() -> None:
    deleted = [name.lower() for name in _DELETE_SQL.findall(script.whole())]
    assert {name: deleted.count(name) for name in FOLDED if name in deleted} == _ONCE
    inside = [name.lower() for name in _DELETE_SQL.findall(script.function("prune_runs"))]
    assert deleted == inside


def test_events_are_never_updated_or_deleted_by_any_module() -> None:
    for module in MODULES:
        tree = parsed(module)
        assert not any(verb != "insert" and "events" in targets for verb, targets in core_writes(tree)), module


@pytest.mark.parametrize(
    "text",
    [
        "insert into runs values (1)",
        "UPDATE runlane.runs set x = 1",
        "delete from events",
        "insert or replace into runs",
    ],
)
def test_the_search_knows_a_write_when_it_sees_one(text: str) -> None:
    assert sql_writes(ast.parse(repr(text)))
    assert sql_writes(ast.parse("f" + repr(text.replace("runlane.", "{schema}."))))
