"""One PostgreSQL database for all of these tests, emptied in between."""

from tests.support import postgres_url, reused_postgres

__all__ = ["postgres_url", "reused_postgres"]
