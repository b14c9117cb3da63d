"""Storage: events and the tables folded from them, on PostgreSQL and SQLite; SQL, and no lifecycle rule."""
