"""The report of drills as one HTML page that needs nothing else: a table, and a plot for every drill.

A plot shows orders accepted, ended and in flight; when what was broken; the longest stall.
"""

from collections.abc import Callable
from math import nan
from typing import TYPE_CHECKING

from markupsafe import Markup

from compose.drills.outcome import Outcome, Report
from compose.drills.summary import recovery_cells
from compose.drills.timeline import Sample, Timeline
from compose.report import BAD, COLOURS, svg_of, templates_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROBLEMS = 50
NUMBERS = ("seconds", "orders", "longest stall", "kept", "manual", "refused", "all ended after")
LABEL_ROWS = 2
SERIES: tuple[tuple[str, Callable[[Sample], int | None]], ...] = (
    ("accepted", lambda sample: sample.accepted),
    ("ended", lambda sample: sample.ended),
    ("in flight", lambda sample: sample.in_flight),
)


def page_of(report: Report) -> str:
    """The whole page."""
    return (
        templates_in()
        .get_template("drills.html.jinja")
        .render(
            title="Fault drills",
            report=report,
            numbers=NUMBERS,
            most_problems=PROBLEMS,
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
        row = 1.02 + 0.06 * (number % LABEL_ROWS)
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
