"""URLs of databases: which are accepted, and how messages speak of them."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from runlane.errors import ConfigurationInvalid

_ACCEPTED = "memory:, sqlite:///file.db or postgresql://user@host/database"


def parsed(url: str) -> URL:
    """What `url` names, with the driver that is used.

    Raises:
        ConfigurationInvalid: it names no database that Runlane knows.
    """
    if not isinstance(url, str) or not url:
        raise ConfigurationInvalid(f"the database must be a URL such as {_ACCEPTED}; got {url!r}")
    if url == "memory:":
        return make_url("sqlite+pysqlite://")
    try:
        found = make_url(url)
        backend = found.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ConfigurationInvalid(f"unknown database URL {_redact(url)!r}; use {_ACCEPTED}") from None
    if found.drivername in ("sqlite", "sqlite+pysqlite"):
        return found.set(drivername="sqlite+pysqlite")
    if found.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return found.set(drivername="postgresql+psycopg")
    raise ConfigurationInvalid(f"unknown database {backend!r} in URL {_redact(url)!r}; use {_ACCEPTED}")


def _redact(url: str) -> str:
    """The URL up to its credentials: what a user needs to recognise it, and no secret."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}…{rest.rpartition('@')[2]}" if "@" in rest else url


def described(url: URL) -> str:
    """The database as error messages name it, without secrets."""
    if url.get_backend_name() == "sqlite":
        return f"the SQLite file {url.database}"
    host = url.host or url.query.get("host") or "localhost"
    return f"the PostgreSQL database {url.database or ''} on {host}" + (f":{url.port}" if url.port else "")
