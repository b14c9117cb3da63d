"""A process with the libraries imported and nothing of Runlane, which forks for each test that is asked.

Run as a script.  Every line on its input is a question, every line of its output the exit code of that test.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any

_LIBRARIES = (
    "pytest", "hypothesis", "sqlalchemy.orm", "sqlalchemy.ext.asyncio", "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite", "psycopg", "attrs", "cattrs", "croniter", "orjson", "uuid_utils",
    "xml.etree.ElementTree",
)  # fmt: skip


def answer(question: dict[str, Any]) -> int:
    """Run pytest in a child of this process; its exit code, negative if a signal ended it."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(question["patience"])
    words = os.open(question["words"], os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(words, 1)
    os.dup2(words, 2)
    os.chdir(question["folder"])
    os.environ.update(question["environment"])
    sys.path[:] = [question["folder"], *(path for path in sys.path if path not in question["without"])]
    code = importlib.import_module("pytest").main(question["arguments"])
    sys.stdout.flush()
    os._exit(int(code))


if __name__ == "__main__":
    for name in _LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        print(answer(json.loads(line)), flush=True)
