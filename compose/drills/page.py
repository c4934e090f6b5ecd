"""The report as one HTML page that needs nothing else: a table, and a plot for every drill."""

from collections.abc import Iterator
from html import escape

from compose.chart import STYLE as CHART_STYLE
from compose.drills.outcome import Outcome, Report
from compose.drills.plot import plot_of
from compose.drills.summary import recovery_cells

PROBLEMS = 50
NUMBERS = ("seconds", "orders", "longest stall", "kept", "manual", "refused", "all ended after")
STYLE = (
    CHART_STYLE
    + """
:root { color-scheme: light dark; --accepted: #2563eb; --ended: #16a34a; --flying: #d97706; --bad: #dc2626; }
.pass { color: var(--ended); } .FAIL { color: var(--bad); font-weight: bold; } .skipped { opacity: .6; }
.accepted { stroke: var(--accepted); } .ended { stroke: var(--ended); } .in-flight { stroke: var(--flying); }
.fault { fill: var(--bad); opacity: .15; } .label { font-size: 10px; fill: var(--bad); }
.stall { stroke: var(--bad); stroke-width: 3; }
.key .accepted { border-color: var(--accepted); } .key .ended { border-color: var(--ended); }
.key .in-flight { border-color: var(--flying); } .key .broken { border-color: var(--bad); }
"""
)
KEY = (
    '<p class="key"><b class="accepted"></b>accepted<b class="ended"></b>ended'
    '<b class="in-flight"></b>in flight<b class="broken"></b>red ground: broken; red line: longest stall</p>'
)


def page_of(report: Report) -> str:
    """The whole page."""
    return "\n".join(_parts(report)) + "\n"


def _parts(report: Report) -> Iterator[str]:
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Fault drills</title>'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<style>{STYLE}</style></head><body><h1>Fault drills</h1>"
    yield (
        f'<p class="{"pass" if report.passed else "FAIL"}">{escape(report.headline)}</p>'
        f"<p>On {escape(report.rig)}, begun {escape(report.began_at)}, {report.seconds:.0f} s, "
        f"seed {report.seed}.</p>"
    )
    yield "<table><tr><th>drill<th>what is broken<th>result"
    yield "".join(f'<th class="number">{name}' for name in NUMBERS) + "</tr>"
    yield from map(_row, report.outcomes)
    yield "</table>" + KEY
    for outcome in report.outcomes:
        if not outcome.skipped_because:
            yield from _section(outcome)
    yield "</body></html>"


def _row(outcome: Outcome) -> str:
    head = f'<tr><td><a href="#{outcome.name}">{outcome.name}</a><td>{escape(outcome.title)}'
    if outcome.skipped_because:
        span = 1 + len(NUMBERS)
        return f'{head}<td colspan="{span}" class="skipped">skipped: {escape(outcome.skipped_because)}</tr>'
    numbers = (
        f"{outcome.seconds:.0f}",
        str(outcome.accepted),
        f"{outcome.timeline.longest_stall.seconds:.1f} s",
        *recovery_cells(outcome.recovery),
    )
    cells = "".join(f'<td class="number">{number}' for number in numbers)
    return f'{head}<td class="{outcome.result}">{outcome.result}{cells}</tr>'


def _section(outcome: Outcome) -> Iterator[str]:
    ends = ", ".join(f"{count} {end}" for end, count in sorted(outcome.ends.items()))
    yield f'<h2 id="{outcome.name}">{escape(outcome.title)} <span class="{outcome.result}">'
    yield f"{outcome.result}</span></h2>"
    yield plot_of(outcome.timeline)
    yield f"<p>{outcome.accepted} orders accepted: {escape(ends) or 'not counted'}.</p>"
    if outcome.target.why:
        yield f"<p>{escape(outcome.target.why)}</p>"
    yield "<table><tr><th>asked<th>result</tr>"
    for why in outcome.broke_off:
        yield f'<tr><td>The drill broke off: {escape(why)}<td class="FAIL">FAIL</tr>'
    for check in outcome.checks:
        result = "FAIL" if check.problems else "pass"
        shown = "".join(f"<br>{escape(problem)}" for problem in check.problems[:PROBLEMS])
        if len(check.problems) > PROBLEMS:
            shown += f"<br>and {len(check.problems) - PROBLEMS} more"
        yield f'<tr><td>{escape(check.sentence)}{shown}<td class="{result}">{result}</tr>'
    yield "</table><table><tr><th>process<th>in the end</tr>"
    for name, state in outcome.services.items():
        yield f"<tr><td>{escape(name)}<td>{escape(state)}</tr>"
    yield "</table>"
