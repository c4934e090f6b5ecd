"""Writes a run as JSON and as one HTML page that needs nothing else: a table of all scenarios, and plots."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from compose.drills.report import COLOURS, svg_of, templates_in
from compose.local.commands import RigError
from tests.bench.cpu import LOAD
from tests.bench.results import FIGURES, Result, Round, Run, number_of_rounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEM = "bench-report"
# The columns of the table above all.
OVERVIEW = (
    "accepted_per_second",
    "ended_per_second",
    "notified_p50_ms",
    "notified_p99_ms",
    "end_to_end_p50_ms",
    "end_to_end_p99_ms",
    "post_p99_ms",
    "share_of_floor_percent",
)
BAR_INCHES = 0.22
# Each further nine stands as far along the axis as the one before.
PERCENTILES = ("0", "10", "25", "50", "75", "90", "95", "98", "99", "99.5", "99.9", "100")
EXTREMES = {"0": "min", "100": "max"}


def write_reports(run: Run, folder: Path) -> list[Path]:
    """The two files. Raises RigError when they cannot be written."""
    data, page = (folder / f"{STEM}.{ending}" for ending in ("json", "html"))
    try:
        data.write_text(json.dumps(run.as_json(), indent=1))
        page.write_text(page_of(run))
    except OSError as error:
        raise RigError(f"cannot write the report: {error}") from error
    return [data, page]


def page_of(run: Run) -> str:
    """The whole page."""
    return (
        templates_in(Path(__file__).parent)
        .get_template("page.html.jinja")
        .render(
            title="Bench",
            run=run,
            figures=FIGURES,
            overview=OVERVIEW,
            cells_of=_cells,
            figures_of=_figures,
            peaks_of=_peaks,
            counts_of=_counts,
            number_of_rounds=number_of_rounds,
            seconds_of=seconds_of,
            latencies_of=latencies_of,
            memory_of=memory_of,
            shares_of=shares_of,
        )
    )


def _cells(result: Result) -> list[str]:
    figures = result.figures
    cpu_ms = sum(ms for name, ms in result.cpu_ms.items() if name != LOAD)
    cells = [FIGURES[name].text(figures[name]) if name in figures else "" for name in OVERVIEW]
    return [*cells, f"{cpu_ms:.2f} ms" if cpu_ms else ""]


def _figures(result: Result) -> dict[str, str]:
    return {FIGURES[name].label: FIGURES[name].text(value) for name, value in result.figures.items()}


def _peaks(result: Result) -> dict[str, str]:
    return {name: f"{megabytes:.0f} MB" for name, megabytes in sorted(result.peak_megabytes.items())}


def _counts(counts: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{count:,.2f}" for name, count in counts.items()}


def seconds_of(found: Round) -> Markup:
    """Accepted and ended in each second, and in flight after it, on a scale of its own."""

    def draw(axes: "Axes") -> None:
        middles = [at + 0.5 for at in range(len(found.seconds))]
        axes.plot(
            middles, [each.accepted for each in found.seconds], color=COLOURS[0], label="accepted a second"
        )
        axes.plot(middles, [each.ended for each in found.seconds], color=COLOURS[1], label="ended a second")
        in_flight = axes.twinx()
        ends = [at + 1 for at in range(len(found.seconds))]
        flying = [each.in_flight for each in found.seconds]
        in_flight.plot(ends, flying, color=COLOURS[2], label="in flight (right)")
        in_flight.spines["right"].set_visible(True)
        for each in (axes, in_flight):
            each.set_ylim(bottom=0)
        axes.set_xlim(0, max(1, len(found.seconds)))
        axes.set_xlabel("seconds")

    return svg_of("orders over time", draw)


def latencies_of(rounds: Sequence[Round]) -> Markup:
    """A line for each round."""

    def draw(axes: "Axes") -> None:
        for number, found in enumerate(rounds):
            places = [PERCENTILES.index(percent) for percent in found.latency_ms_by_percentile]
            values = list(found.latency_ms_by_percentile.values())
            axes.plot(places, values, color=_colour(number), label=f"round {number + 1}")
        axes.set_xticks(range(len(PERCENTILES)), [EXTREMES.get(each, f"p{each}") for each in PERCENTILES])
        axes.set_ylim(bottom=0)

    return svg_of("latency by percentile", draw)


def memory_of(samples: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """A line for each process."""

    def draw(axes: "Axes") -> None:
        for number, (name, points) in enumerate(samples.items()):
            at, megabytes = [at for at, _ in points], [megabytes for _, megabytes in points]
            axes.plot(at, megabytes, color=_colour(number), label=name)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds")

    return svg_of("memory over time", draw)


def shares_of(parts: Mapping[str, float]) -> Markup:
    """A bar for each part, with its number."""

    def draw(axes: "Axes") -> None:
        bars = axes.barh(list(parts), list(parts.values()), color=COLOURS[0])
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.invert_yaxis()

    return svg_of("CPU time by part", draw, height_inches=0.6 + BAR_INCHES * len(parts))


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
