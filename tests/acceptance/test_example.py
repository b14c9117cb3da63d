"""SPEC section 2: the example as written, on every lane, sync and async."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

EXAMPLE = """
import attrs, runlane
from runlane import Queue, Retry, Exponential, Schedule, task

emails = Queue("emails", default=True)

@attrs.frozen
class Welcome:
    user_id: str

@task("emails.welcome", queue=emails, retry=Retry(max_attempts=5, backoff=Exponential("30s", max_delay="10m")))
def send_welcome(payload: Welcome, context: runlane.Context) -> dict:
    return {"sent_to": payload.user_id}

with runlane.Runlane("sqlite:///app.db", queues=[emails], tasks=[send_welcome]) as app:
    triggered = app.trigger(send_welcome, Welcome("user_123"))
    app.worker(mode="drain").run()
    print(app.runs.get(triggered.run.id).status)      # succeeded
"""


def test_the_readme_has_it_verbatim() -> None:
    readme = Path(__file__).resolve().parents[2] / "README.md"
    assert EXAMPLE in readme.read_text("utf-8").replace("```python", "")


def test_sync(
    lane_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLE.replace("sqlite:///app.db", lane_url), "example", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out == "succeeded\n"


def test_async(
    lane_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program = EXAMPLE.replace("sqlite:///app.db", lane_url).replace(
        "with runlane.Runlane", "async with runlane.AsyncRunlane"
    )
    program = program.replace("= app.trigger", "= await app.trigger").replace("app.worker(", "await app.worker(")
    program = program.replace(
        "print(app.runs.get(triggered.run.id).status)", "print((await app.runs.get(triggered.run.id)).status)"
    )
    head, body = program.split("async with", 1)
    body = "\n".join("    " + line for line in ("async with" + body).splitlines())
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(f"{head}\nasync def main():\n{body}\n", "example", "exec"), names)
    asyncio.run(names["main"]())  # type: ignore[operator]
    assert capsys.readouterr().out == "succeeded\n"
