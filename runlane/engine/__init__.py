"""Use cases: lock and read, decide, append, return.  Each takes a transaction first and never commits."""
