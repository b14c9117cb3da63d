"""The plots of a report, as SVG: rates, delays, cost against history, and what tune has swept."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log10
from typing import Any

from benchmarks.report.rows import number

Document = Mapping[str, Any]

#: Told apart by those who see fewer colours too (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
_LINES = ("-", "--", ":", "-.")
_STYLE: dict[str, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.6,
}
_WIDTH = 9.6  # inches


def plots(document: Document) -> dict[str, tuple[str, str]]:
    """Every plot for which the document has figures: its name to (caption, SVG)."""
    drawn: dict[str, tuple[str, str]] = {}
    for name, (caption, draw) in _PLOTS.items():
        found = draw(document, name)
        if found is not None:
            drawn[name] = (caption, found)
    return drawn


def _rates(document: Document, name: str) -> str | None:
    panels: dict[str, list[Any]] = {}
    for one in document["results"]:
        if "runs_per_s" in one["median"] and one["scenario"] != "tune":
            panels.setdefault(one["scenario"], []).append(one)
    if not panels:
        return None
    databases = _databases(document)
    heights = [len(found) + 1.2 for found in panels.values()]

    def draw(figure: Any) -> None:
        axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axis, (scenario, found) in zip(axes, panels.items(), strict=True):
            axis.set_title(f"{scenario}, runs/s")
            for place, one in enumerate(reversed(found)):
                values = [figures["runs_per_s"] for figures in one["repeats"]]
                middle = one["median"]["runs_per_s"]
                span = [[middle - min(values)], [max(values) - middle]]
                colour = _COLOURS[databases.index(one["database"])]
                axis.barh(place, middle, color=colour, height=0.66, xerr=span, error_kw={"lw": 1.0, "capsize": 2.5})
                axis.annotate(
                    number(middle), (max(values), place), (5, 0), textcoords="offset points", va="center", fontsize=8
                )
            axis.set_yticks(range(len(found)), [_labelled(one, databases) for one in reversed(found)])
            axis.grid(axis="y", visible=False)
            axis.margins(x=0.12)
            axis.set_xlim(left=0)
            axis.set_ylim(-0.6, len(found) - 0.4)
            axis.xaxis.set_major_formatter(_plain)

    return _svg(name, 0.29 * sum(heights) + 0.3, draw)


def _delays(document: Document, name: str) -> str | None:
    panels = _curves(document, "percentiles")
    if not panels:
        return None
    databases, rows = _databases(document), -(-len(panels) // 2)

    def draw(figure: Any) -> None:
        for axis, (scenario, found) in zip(_grid(figure, len(panels)), panels.items(), strict=True):
            axis.set_title(f"{scenario}, ms")
            cases = list(dict.fromkeys(case for case, _, _ in found))
            for case, database, repeats in found:
                line = {"color": _COLOURS[cases.index(case) % 7], "ls": _LINES[databases.index(database) % 4]}
                _band(axis, [(_tail(x), ys) for x, ys in repeats], case, line)
            entries = _legend(axis, databases, loc="upper left")
            axis.set_yscale("log")
            lowest, highest = axis.get_ylim()
            axis.set_ylim(lowest, highest * (highest / lowest) ** (0.1 * entries))  # room for the legend
            axis.yaxis.set_major_formatter(_plain)
            axis.yaxis.set_minor_formatter(_plain if highest < 12 * lowest else "")
            axis.set_xticks([_tail(x) for x in _PERCENTS], [f"{x:g}" for x in _PERCENTS])
            axis.set_xlabel("percentile")

    return _svg(name, 3.4 * rows, draw)


#: Where the percentiles' axis has its ticks; it stretches towards the end, where the interesting delays are.
_PERCENTS = (0, 50, 90, 99, 99.9)


def _tail(percent: float) -> float:
    return -log10(1 - min(percent, 99.95) / 100)


def _history(document: Document, name: str) -> str | None:
    panels: dict[str, list[Any]] = {}
    for found in _curves(document, "history").values():
        for case, database, repeats in found:
            operation, _, behind = case.partition(", ")
            panels.setdefault(operation, []).append((behind, database, repeats))
    if not panels:
        return None
    databases, rows = _databases(document), -(-len(panels) // 2)

    def draw(figure: Any) -> None:
        for axis, (operation, found) in zip(_grid(figure, len(panels)), panels.items(), strict=True):
            axis.set_title(f"{operation}, {'runs/s' if operation == 'drain' else 'ms'}")
            kinds = list(dict.fromkeys(behind for behind, _, _ in found))
            for behind, database, repeats in found:
                line = {"color": _COLOURS[kinds.index(behind)], "ls": _LINES[databases.index(database) % 4]}
                _band(axis, repeats, behind, {**line, "marker": "o", "ms": 4})
            sizes = sorted({x for _, _, repeats in found for x, _ in repeats})
            axis.set_xscale("log")
            axis.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
            axis.minorticks_off()
            axis.margins(y=0.12)
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter(_plain)
            axis.set_xlabel("runs behind")
            _legend(axis, databases, loc="best")

    return _svg(name, 2.9 * rows, draw)


def _tuned(document: Document, name: str) -> str | None:
    swept = [one for one in document.get("tune", ()) if len(one["points"]) > 1]
    if not swept:
        return None
    databases, rows = _databases(document), -(-len(swept) // 2)

    def draw(figure: Any) -> None:
        for axis, one in zip(_grid(figure, len(swept)), swept, strict=True):
            axis.set_title(_with_database(f"{one['knob']}, drained runs/s", one["database"], databases))
            points = one["points"]
            middles = [statistics.median(point["runs_per_s"]) for point in points]
            spans = [
                [middle - min(point["runs_per_s"]) for middle, point in zip(middles, points, strict=True)],
                [max(point["runs_per_s"]) - middle for middle, point in zip(middles, points, strict=True)],
            ]
            places = range(len(points))  # the values are chosen, not measured: even steps are easiest to read
            axis.errorbar(places, middles, yerr=spans, color=_COLOURS[0], marker="o", ms=4, capsize=3, elinewidth=1)
            for place, point, middle in zip(places, points, middles, strict=True):
                if point["default"]:
                    axis.plot(place, middle, "o", ms=11, mfc="none", mec=_COLOURS[1], mew=1.5, label="default")
            axis.set_xticks(list(places), [point["label"] for point in points])
            axis.margins(x=0.08, y=0.1)
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter(_plain)
            axis.legend(loc="lower right")

    return _svg(name, 2.7 * rows, draw)


_PLOTS: dict[str, tuple[str, Callable[[Document, str], str | None]]] = {
    "tune": ("Throughput against each setting: medians, and the range of the repeats.", _tuned),
    "rates": ("Throughput: medians, and the range of the repeats.", _rates),
    "delays": ("Delays by percentile: medians of the repeats, and their range.", _delays),
    "history": ("What each operation costs as waiting runs and finished history grow.", _history),
}

_Repeats = list[tuple[float, list[float]]]


def _curves(document: Document, kind: str) -> dict[str, list[tuple[str, str, _Repeats]]]:
    """Scenario to its curves: name, database, and each first coordinate with the second ones of all repeats."""
    found: dict[str, list[tuple[str, str, _Repeats]]] = {}
    for one in document["results"]:
        for together in zip(*one["curves"], strict=True):
            if together[0]["kind"] == kind:
                points: _Repeats = [
                    (same[0][0], [y for _, y in same])
                    for same in zip(*(curve["points"] for curve in together), strict=True)
                ]
                found.setdefault(one["scenario"], []).append((together[0]["name"], one["database"], points))
    return found


def _band(axis: Any, repeats: Iterable[tuple[float, Sequence[float]]], label: str, line: Mapping[str, Any]) -> None:
    points = list(repeats)
    xs = [x for x, _ in points]
    axis.plot(xs, [statistics.median(ys) for _, ys in points], label=label, **line)
    axis.fill_between(
        xs, [min(ys) for _, ys in points], [max(ys) for _, ys in points], color=line["color"], alpha=0.15, lw=0
    )


def _legend(axis: Any, databases: Sequence[str], loc: str) -> int:
    """What the colours stand for, and the lines where there are several databases; how many entries that makes."""
    entries: dict[str, Any] = {}
    for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
        entries.setdefault(label, handle)
    if len(databases) > 1:
        for line, database in zip(_LINES, databases, strict=False):
            (entries[database.partition(":")[0]],) = axis.plot([], [], color="#888888", ls=line)
    axis.legend(entries.values(), entries.keys(), loc=loc)
    return len(entries)


def _databases(document: Document) -> list[str]:
    return list(dict.fromkeys(one["database"] for one in document["results"]))


def _labelled(one: Mapping[str, Any], databases: Sequence[str]) -> str:
    return _with_database(one["case"], one["database"], databases)


def _with_database(text: str, database: str, databases: Sequence[str]) -> str:
    return text if len(databases) == 1 else f"{text} · {database.partition(':')[0]}"


def _plain(value: float, _: object) -> str:
    """As a tick is written: no powers of ten, thousands set apart."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def _grid(figure: Any, panels: int) -> list[Any]:
    """Axes in two columns, as many as there are panels."""
    columns = min(2, panels)
    axes = list(figure.subplots(-(-panels // columns), columns, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.remove()
    return axes[:panels]


def _svg(name: str, height: float, draw: Callable[[Any], None]) -> str:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise SystemExit("the plots of a report need matplotlib: pip install 'runlane[bench]'") from error
    # Names inside an SVG are made from the salt: two of them in one page must not share any.
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    whole = file.getvalue()
    return whole[whole.index("<svg") :]
