"""Telling a change from noise, and what compare and tune make of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.compare import compare, compared
from benchmarks.figures import Curve, Sample, percentile_curve, percentiles, unit_of
from benchmarks.knobs import Knobs
from benchmarks.noise import difference, mann_whitney
from benchmarks.report import json as documents
from benchmarks.report import write_readable
from benchmarks.report.rows import number, rows, written
from benchmarks.scenarios import SCENARIOS, drain
from benchmarks.tune import Setting, advise

STEADY = [100.0, 101.0, 99.0, 102.0, 98.0]


def result(case: str = "noop", runs: int = 20_000, loops: float = 1e8, **figures: list[float]) -> dict[str, Any]:
    """A case with as many repeats as each figure has values."""
    samples = [
        Sample(
            dict(zip(figures, values, strict=True)),
            (percentile_curve(case, [1.0, 2.0, 3.0]), Curve("history", "tick, waiting", "ms", [(10, 1.0), (100, 2.0)])),
            machine_loops_per_s=loops,
        )
        for values in zip(*figures.values(), strict=True)
    ]
    server = {"version": "SQLite 3"}
    return documents.result("drain", case, "sqlite", server, drain.Options(runs=runs), Knobs(), samples, 1.0)


def document(*results: dict[str, Any]) -> dict[str, Any]:
    return documents.document(results, seed=1)


def test_a_figure_that_a_repeat_left_out_is_not_shown() -> None:
    samples = [
        Sample({"total_bytes_per_run": 90.0}),
        Sample({"total_bytes_per_run": 92.0, "events_bytes_per_run": 9.0}),
    ]
    for repeats in (samples, samples[::-1]):
        one = documents.result("storage", "tiny", "sqlite", {}, drain.Options(), Knobs(), repeats, 1.0)
        assert one["median"] == {"total_bytes_per_run": 91.0}
        assert [row.figure for row in rows([one])] == ["total"]


@pytest.mark.parametrize(
    ("after", "sign"),
    [
        ([120.0, 121.0, 119.0, 122.0, 118.0], "more"),
        ([80.0, 81.0, 79.0, 82.0, 78.0], "less"),
        ([100.5, 101.5, 98.5, 102.5, 97.5], "none"),
        ([150.0, 90.0, 105.0, 95.0, 101.0], "none"),
    ],
)
def test_a_change_is_one_that_the_repeats_bear_out(after: list[float], sign: str) -> None:
    assert difference(STEADY, after).sign == sign


def test_a_certain_change_that_is_too_small_does_not_count() -> None:
    slightly = [value + 6 for value in STEADY]
    assert difference(STEADY, slightly).sign == "more"
    assert difference(STEADY, slightly, least=0.1).sign == "none"


def test_few_repeats_need_ranges_that_lie_far_apart() -> None:
    assert difference([100.0, 102.0, 104.0], [110.0, 112.0, 114.0]).sign == "more"
    near = difference([100.0, 102.0, 104.0], [107.0, 109.0, 111.0])
    assert (near.sign, near.p) == ("none", None)
    assert difference([100.0, 101.0, 102.0], [107.0, 112.0, 117.0]).sign == "none"  # the second is too wide
    assert difference([100.0], [200.0]).sign == "unknown"


def test_the_exact_test_counts_every_way_to_divide_the_repeats() -> None:
    # Of the 252 ways to choose five of ten, two are as far apart as these.
    assert mann_whitney([1, 2, 3, 4, 5], [6, 7, 8, 9, 10]) == pytest.approx(2 / 252)
    assert mann_whitney([1, 2, 3, 4], [1, 2, 3, 4]) == 1.0
    assert mann_whitney([5, 5, 5, 5], [5, 5, 5, 5]) == 1.0  # ties share their ranks
    many = mann_whitney(list(range(12)), list(range(12, 24)))  # too many ways to look at all
    assert 0 < many < 0.001


def test_every_figure_says_its_unit_and_which_way_it_improves() -> None:
    assert unit_of("runs_per_s").more_is_better
    assert not unit_of("call_p99_ms").more_is_better
    assert written("empty_drain_runs_per_s") == ("empty drain runs", "/s")
    assert written("python_us_per_run") == ("python", "µs/run")
    with pytest.raises(ValueError, match="'speed' must end with one of _per_s"):
        Sample({"speed": 1.0})


def test_delays_become_percentiles() -> None:
    delays = [float(n) for n in range(1, 102)]
    assert percentiles(delays, 50, 99) == {"p50_ms": 51.0, "p99_ms": 100.0}
    curve = percentile_curve("one", list(reversed(delays)))
    assert curve.points[0] == (0.0, 1.0)
    assert curve.points[-1] == (100.0, 101.0)
    assert [x for x, _ in curve.points] == sorted(x for x, _ in curve.points)


def test_compare_speaks_of_each_figure_in_its_own_words() -> None:
    quicker = [value / 2 for value in STEADY]
    before = document(result(runs_per_s=STEADY, p50_ms=STEADY, total_bytes_per_run=STEADY, kept_percent=STEADY))
    after = document(result(runs_per_s=quicker, p50_ms=quicker, total_bytes_per_run=quicker, kept_percent=STEADY))
    found = {one.figure: (one.verdict, one.good) for one in compared(before, after, 0.03)}
    assert found == {
        "runs_per_s": ("slower", False),
        "p50_ms": ("faster", True),
        "total_bytes_per_run": ("smaller", True),
        "kept_percent": ("no difference seen", None),
    }


def test_compare_names_what_it_cannot_compare_and_a_machine_that_drifted(tmp_path: Path) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    before = document(result("x", runs_per_s=STEADY), result("gone", runs_per_s=STEADY))
    doubled = [2 * value for value in STEADY]
    after = document(
        result("x", loops=2e8, runs_per_s=doubled), result("new", runs_per_s=STEADY), result("gone", 7, runs_per_s=[1])
    )
    for file, one in zip(files, (before, after), strict=True):
        file.write_text(json.dumps(one))
    done = CliRunner().invoke(compare, [str(file) for file in files])
    assert done.exit_code == 0, done.output
    assert "faster" in done.output
    assert [one.measured for one in compared(before, after, 0.03)] == ["drain: x"]
    assert "2.00 ×" in done.output  # so much faster was the machine itself
    assert "drain: gone on sqlite: measured with other options" in done.output
    assert "drain: new on sqlite: only in B" in done.output


def test_compare_refuses_what_is_no_result(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for content in ("[]", "{", '{"format": 99, "results": []}'):
        file.write_text(content)
        done = CliRunner().invoke(compare, [str(file), str(file)])
        assert done.exit_code == 1
        assert done.output.startswith(f"Error: {file} ")


def swept(*rates: list[float]) -> list[tuple[Setting, list[float]]]:
    labels = ("100", "200", "300")
    return [(Setting("batch", label, default=label == "200"), of) for label, of in zip(labels, rates, strict=False)]


def test_tune_leaves_the_default_unless_another_is_faster_beyond_the_noise() -> None:
    faster, slower = [1.3 * value for value in STEADY], [0.7 * value for value in STEADY]
    better = advise("batch", swept(faster, STEADY, slower))
    assert (better.use, better.best) == ("100", "100")
    assert better.text == "100 is 1.30 × as fast as the default, 200."
    noisy = advise("batch", swept([1.01 * value for value in STEADY], STEADY, slower))
    assert noisy.use == "200"
    assert "within the noise" in noisy.text
    assert "nothing was faster" in advise("batch", swept(slower, STEADY, slower)).text
    assert "nothing can be said" in advise("batch", swept([2.0], [1.0])).text


def test_tune_never_advises_to_give_up_durability() -> None:
    full, relaxed = Setting("durability", "full", default=True), Setting("durability", "relaxed")
    said = advise("durability", [(full, STEADY), (relaxed, [2 * value for value in STEADY])])
    assert said.use == "full"
    assert said.text.startswith("relaxed is 2.00 × as fast")
    assert "may be lost" in said.text


def test_the_more_settings_are_tried_the_more_certain_a_difference_has_to_be() -> None:
    rather = [100.5, 103.0, 104.0, 105.0, 106.0]  # p = 0.032: enough for two settings, not for three
    assert advise("batch", swept(rather, STEADY)).use == "100"
    assert advise("batch", swept(rather, STEADY, STEADY)).use == "200"


def test_options_make_cases() -> None:
    trigger = SCENARIOS["trigger"]
    assert [one.how for one in trigger.cases({})] == ["alone", "threads", "tasks", "bulk", "joined"]
    chosen = list(SCENARIOS["drain"].cases({"job": ("50ms", "noop"), "workers": (), "runs": 7}))
    assert [(one.job, one.workers, one.at_once, one.runs) for one in chosen] == [
        ("50ms", 1, 200, 7), ("50ms", 2, 200, 7), ("noop", 1, 500, 7), ("noop", 2, 500, 7),
    ]  # fmt: skip


def test_a_report_is_one_page_with_its_plots(tmp_path: Path) -> None:
    sweep = {
        "database": "sqlite", "knob": "batch", "use": "100 <", "text": "Keep it.",
        "points": [{"label": str(n), "default": n == 1, "runs_per_s": [float(n)]} for n in (1, 2)],
    }  # fmt: skip
    one = documents.document([result("a & b", runs_per_s=STEADY)], seed=1, tune=[sweep])
    files = write_readable(one, tmp_path / "r")
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") == 4  # tune, rates, delays, history
    assert "a &amp; b" in page
    assert "batch = 100 &lt; on sqlite." in page
    assert "<script" not in page
    assert 'src="' not in page
    text = (tmp_path / "r.md").read_text()
    assert "| sqlite | drain: a & b | runs | 100 | 98.0 | 102 | /s |" in text
    for picture in (file for file in files if file.suffix == ".svg"):
        assert f"]({picture.name})" in text


def test_numbers_have_three_digits_that_count() -> None:
    assert [number(value) for value in (0.1234, 12.34, 123.4, 12_345.6, 1_234_567)] == [
        "0.12", "12.3", "123", "12,346", "1,230,000",
    ]  # fmt: skip
    row = next(rows([result(runs_per_s=[5.0])]))
    assert (row.median, row.least, row.most) == ("5.00", "", "")


def test_every_command_of_the_readme_is_one() -> None:
    readme = (Path(__file__).resolve().parents[2] / "benchmarks" / "README.md").read_text()
    commands = re.findall(r"`python -m benchmarks ([^`]+)`", readme)
    assert {name for name in SCENARIOS if not any(line.split()[0] == name for line in commands)} == set()
    for line in commands:
        name, *options = line.split()
        if name in SCENARIOS:
            main.commands[name].make_context(name, options)
