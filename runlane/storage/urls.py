"""URLs of databases: which are accepted, and how messages speak of them."""

from __future__ import annotations

import re

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from runlane.errors import ConfigurationInvalid
from runlane.shown import shown

_ACCEPTED = "memory:, sqlite:///file.db or postgresql://user@host/database"
#: What Python's driver of SQLite takes itself.
_OF_DRIVER = frozenset({"uri", "timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements"})


def parsed(url: str) -> URL:
    """What `url` names, with the driver that is used.

    Raises:
        ConfigurationInvalid: it names no database that Runlane knows.
    """
    if not isinstance(url, str) or not url:
        raise ConfigurationInvalid(f"the database must be a URL such as {_ACCEPTED}; got {shown(url)}")
    if url == "memory:":
        return make_url("sqlite+pysqlite://")
    try:
        found = make_url(url)
        backend = found.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ConfigurationInvalid(f"unknown database URL {shown(_redact(url))}; use {_ACCEPTED}") from None
    if found.drivername in ("sqlite", "sqlite+pysqlite"):
        return _heeded(found.set(drivername="sqlite+pysqlite"), url)
    if found.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return found.set(drivername="postgresql+psycopg")
    raise ConfigurationInvalid(f"unknown database {backend!r} in URL {shown(_redact(url))}; use {_ACCEPTED}")


def _heeded(found: URL, url: str) -> URL:
    """The URL of a SQLite database, if everything in it counts: SQLite's own options do in a URI only.

    Raises:
        ConfigurationInvalid: naming what would be ignored, or is not valid.
    """
    if found.host is not None or found.username is not None:
        told = shown(_redact(url))
        raise ConfigurationInvalid(f"{told} names a host; write sqlite:///file.db, or sqlite:////srv/file.db")
    of_driver = {name: value for name, value in found.query.items() if name in _OF_DRIVER}
    try:
        _, options = found.get_dialect()().create_connect_args(found.set(query=of_driver))
    except (ArgumentError, TypeError, ValueError) as error:
        raise ConfigurationInvalid(f"an option in database URL {shown(_redact(url))} is not valid: {error}") from None
    is_uri = bool(options.get("uri")) and (found.database or "").startswith("file:")
    ignored = [] if is_uri else sorted(set(found.query) - set(of_driver))
    if ignored:
        raise ConfigurationInvalid(
            f"database URL {shown(_redact(url))} has options that would not count: {', '.join(map(shown, ignored))}; "
            "SQLite's own need the form sqlite:///file:PATH?mode=ro&uri=true"
        )
    return found


def _redact(url: str) -> str:
    """What a user needs to recognise it, and no secret: no credentials, and no options, of which one may be a password.

    It may also be no URL, but what libpq or another program takes instead.
    """
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    place, question, options = rest.partition("?")
    if "@" in options:  # of a password, or behind one that has a question mark in it
        place = "…"
    elif "@" in place:
        place = "…" + place.rpartition("@")[2]
    told = f"{scheme}{separator}{place}" + ("?…" if question else "")
    return re.sub(r"(?i)(pass|pwd|secret|token|key)(\w*\s*[=:]\s*).*", r"\1\2…", told, flags=re.DOTALL)


def described(url: URL) -> str:
    """The database as error messages name it, without secrets."""
    if url.get_backend_name() == "sqlite":
        return f"the SQLite file {url.database}"
    host = url.host or url.query.get("host") or "localhost"
    return f"the PostgreSQL database {url.database or ''} on {host}" + (f":{url.port}" if url.port else "")
