"""A process that has imported everything, and forks a new worker or client in milliseconds when it is told to.

It is the parent of them all and the only one who signals them, so no signal can hit a process that got the same id
later; and they die with it, as it does with whoever started it, however those come to their ends.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have this process signalled when the thread that made it is gone."""
    _LIBC.prctl(_PDEATHSIG, int(number), 0, 0, 0)


class Nursery:
    """The handle of such a process; use it from one thread.

    Args:
        errors: the file that everybody's standard error goes to.
        environment: further variables for everybody.
        command: another program that speaks as ``main`` does, with the environment as its whole one.
    """

    def __init__(
        self, errors: Path, environment: dict[str, str] | None = None, command: list[str] | None = None
    ) -> None:
        whole = os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {})
        with errors.open("ab") as file:
            self._process = subprocess.Popen(
                command or [sys.executable, "-m", "tests.chaos.nursery"],
                cwd=ROOT,
                env=whole if command is None else environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        self._ends: dict[int, int] = {}

    def spawn(self, role: str, **arguments: Any) -> int:
        """A new process in this role; its id."""
        return int(self._ask(do="spawn", role=role, arguments=arguments)["pid"])

    def signal(self, pid: int, number: int) -> bool:
        """Send a signal; whether the process was there still."""
        return bool(self._ask(do="signal", pid=pid, number=int(number))["sent"])

    def ends(self) -> dict[int, int]:
        """Who has ended since the last call, with exit codes as ``subprocess`` has them."""
        self._ask(do="look")
        found, self._ends = self._ends, {}
        return found

    def close(self) -> None:
        """Everybody dies."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _ask(self, **asked: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the nursery has died; its error file says why")
        answer: dict[str, Any] = json.loads(line)
        self._ends.update({int(pid): code for pid, code in answer["ended"]})
        return answer


def main() -> None:
    """Serve until nobody is there to ask any more."""
    from tests.chaos import roles

    gc.collect()
    gc.freeze()  # pages that are not touched need not be copied
    children: set[int] = set()
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {"ended": _reap(children)}
        if asked["do"] == "spawn":
            answer["pid"] = pid = os.fork()
            if pid == 0:
                _become(roles.ROLES[asked["role"]], asked["arguments"])
            children.add(pid)
        elif asked["do"] == "signal":
            answer["sent"] = asked["pid"] in children
            if answer["sent"]:
                os.kill(asked["pid"], asked["number"])
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)


def _reap(children: set[int]) -> list[tuple[int, int]]:
    ended = []
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.discard(pid)
            ended.append((pid, os.waitstatus_to_exitcode(status)))
    return ended


def _become(role: Any, arguments: dict[str, Any]) -> None:
    """In the child: play a role, and end without what the parent would do at its end."""
    from tests.chaos.jobs import setting_of

    faulthandler.register(signal.SIGUSR1, all_threads=True)  # for who does not end: where are its threads?
    code = 3
    try:
        parent = os.getppid()
        die_with_parent()
        if os.getppid() != parent:
            os._exit(4)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        arguments["setting"] = setting_of(arguments["setting"])
        role(**arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
