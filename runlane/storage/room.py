"""Why the write-ahead log of a SQLite file does not grow: SQLite tells a full disk, but no quota and no greatest size.

Those come as an input/output error like any other, of a disk that breaks among them.  What such a disk has written
nobody can say; but the last thing that a commit writes is the frame that makes it one, and where the system refuses to
let the file grow, that frame is not there.  So SQLite, which has rolled back, does not find it after a crash either.
(On a build or for a file without "powersafe overwrite" there would be more to write behind it; neither is the default.)
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

_REFUSALS = frozenset({errno.EFBIG, errno.EDQUOT, errno.ENOSPC})
#: A page as SQLite has it by default; a system gives room in such pieces, or larger ones.
_PIECE = 4096


def refused(error: DBAPIError, connection: Connection) -> str | None:
    """Why there was no room for what a failed commit wanted to write, in the system's words.

    Returns:
        None if that is not the reason, or cannot be told; then nobody knows what was written.
    """
    path = connection.engine.url.database
    if not path or getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_IOERR_WRITE:
        return None
    try:
        place = os.stat(f"{path}-wal").st_size
        with tempfile.TemporaryFile(dir=os.path.dirname(path) or ".", buffering=0) as probe:  # it has no name
            left = _PIECE
            while left:  # a system that has room for a part of it writes that
                left -= os.pwrite(probe.fileno(), bytes(left), place + _PIECE - left)
    except OSError as told:
        return os.strerror(told.errno) if told.errno in _REFUSALS else None
    return None
