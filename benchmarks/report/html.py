"""The report in HTML: one file that needs no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.report.circumstances import advice, circumstances
from benchmarks.report.rows import Row, rows

_STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --faint: #666; --line: #ddd; --back: #fff; --zone: #f6f6f4 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e6e6; --faint: #9a9a9a; --line: #3a3a3a; --back: #161616; --zone: #202020 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .5rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
ul { color: var(--faint); font-size: .85rem; padding-left: 1.1rem; overflow-wrap: anywhere }
nav a { margin-right: 1rem }
table { border-collapse: collapse; width: 100%; font-size: .88rem }
th { text-align: left; color: var(--faint); font-weight: 600; border-bottom: 2px solid var(--line) }
th, td { padding: .25rem .6rem } td { border-bottom: 1px solid var(--line) }
tr.first td { border-top: 1px solid var(--faint) }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.case { font-weight: 600 } .faint { color: var(--faint) }
figure { margin: 1rem 0; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: .8rem }
figure svg { width: 100%; height: auto } figcaption { color: #555; font-size: .85rem }
.use { background: var(--zone); border-left: 4px solid #0072b2; padding: .4rem .8rem; margin: .4rem 0 }
""".strip()


def write(document: dict[str, Any], drawn: Mapping[str, tuple[str, str]], stem: Path) -> Path:
    """Store the report with its plots as ``STEM.html``."""
    file = stem.with_name(stem.name + ".html")
    file.write_text("\n".join(_page(document, drawn)) + "\n")
    return file


def _page(document: dict[str, Any], drawn: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width">\n<title>Runlane, measured</title>'
    yield f"<style>\n{_STYLE}\n</style>\n</head>\n<body>\n<h1>Runlane, measured</h1>"
    yield "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in circumstances(document)) + "</ul>"
    if said := list(advice(document)):
        yield '<h2 id="advice">Best for this machine</h2>'
        yield from (f'<p class="use"><b>{escape(what)}</b> {escape(why)}</p>' for what, why in said)
    for name, (caption, svg) in drawn.items():
        yield f'<figure id="{name}">\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>'
    for scenario, found in groupby(rows(document["results"]), key=lambda row: (row.scenario, row.database)):
        yield from _table(scenario[0], scenario[1], list(found))
    yield "</body>\n</html>"


def _table(scenario: str, database: str, found: list[Row]) -> Iterator[str]:
    yield f"<h2>{escape(scenario)} <span class='faint'>on {escape(database)}</span></h2>"
    yield "<table>\n<tr><th>case</th><th>figure</th>" + "".join(
        f'<th class="number">{name}</th>' for name in ("median", "least", "most")
    ) + "<th>unit</th></tr>"  # fmt: skip
    before = ""
    for row in found:
        case, before = ("" if row.case == before else row.case), row.case
        numbers = "".join(
            f'<td class="number{shade}">{value}</td>'
            for value, shade in ((row.median, ""), (row.least, " faint"), (row.most, " faint"))
        )
        yield (
            f'<tr{" class=first" if case else ""}><td class="case">{escape(case)}</td><td>{escape(row.figure)}</td>'
            f'{numbers}<td class="faint">{escape(row.unit)}</td></tr>'
        )
    yield "</table>"
