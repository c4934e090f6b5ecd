"""A run as one HTML page that needs nothing else: a table of all scenarios, and plots of each."""

from collections.abc import Iterator, Mapping
from html import escape

from compose.chart import STYLE as CHART_STYLE
from tests.bench.cpu import LOAD
from tests.bench.plots import latencies_of, memory_of, seconds_of, shares_of
from tests.bench.results import FIGURES, Result, Run, number_of_rounds

COLOURS = (
    *("#2563eb", "#16a34a", "#d97706", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#65a30d", "#78716c"),
    "#334155",
)
STYLE = (
    CHART_STYLE
    + """
:root { color-scheme: light dark; }
.pass { color: #16a34a; } .FAIL { color: #dc2626; font-weight: bold; }
.bar { fill: #2563eb; } .bar-text { font-size: 11px; fill: currentColor; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
"""
    + "\n".join(
        f".c{number}, .key .c{number} {{ stroke: {colour}; border-color: {colour}; }}"
        for number, colour in enumerate(COLOURS)
    )
)
# The columns of the table above all.
OVERVIEW = (
    "accepted_per_second",
    "ended_per_second",
    "told_p50_ms",
    "told_p99_ms",
    "end_to_end_p50_ms",
    "end_to_end_p99_ms",
    "post_p99_ms",
    "share_of_floor_percent",
)


def page_of(run: Run) -> str:
    """The whole page."""
    return "\n".join(_parts(run)) + "\n"


def _parts(run: Run) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Bench</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style></head><body><h1>Bench</h1>"
    verdict = "every accepted order ended" if run.passed else "FAIL"
    yield f'<p class="{"pass" if run.passed else "FAIL"}">{verdict}</p>'
    yield f"<p>Commit {escape(run.commit)}, begun {escape(run.began_at)}, {run.seconds:.0f} s, on"
    yield f"{escape(run.machine)}. Medians of all rounds.</p>"
    yield "<table><tr><th>scenario"
    yield "".join(f'<th class="number">{escape(FIGURES[name].label)}' for name in OVERVIEW)
    yield '<th class="number">CPU a saga</tr>'
    for result in run.results:
        yield from _row(result)
    yield "</table>"
    for result in run.results:
        yield from _section(result)
    yield "</body></html>"


def _row(result: Result) -> Iterator[str]:
    figures = result.figures
    yield f'<tr><td><a href="#{result.name}">{result.name}</a> {escape(result.title)}'
    for name in OVERVIEW:
        text = FIGURES[name].text(figures[name]) if name in figures else ""
        yield f'<td class="number">{text}'
    cpu_ms = sum(ms for name, ms in result.cpu_ms.items() if name != LOAD)
    yield f'<td class="number">{f"{cpu_ms:.2f} ms" if cpu_ms else ""}</tr>'


def _section(result: Result) -> Iterator[str]:
    verdict = "FAIL" if result.all_problems else "pass"
    yield f'<h2 id="{result.name}">{result.name} <span class="{verdict}">{verdict}</span></h2>'
    yield f"<p>{escape(result.title)}; {number_of_rounds(len(result.rounds))}.</p>"
    for problem in result.all_problems:
        yield f'<p class="FAIL">{escape(problem)}</p>'
    for note in result.notes:
        yield f"<p>{escape(note)}</p>"
    for target in result.verdicts:
        yield f'<p class="{"pass" if target.met else "FAIL"}">Target: {escape(target.text)}</p>'
    for number, found in enumerate(result.rounds, 1):
        if found.seconds:
            yield f"<h3>Round {number}: orders a second, and in flight</h3>"
            yield from seconds_of(found)
    if any(found.latency_ms_by_percentile for found in result.rounds):
        yield "<h3>From the POST's due time to the last fact, ms, by percentile</h3>"
        yield from latencies_of(result.rounds)
    for found in result.rounds:
        if found.memory_megabytes:
            yield "<h3>Memory of its own, MB</h3>"
            yield from memory_of(found.memory_megabytes)
    if result.cpu_ms:
        yield "<h3>CPU milliseconds a saga</h3>"
        yield from shares_of(result.cpu_ms)
    yield '<div class="pair"><div>'
    yield from _table(
        "figure", {FIGURES[name].label: FIGURES[name].text(value) for name, value in result.figures.items()}
    )
    yield "</div><div>"
    yield from _table(
        "peak memory", {name: f"{mb:.0f} MB" for name, mb in sorted(result.peak_megabytes.items())}
    )
    for group, counts in result.per_saga.items():
        yield from _table(f"{group}, a saga", {name: f"{count:,.2f}" for name, count in counts.items()})
    yield "</div></div>"


def _table(title: str, rows: Mapping[str, str]) -> Iterator[str]:
    if rows:
        yield f'<table><tr><th>{escape(title)}<th class="number"></tr>'
        for name, text in rows.items():
            yield f'<tr><td>{escape(name)}<td class="number">{escape(text)}</tr>'
        yield "</table>"
