"""The table for people: a column per peer, a line per figure, under it how many times as good as the reference."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence

from attrs import frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.driven import Driven
from benchmarks.peers.measures import BATCHES, CONNECTIONS
from benchmarks.peers.ratios import FIGURES, Figure, median, ratio, values
from benchmarks.peers.rounds import Round, remarks

REFERENCES = ("runlane", "pgqueuer")
#: From this width on a cell has room for the spread of the rounds beside their median.
_WIDE = 115


@frozen
class Outcome:
    """All that is known when everything was measured."""

    peers: dict[str, Driven]
    missing: dict[str, str]
    rounds: tuple[Round, ...]


def show(outcome: Outcome, console: Console) -> None:
    """Print the table, what each peer keeps and lacks, and what happened meanwhile."""
    spread = console.width >= _WIDE and any(one.number > 1 for one in outcome.rounds)
    console.print(_table(outcome, spread))
    console.print()
    console.print(
        "The figures are medians of the rounds. “× Runlane” and “× PgQueuer” say how many times as good the peer of "
        "the column is, side by side in the same round: above 1 it is better, whether more is better or less."
        + (" ± is how far a round was from the median." if spread else ""),
    )
    console.print()
    for name in [*outcome.peers, *outcome.missing]:
        _describe(name, outcome, console)
    for remark in [*remarks(outcome.rounds), *_machine(outcome.rounds)]:
        console.print(remark, style="dim", highlight=False)


def _table(outcome: Outcome, spread: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("FIGURE", no_wrap=True)
    names = [*outcome.peers, *outcome.missing]
    for name in names:
        table.add_column(PEERS[name].title.upper(), justify="right", no_wrap=True)
    measured = {one.measure for one in outcome.rounds}
    for figure in FIGURES:
        if figure.measure not in measured:
            continue
        table.add_row(
            f"{figure.title}, {figure.unit}" if figure.unit != "rows" else figure.title,
            *[_cell(outcome.rounds, figure, name, spread) for name in names],
        )
        for reference in REFERENCES if figure.better else ():
            if reference in outcome.peers:
                ratios = [_times(ratio(outcome.rounds, figure, name, reference)) for name in names]
                table.add_row(f"  × {PEERS[reference].title}", *ratios, style="dim")
    return table


def _cell(found: Sequence[Round], figure: Figure, peer: str, spread: bool) -> str:
    middle = median(found, figure, peer)
    if middle is None:
        return "–"
    if not spread or not middle:
        return _number(figure, middle)
    furthest = max(abs(value - middle) for value in values(found, figure, peer).values())
    return f"±{furthest / middle:.0%}  {_number(figure, middle)}"  # the ratios stand under the number


def _number(figure: Figure, value: float) -> str:
    return f"{value:,.1f}" if figure.unit in ("ms", "rows") else f"{value:,.0f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _describe(name: str, outcome: Outcome, console: Console) -> None:
    peer = PEERS[name]
    if name in outcome.missing:
        console.print(Text.assemble((peer.title, "bold"), f": not measured: {outcome.missing[name]}"))
        return
    meta = outcome.peers[name].meta
    versions = ", ".join(f"{package} {version}" for package, version in meta["versions"].items())
    console.print(Text.assemble((peer.title, "bold"), f"  {versions}"))
    lines = {
        "keeps": peer.keeps,
        "does not": peer.lacks,
        "set to": meta["settings"] + _bests(outcome.rounds, name),
    }
    for word, line in lines.items():
        told = textwrap.fill(f"{word}: {line}", console.width, initial_indent="  ", subsequent_indent="    ")
        console.print(Text(told), soft_wrap=True)


def _bests(found: Sequence[Round], peer: str) -> str:
    """Which of several settings did best in the measures that try them."""
    told = ""
    for measure, prefix, choices, words in (
        ("bulk", "batch_of", BATCHES, "bulk in batches of"),
        ("concurrent", "connections", CONNECTIONS, "connections for many callers:"),
    ):
        figures = [Figure(measure, f"{prefix}_{choice}_per_s", f"{choice:,}", "", "more") for choice in choices]
        rates = {figure.title: rate for figure in figures if (rate := median(found, figure, peer)) is not None}
        told += f"; {words} {max(rates, key=rates.__getitem__)}" if rates else ""
    return told


def _machine(found: Sequence[Round]) -> list[str]:
    met = [one.conditions for each in found if each.taken for one in each.measurements if one.conditions is not None]
    if not met:
        return []
    speeds = [one.speed / 1e6 for one in met]
    others = [one.others for one in met if one.others is not None]
    told = f"Machine: {statistics.median(speeds):.0f} M loops/s ({min(speeds):.0f}–{max(speeds):.0f})"
    if others:
        told += f"; other processes used {statistics.median(others):.2f} cores (at most {max(others):.2f})"
    return [told]
