"""Writers take turns, and nobody waits for himself or for ever."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from runlane.errors import ConfigurationInvalid, StorageUnavailable
from runlane.storage.turns import Turns
from tests.support import PATIENCE


def test_one_at_a_time_and_the_next_one_after_an_error_too() -> None:
    turns = Turns("x.db", PATIENCE)
    inside, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with suppress(ZeroDivisionError), turns:
                with lock:
                    inside += 1
                    most = max(most, inside)
                with lock:
                    inside -= 1
                raise ZeroDivisionError

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (inside, most) == (0, 1)


def test_who_has_the_turn_is_refused_another_and_keeps_it() -> None:
    turns = Turns("x.db", PATIENCE)
    with turns:
        with pytest.raises(ConfigurationInvalid, match="connection="), turns:
            raise AssertionError("unreachable")
        others: list[BaseException] = []

        def other() -> None:
            try:
                with turns:
                    raise AssertionError("unreachable")
            except StorageUnavailable as error:
                others.append(error)

        turns._patience = 0.01
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(PATIENCE)
        assert "another thread" in str(others[0])
    with turns:
        pass
