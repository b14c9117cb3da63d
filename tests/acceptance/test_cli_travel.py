"""Going back in time on the command line, and asking who did what."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.acceptance.test_cli import Shell, shell, sqlite_shell
from tests.acceptance.test_cli_runs import on_a_terminal

__all__ = ["shell", "sqlite_shell"]

WELCOME = ("trigger", "emails.welcome")
FUTURE = "2099-01-01T00:00:00Z"


def user(name: str) -> str:
    return json.dumps({"user_id": name})


def failing(shell: Shell) -> str:
    """The id of a run that has failed once, and was cancelled by ann."""
    shell("migrate")
    (made,) = shell.lines(*WELCOME, user("bad"), "--idempotency-key", "k", "--concurrency-key", "c")
    shell("worker", "--drain")
    run: str = made["run"]["id"]
    shell("runs", "cancel", run, "--actor", "ann", "--reason", "no such customer any more")
    return run


def test_a_run_as_it_was(shell: Shell) -> None:
    run = failing(shell)
    (first,) = shell.lines("runs", "get", run, "--at-sequence", "1")
    assert (first["status"], first["sequence"], first["attempt_count"]) == ("queued", 1, 0)
    events = shell.lines("runs", "events", run)
    (leased,) = shell.lines("runs", "get", run, "--at", events[2]["occurred_at"])
    assert (leased["status"], leased["sequence"]) == ("running", 3)
    told = shell("runs", "get", run, "--at-sequence", "4").stdout
    assert re.search(r"^as of +event 4, ", told)
    assert re.search(r"^status +retrying$", told, re.MULTILINE)
    assert not shell("runs", "get", run).stdout.startswith("as of")


def test_a_moment_that_cannot_be(sqlite_shell: Shell) -> None:
    shell = sqlite_shell
    run = failing(shell)
    for code, says, *options in (
        (1, "exists since", "--at", "2026-01-01"),
        (2, "the last event of run", "--at-sequence", "99"),
        (2, "an integer from 1", "--at-sequence", "0"),
        (2, "not both", "--at-sequence", "1", "--at", "1h"),
        (2, "neither an instant", "--at", "yesterday"),
    ):
        done = shell("runs", "get", run, *options)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert says in done.stderr
    for code, says, *arguments in (
        (2, "must not lie behind", "diff", run, "--from", "3", "--to", "2"),
        (2, "the last event of run", "diff", run, "--to", "99"),
        (1, "no run has the id", "timeline", "019c8f3e-7a52-7b8e-9d54-0c1b2a3d4e5f"),
        (2, "limit must be", "as-of", "1h", "--limit", "0"),
        (2, "exactly one of", "who"),
        (2, "exactly one of", "who", "--actor", "ann", "--key", "k"),
    ):
        done = shell("audit", *arguments)
        assert (done.returncode, done.stdout) == (code, ""), done
        assert says in done.stderr


def test_a_timeline_reads_well_at_a_hundred_columns(sqlite_shell: Shell) -> None:
    run = failing(sqlite_shell)
    lines = on_a_terminal(sqlite_shell.folder, 100, "audit", "timeline", run)
    assert max(map(len, lines)) <= 100
    title, header, day, *told = [line.rstrip() for line in lines]
    assert title == f"run {run}; times are UTC:"
    assert header.split() == ["#", "TIME", "GAP", "AFTER", "WHAT", "HAPPENED"]
    assert re.fullmatch(r" +\d{4}-\d\d-\d\d", day)
    column = header.index("WHAT")
    starts = [line for line in told if re.match(r"\d  \d\d:\d\d:\d\d\.\d{3}  ", line)]
    assert [line[0] for line in starts] == list("12345")
    assert all(line.startswith(" " * column) for line in told if line not in starts), "a sentence goes on in its column"
    text = " ".join(line[column:].strip() for line in told)
    assert "attempt 1 failed (task_failed: no such user); next one at " in text
    assert text.endswith("cancelled by operator:ann: no such customer any more")
    assert re.search(r"^5  \S+ +[\d.]+ m?s +[\d.]+ m?s  cancelled", "\n".join(told), re.MULTILINE)


def test_a_timeline_for_programs(shell: Shell) -> None:
    run = failing(shell)
    moments = shell.lines("audit", "timeline", run)
    assert [moment["sequence"] for moment in moments] == [1, 2, 3, 4, 5]
    assert moments[0]["since_last"] == moments[0]["since_start"] == 0
    assert abs(sum(moment["since_last"] for moment in moments) - moments[-1]["since_start"]) < 1e-6
    assert (moments[-1]["actor"], moments[-1]["reason"]) == ("operator:ann", "no such customer any more")
    assert [moment["at"] for moment in moments] == [e["occurred_at"] for e in shell.lines("runs", "events", run)]


def test_what_changed(shell: Shell) -> None:
    run = failing(shell)
    changes: dict[str, Any] = {change["field"]: change for change in shell.lines("audit", "diff", run)}
    assert changes["status"] == {"field": "status", "before": "queued", "after": "cancelled", "sequence": 5}
    assert changes["failure.code"]["sequence"] == 4
    between = shell.lines("audit", "diff", run, "--from", "2", "--to", "3")
    assert {change["field"] for change in between} >= {"status", "lease.worker_id", "attempt_count"}
    told = shell("audit", "diff", run).stdout.splitlines()
    assert told[0].startswith(f"run {run} from event 1 to 5, ")
    assert [line.split() for line in told if " status " in line] == [["5", "status", "queued", "cancelled"]]
    assert re.search(r"^4 +failure\.traceback +– +Traceback .* \(\d+ more lines\)$", "\n".join(told), re.MULTILINE)
    assert shell("audit", "diff", run, "--from", "5").stdout.splitlines()[1] == "nothing has changed"


def test_all_runs_as_of_an_instant(shell: Shell) -> None:
    run = failing(shell)
    shell(*WELCOME, user("a"))
    shell("queues", "pause", "slow", "--actor", "bob", "--reason", "night")
    whole, *listed = shell.lines("audit", "as-of", FUTURE)
    assert {name: whole[name] for name in ("runs", "events", "running", "paused", "queues")} == {
        "runs": 2,
        "events": 7,
        "running": 0,
        "paused": 1,
        "queues": {"emails": {"cancelled": 1, "queued": 1}},
    }
    assert [line["type"] for line in listed] == ["paused"], "by then no key is kept any more"
    leased = shell.lines("runs", "events", run)[2]["occurred_at"]
    whole, running, *keys = shell.lines("audit", "as-of", leased)
    assert (whole["runs"], whole["running"], whole["keys"]) == (
        1,
        1,
        {"singleton": 0, "concurrency": 1, "idempotency": 1},
    )
    assert (running["type"], running["run_id"], running["status"]) == ("running", run, "running")
    assert [(key["type"], key["kind"], key["key"], key["run_id"]) for key in keys] == [
        ("key", "concurrency", "c", run),
        ("key", "idempotency", "k", run),
    ]
    told = shell("audit", "as-of", leased).stdout
    for line in (
        r"^as of \S+ \S+Z, from 3 events:$",
        r"^QUEUE +RUNNING$",
        r"^emails +1$",
        r"^1 run leased, the longest first:$",
        rf"^{run}  emails\.welcome +1 ",
        r"^1 concurrency key held:$",
        rf"^c +emails +{run} ",
        rf"^k +emails\.welcome +{run} ",
    ):
        assert re.search(line, told, re.MULTILINE), (line, told)
    assert re.search(r"^slow +\S+ \S+ +operator:bob +night$", shell("audit", "as-of", FUTURE).stdout, re.MULTILINE)
    assert "no run was there yet" in shell("audit", "as-of", "2026-01-01").stdout
    shell("runs", "prune", "--older-than", "1ms")
    assert shell("audit", "as-of", leased).stdout.splitlines()[1:] == [
        "no run was there yet",
        "",
        "1 run pruned since; whatever they were then, they are not counted here",
    ]


def test_who_did_it(shell: Shell) -> None:
    run = failing(shell)
    shell("queues", "pause", "slow", "--actor", "ann", "--reason", "night")
    shell("tick")
    shell("schedules", "pause", "stock-hourly", "--actor", "ann")
    done = shell.lines("audit", "who", "--actor", "ann")
    assert [event["type"] for event in done] == ["schedule.paused", "queue.paused", "run.cancelled"]
    told = shell("audit", "who", "--actor", "ann").stdout.splitlines()
    assert told[0] == "by operator:ann:"
    assert re.search(r"Z  schedule stock-hourly +2  schedule paused by operator:ann$", told[2])
    assert re.search(r"Z +1  queue slow paused by operator:ann: night$", told[3])
    assert re.search(rf"Z  {run}  5  cancelled by operator:ann: no such customer any more$", told[4])
    worker = shell.lines("runs", "events", run)[2]["actor"].removeprefix("worker:")
    assert [e["type"] for e in shell.lines("audit", "who", "--worker", worker)] == ["run.retry_scheduled", "run.leased"]
    (born,) = shell.lines("audit", "who", "--key", "k")
    assert (born["type"], born["stream_id"]) == ("run.created", run)
    assert shell("audit", "who", "--key", "other").stdout == "no event tells of that\n"
    first, cursor = shell.lines("audit", "who", "--actor", "ann", "--limit", "1")
    assert first == done[0]
    rest = shell.lines("audit", "who", "--actor", "ann", "--cursor", cursor["next_cursor"])
    assert rest == done[1:]
