"""The same PostgreSQL database for every case, emptied in between."""

from tests.support import postgres_url, reused_postgres

__all__ = ["postgres_url", "reused_postgres"]
