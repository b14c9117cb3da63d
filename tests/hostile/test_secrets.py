"""What is in a payload, a key, an exception or a connection string is in no log, and goes to no listener."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from runlane import Retry, Runlane, RunlaneError, task
from runlane.transport.notify import channel_of

CANARY = "a-canary-in-a-cage"


@task("spills", retry=Retry(2))
def spills(payload: Any) -> Any:
    raise ValueError(f"cannot send {payload}")


@task("returns")
def returns(payload: Any) -> Any:
    return payload


def test_logs_and_listeners_hear_of_ids_and_codes_only(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "runlane")
    with psycopg.connect(postgres_url, autocommit=True) as listener:
        listener.execute(f"listen {channel_of('runlane')}".encode())
        with Runlane(postgres_url, tasks=[spills, returns]) as app:
            for one in (spills, returns):
                app.trigger(one, CANARY, idempotency_key=CANARY, singleton_key=CANARY, correlation_id=CANARY)
                app.trigger(one, {"a": CANARY}, concurrency_key=CANARY, meta={"a": CANARY})
            app.run_now(spills, CANARY)
            app.worker("drain").run()
            app.runs.cancel(app.trigger(returns, CANARY, delay="1h").run.id, reason=CANARY)
            with pytest.raises(RunlaneError) as caught:
                app.trigger(spills, {"a": CANARY, "b": object()})
            assert CANARY not in str(caught.value)
        notices = "".join(notice.payload for notice in listener.notifies(timeout=0.2))
    assert notices
    assert caplog.records
    assert CANARY not in notices
    assert CANARY not in caplog.text


def test_a_password_is_in_no_error_and_in_no_log(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "runlane")
    url = make_url(postgres_url).set(password=CANARY)
    wrong = [url.set(database="no_such_database"), url.update_query_dict({"host": "/no/such/socket"})]
    for one in wrong:
        app = Runlane(one.render_as_string(hide_password=False), tasks=[returns])
        with pytest.raises(RunlaneError) as caught:
            app.start()
        assert CANARY not in str(caught.value)
        assert CANARY not in repr(app.lane)
        app.close()
    assert CANARY not in caplog.text
