"""What ``schema.sql`` makes on PostgreSQL, piece by piece, and what is there instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from hashlib import sha256
from typing import Any

from runlane.health import Health
from runlane.storage import inlining, script, tables
from runlane.storage.shapes import Piece, Shape, of, plain

_TYPES = {"timestamptz": "timestamp with time zone"}
_TABLE = re.compile(r"^create table (\w+) \(\n(.*?)^\)[^;]*;$", re.DOTALL | re.MULTILINE)
_INDEX = re.compile(r"^create (unique )?index (\w+) on (\w+)[^;]*;$", re.MULTILINE)
_TRIGGER = re.compile(r"^create trigger (\w+) [^;]*? on (\w+)\b[^;]*;$", re.MULTILINE)
_FUNCTION = re.compile(r"^create function (\w+)\((.*?)\$\$(.*?)\$\$;$", re.DOTALL | re.MULTILINE)
_ENUM = re.compile(r"^create type (\w+) as enum \((.*?)\);$", re.DOTALL | re.MULTILINE)
_OURS = [table.name for table in tables.metadata.tables.values()]

_OF_SCHEMA = "(select oid from pg_namespace where nspname = %s)"
_TABLES = f"""
    select relname, relpersistence::text, relrowsecurity, relkind::text from pg_class
    where relnamespace = {_OF_SCHEMA} and relkind in ('r', 'p', 'v', 'm', 'f')"""
_COLUMNS = f"""
    select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
      pg_get_expr(d.adbin, d.adrelid)
    from pg_class c join pg_attribute a on a.attrelid = c.oid
    left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.relnamespace = {_OF_SCHEMA} and c.relname = any(%s) and a.attnum > 0 and not a.attisdropped"""
_CONSTRAINTS = f"""
    select c.relname, k.conname, pg_get_constraintdef(k.oid), k.convalidated from pg_constraint k
    join pg_class c on c.oid = k.conrelid
    where c.relnamespace = {_OF_SCHEMA} and c.relname = any(%s) and k.contype in ('p', 'u', 'c', 'f', 'x')"""
_INDEXES = f"""
    select c.relname, i.relname, pg_get_indexdef(x.indexrelid), x.indisvalid and x.indisready, x.indisunique
    from pg_index x join pg_class c on c.oid = x.indrelid join pg_class i on i.oid = x.indexrelid
    where c.relnamespace = {_OF_SCHEMA} and c.relname = any(%s)
      and not exists (select from pg_constraint k where k.conindid = x.indexrelid and k.contype in ('p', 'u', 'x'))"""
_TRIGGERS = f"""
    select c.relname, t.tgname, pg_get_triggerdef(t.oid), t.tgenabled::text from pg_trigger t
    join pg_class c on c.oid = t.tgrelid
    where c.relnamespace = {_OF_SCHEMA} and c.relname = any(%s) and not t.tgisinternal"""
_RULES = "select tablename, rulename, definition from pg_rules where schemaname = %s and tablename = any(%s)"
_FUNCTIONS = f"""
    select proname, prosrc, prosecdef, array_to_string(proconfig, ',') from pg_proc where pronamespace = {_OF_SCHEMA}"""
_ENUMS = f"""
    select t.typname, string_agg(e.enumlabel, ' ' order by e.enumsortorder) from pg_type t
    join pg_enum e on e.enumtypid = t.oid where t.typnamespace = {_OF_SCHEMA} group by t.typname"""
_MODES = {"A": "always", "O": "not in replica mode", "R": "in replica mode only", "D": "disabled"}


def expected(schema: str, inline: bool = False) -> Shape:
    """What there should be in a schema of this name; with `inline` projections their guard as well."""
    pieces = of(_expected(schema))
    return {**pieces, **of(_inline(schema))} if inline else pieces


def _inline(schema: str) -> Iterator[Piece]:
    make, mend = inlining.guard(schema)
    told = f"{plain(make, schema)} {_MODES['A']}"
    yield Piece("trigger", f"events.{inlining.TRIGGER}", told, None, f"{make}; {mend}", mend)


@cache
def _script() -> str:
    """``schema.sql`` without comments and without the roles."""
    return re.sub(r"--[^\n]*", "", script.tables())


def _expected(schema: str) -> Iterator[Piece]:
    text, fixing = _script(), partial(_qualified, schema)
    for name, body in _TABLE.findall(text):
        yield Piece("table", name, "ordinary, logged")
        for part in _parts(body):
            yield _constraint(name, part) if part.startswith("constraint ") else _column(name, part)
            if "primary key" in part and not part.startswith("constraint "):
                column = part.split()[0]
                yield Piece("constraint", f"{name}.{name}_pkey", plain(f"primary key ({column})"))
    for found in _INDEX.finditer(text):
        unique, name, table = found.groups()
        severity = Health.CRITICAL if unique else Health.WARNING
        make = fixing(found[0].replace("index ", "index concurrently ", 1), table)
        mend = f'drop index concurrently "{schema}".{name}; {make}'
        yield Piece("index", f"{table}.{name}", plain(found[0]), severity, make, mend)
    for found in _TRIGGER.finditer(text):
        name, table = found.groups()
        mend = f'alter table "{schema}".{table} enable always trigger {name}'
        make = re.sub(r"function (?=\w+\(\)$)", f'function "{schema}".', fixing(found[0], table)) + "; " + mend
        told = f"{plain(found[0])} {_mode(text, table, name)}"
        yield Piece("trigger", f"{table}.{name}", told, None, make, mend)
    for name, head, body in _FUNCTION.findall(text):
        yield _function(name, body, "security definer" in head, "set search_path" in head)
    for name, labels in _ENUM.findall(text):
        yield Piece("type", name, " ".join(re.findall(r"'(\w+)'", labels)))


def _qualified(schema: str, statement: str, table: str) -> str:
    return re.sub(rf" on {table}\b", f' on "{schema}".{table}', " ".join(statement.split()).removesuffix(";"))


def _parts(body: str) -> list[str]:
    """The columns and constraints between the brackets of a table."""
    found, depth, part = [], 0, ""
    for character in body:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            found.append(part)
            part = ""
        else:
            part += character
    return [" ".join(one.split()) for one in (*found, part) if one.strip()]


def _column(table: str, part: str) -> Piece:
    name, kind, rest = (*part.split(" ", 2), "")[:3]
    default = re.search(r"default (\S+)", rest)
    return _told_column(
        table,
        name,
        _TYPES.get(kind, kind),
        "not null" in rest or "primary key" in rest,
        "identity" in rest,
        None if default is None else default[1],
    )


def _told_column(table: str, name: str, kind: str, not_null: bool, identity: bool, default: str | None) -> Piece:
    told = [kind, "not null" if not_null else "null"] + (["identity"] if identity else [])
    # A stranger's column that has to be filled, which nobody does, stops every insert.
    severity = Health.CRITICAL if not_null and not identity and default is None else None
    return Piece("column", f"{table}.{name}", " ".join([*told, *([f"default {default}"] if default else [])]), severity)


def _constraint(table: str, part: str) -> Piece:
    _, name, rest = part.split(" ", 2)
    return Piece("constraint", f"{table}.{name}", plain(rest))


def _mode(text: str, table: str, name: str) -> str:
    return "always" if f"alter table {table} enable always trigger {name};" in text else _MODES["O"]


def _function(name: str, body: str, definer: bool, path: bool) -> Piece:
    told = f"{'definer' if definer else 'invoker'}, {'fixed' if path else 'any'} search path"
    return Piece("function", name, f"{told}, {sha256(body.encode()).hexdigest()[:12]}")


def found(ask: Callable[[str, tuple[Any, ...]], list[Any]], schema: str) -> Shape:
    """What there is; `ask` gives the rows of a statement.  All of it from the catalogue, which everybody may read."""
    return of(_found(ask, schema))


def _found(ask: Callable[[str, tuple[Any, ...]], list[Any]], schema: str) -> Iterator[Piece]:
    ours = (schema, _OURS)
    for name, persistence, row_security, kind in ask(_TABLES, (schema,)):
        if name in _OURS or kind == "r":
            facts = ["ordinary" if kind == "r" else f"of kind {kind}", "logged" if persistence == "p" else "unlogged"]
            yield Piece("table", name, ", ".join(facts + (["row security"] if row_security else [])))
    for table, name, kind, not_null, identity, default in ask(_COLUMNS, ours):
        plain_kind = re.sub(r'^(".*"|\w+)\.', "", kind)
        yield _told_column(table, name, plain_kind, not_null, identity == "a", default)
    for table, name, definition, valid in ask(_CONSTRAINTS, ours):
        yield Piece("constraint", f"{table}.{name}", plain(definition, schema) + ("" if valid else " not valid"))
    for table, name, definition, valid, unique in ask(_INDEXES, ours):
        severity = Health.WARNING if unique else Health.OK  # of a stranger's: it may refuse what we write
        told = plain(definition, schema) + ("" if valid else " invalid")
        yield Piece("index", f"{table}.{name}", told, severity)
    for table, name, definition, mode in ask(_TRIGGERS, ours):
        yield Piece("trigger", f"{table}.{name}", f"{plain(definition, schema)} {_MODES[mode]}")
    for table, name, definition in ask(_RULES, ours):
        yield Piece("rule", f"{table}.{name}", plain(definition, schema))
    for name, body, definer, settings in ask(_FUNCTIONS, (schema,)):
        yield _function(name, body, definer, "search_path=" in (settings or ""))
    for name, labels in ask(_ENUMS, (schema,)):
        yield Piece("type", name, labels)
