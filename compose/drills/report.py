"""Shows how drills went: a line for each as it ends, and the report as Markdown, as a page, and as JSON.

The page needs nothing else: a table, and a plot for every drill, with orders accepted, ended and in flight;
when what was broken; the longest stall. How such pages are made and plots drawn, the bench shares.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from io import StringIO
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.markup import escape

from compose.drills.outcome import Outcome, Recovery, Report, Sample, Timeline
from compose.local.commands import RigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import RcKeyType


WIDTH_INCHES, HEIGHT_INCHES = 9.0, 2.8
# It can be read on a dark ground and on a light one: a plot has none of its own.
GREY = "#888888"
BAD = "#dc2626"
COLOURS = (
    *("#2563eb", "#16a34a", "#d97706", BAD, "#7c3aed", "#0891b2", "#be185d", "#65a30d", "#78716c"),
    "#334155",
)
_SETTINGS: "dict[RcKeyType, Any]" = {
    # The same figures make the same file.
    "svg.hashsalt": "murmuration",
    "svg.fonttype": "none",
    # A label is what it says, also where it has a dollar sign.
    "text.parse_math": False,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "font.size": 8,
}
_METADATA = ("Date", "Creator", "Format", "Type")


def templates_in(folder: Path | None = None) -> Environment:
    """This package's and a folder's. All that they show is escaped; a name that they miss is an error."""
    own = Path(__file__).parents[1] / "templates"
    return Environment(
        loader=FileSystemLoader([own, *([folder] if folder else [])]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def svg_of(title: str, draw: Callable[["Axes"], None], *, height_inches: float = HEIGHT_INCHES) -> Markup:
    """A plot, with a legend below it where something in it has a label, as an element of a page."""
    # It is slow to import, and whoever starts the system needs no plots.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        handles, labels = [], []
        for each in figure.axes:
            more, names = each.get_legend_handles_labels()
            handles += more
            labels += names
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(handles), 6))
        drawn = StringIO()
        metadata = {"Title": title, **dict.fromkeys(_METADATA)}
        figure.savefig(drawn, format="svg", transparent=True, metadata=metadata)
    svg = drawn.getvalue()
    return Markup(svg[svg.index("<svg") :])  # noqa: S704


# Of each kind, so many problems of a check are shown.
PRINTED_PROBLEMS, SUMMARY_PROBLEMS, PAGE_PROBLEMS = 5, 20, 50
UNKNOWN = "?"
RESULT_COLOURS = {"pass": "green", "FAIL": "red", "skipped": "yellow"}
NUMBERS = ("seconds", "orders", "longest stall", "kept", "manual", "refused", "all ended after")
LABEL_ROWS = 2
SERIES: tuple[tuple[str, Callable[[Sample], int | None]], ...] = (
    ("accepted", lambda sample: sample.accepted),
    ("ended", lambda sample: sample.ended),
    ("in flight", lambda sample: sample.in_flight),
)


def print_outcome(outcome: Outcome, console: Console, again: str) -> None:
    """One line; below it, the first few things that are wrong, and the command that repeats the drill."""
    colour = RESULT_COLOURS[outcome.result]
    line = f"[{colour}]{outcome.result:<7}[/] {outcome.name:<22} {outcome.seconds:5.1f} s"
    if outcome.skipped_because:
        line += f"  {escape(outcome.skipped_because)}"
    else:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(outcome.ends.items()))
        stall = outcome.timeline.longest_stall.seconds
        line += f"  {outcome.accepted} orders: {ends or 'not counted'}; longest stall {stall:.1f} s"
        kept, manual, refused, ended = recovery_cells(outcome.recovery)
        line += f"; kept {kept}, {manual} manual, {refused} refused, all ended after {ended}"
    console.print(line, soft_wrap=True)
    for note in outcome.notes:
        console.print(f"        {escape(note)}", soft_wrap=True)
    for problem in outcome.problems[:PRINTED_PROBLEMS]:
        console.print(f"        {escape(problem)}", soft_wrap=True)
    if len(outcome.problems) > PRINTED_PROBLEMS:
        console.print(f"        and {len(outcome.problems) - PRINTED_PROBLEMS} more (see the report)")
    if outcome.problems:
        console.print(f"        again: {again}")


# --- as Markdown ------------------------------------------------------------------------------------------


def summary_of(report: Report) -> str:
    """A row a drill, and what was asked of each."""
    return "\n".join(_summary_lines(report)) + "\n"


def _summary_lines(report: Report) -> Iterator[str]:
    yield "# Fault drills"
    yield ""
    yield f"**{report.headline}.** On {report.rig}, begun {report.began_at}, {report.seconds:.0f} s,"
    yield f"seed {report.seed} (the same seed draws the same orders and the same moments)."
    yield ""
    yield (
        "| drill | what is broken | result | seconds | orders | ended | longest stall "
        "| kept | manual | refused | all ended after |"
    )
    yield "|---|---|---|---:|---:|---|---:|---:|---:|---:|---:|"
    for outcome in report.outcomes:
        yield _summary_row(outcome)
    for outcome in report.outcomes:
        if not outcome.skipped_because:
            yield from _details(outcome)


def _summary_row(outcome: Outcome) -> str:
    if outcome.skipped_because:
        return f"| {outcome.name} | {outcome.title} | skipped: {outcome.skipped_because} {'| ' * 9}|"
    ends = ", ".join(f"{count} {end}" for end, count in sorted(outcome.ends.items()))
    stall = outcome.timeline.longest_stall.seconds
    cells = (
        outcome.name,
        outcome.title,
        outcome.result,
        f"{outcome.seconds:.0f}",
        str(outcome.accepted),
        ends,
        f"{stall:.1f} s",
        *recovery_cells(outcome.recovery),
    )
    return f"| {' | '.join(cells)} |"


def recovery_cells(found: Recovery | None) -> tuple[str, str, str, str]:
    """Kept, manual, refused, all ended after."""
    if found is None:
        return (UNKNOWN,) * 4
    return found.kept_text, str(found.manual), found.refused_text, found.ended_text


def _details(outcome: Outcome) -> Iterator[str]:
    yield ""
    yield f"## {outcome.name}: {outcome.result}"
    yield ""
    if outcome.target.why:
        yield f"{outcome.target.why}"
        yield ""
    for fault in outcome.timeline.faults:
        healed = "never" if fault.healed_seconds is None else f"{fault.healed_seconds:.1f} s"
        yield f"- {fault.label}: from {fault.began_seconds:.1f} s, healed {healed}"
    yield from (f"- {note}" for note in outcome.notes)
    yield ""
    for why in outcome.broke_off:
        yield f"- FAIL The drill broke off: {why}"
    for check in outcome.checks:
        yield f"- {'FAIL' if check.problems else 'pass'} {check.sentence}"
        for problem in check.problems[:SUMMARY_PROBLEMS]:
            yield f"  - {problem}"
        if len(check.problems) > SUMMARY_PROBLEMS:
            yield f"  - and {len(check.problems) - SUMMARY_PROBLEMS} more"
    yield ""
    yield "| | in the end |"
    yield "|---|---|"
    for name, state in outcome.services.items():
        yield f"| {name} | {state} |"


# --- as a page --------------------------------------------------------------------------------------------


def page_of(report: Report) -> str:
    """The whole page."""
    return (
        templates_in()
        .get_template("drills.html.jinja")
        .render(
            title="Fault drills",
            report=report,
            numbers=NUMBERS,
            most_problems=PAGE_PROBLEMS,
            cells_of=_cells,
            plot_of=plot_of,
            faults_of=faults_of,
        )
    )


def plot_of(timeline: Timeline) -> Markup:
    """The plot; a sentence where nothing was measured."""
    if not timeline.samples:
        return Markup("<p>Nothing was measured.</p>")
    return svg_of("orders over time", lambda axes: _draw(axes, timeline))


def faults_of(timeline: Timeline) -> list[str]:
    """What was broken, from when to when."""
    return [
        f"{fault.label}: {fault.began_seconds:.1f} s to {_healed(fault.healed_seconds, timeline):.1f} s"
        for fault in timeline.faults
    ]


def _draw(axes: "Axes", timeline: Timeline) -> None:
    at = [sample.at_seconds for sample in timeline.samples]
    for (name, value), colour in zip(SERIES, COLOURS, strict=False):
        # A line breaks off where nobody could tell.
        known = [nan if (count := value(sample)) is None else count for sample in timeline.samples]
        axes.plot(at, known, color=colour, label=name, gid=name)
    across = axes.get_xaxis_transform()
    for number, fault in enumerate(timeline.faults):
        healed = _healed(fault.healed_seconds, timeline)
        ground = axes.axvspan(fault.began_seconds, healed, facecolor=BAD, edgecolor=BAD, alpha=0.15)
        ground.set_label("_" if number else "broken")
        # Labels of faults that follow each other closely take turns in two rows.
        row = 1.02 + 0.08 * (number % LABEL_ROWS)
        axes.text(fault.began_seconds, row, fault.label, transform=across, color=BAD, fontsize=7)
    stall = timeline.longest_stall
    text = f"longest stall {stall.seconds:.1f} s"
    ends = [stall.from_seconds, stall.to_seconds]
    axes.plot(ends, [0, 0], transform=across, color=BAD, linewidth=4, clip_on=False, label=text)
    axes.set_xlim(0, max(at[-1], 1.0))
    axes.set_ylim(0, max(1, *(sample.accepted for sample in timeline.samples)))
    axes.set_xlabel("seconds")


def _healed(healed_seconds: float | None, timeline: Timeline) -> float:
    """One that was never healed lasted to the end."""
    last = timeline.samples[-1].at_seconds if timeline.samples else 0.0
    return max(last, 1.0) if healed_seconds is None else healed_seconds


def _cells(outcome: Outcome) -> tuple[str, ...]:
    return (
        f"{outcome.seconds:.0f}",
        str(outcome.accepted),
        f"{outcome.timeline.longest_stall.seconds:.1f} s",
        *recovery_cells(outcome.recovery),
    )


# --- as JSON ----------------------------------------------------------------------------------------------


def record_of(report: Report) -> str:
    """The whole report, but for the samples of its plots."""
    record = {
        "headline": report.headline,
        "passed": report.passed,
        "rig": report.rig,
        "seed": report.seed,
        "began_at": report.began_at,
        "seconds": round(report.seconds, 1),
        "drills": [_drill(outcome) for outcome in report.outcomes],
    }
    return json.dumps(record, indent=2) + "\n"


def _drill(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "title": outcome.title,
        "result": outcome.result,
        "skipped_because": outcome.skipped_because,
        "seconds": round(outcome.seconds, 1),
        "accepted": outcome.accepted,
        "ends": dict(outcome.ends),
        "longest_stall_seconds": round(outcome.timeline.longest_stall.seconds, 1),
        "recovery": _recovery(outcome),
        "target": asdict(outcome.target),
        "faults": [asdict(fault) for fault in outcome.timeline.faults],
        "notes": list(outcome.notes),
        "broke_off": outcome.broke_off,
        "failed": {check.sentence: list(check.problems) for check in outcome.checks if check.problems},
    }


def _recovery(outcome: Outcome) -> dict[str, Any] | None:
    if outcome.recovery is None:
        return None
    return {"kept": outcome.recovery.kept, **asdict(outcome.recovery)}


def write_reports(report: Report, stem: Path) -> list[Path]:
    """The summary, the page with the plots, and the same as JSON. `stem`: their path, but for the ending.

    Raises RigError when they cannot be written.
    """
    formats: Mapping[str, Callable[[Report], str]] = {"md": summary_of, "html": page_of, "json": record_of}
    written = []
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for ending, made_of in formats.items():
            file = stem.with_name(f"{stem.name}.{ending}")
            file.write_text(made_of(report))
            written.append(file)
    except OSError as error:
        raise RigError(f"cannot write the report: {error}") from error
    return written
