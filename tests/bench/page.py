"""A run as one HTML page that needs nothing else: a table of all scenarios, and plots of each."""

from collections.abc import Mapping
from pathlib import Path

from compose.report import templates_in
from tests.bench import plots
from tests.bench.cpu import LOAD
from tests.bench.results import FIGURES, Result, Run, number_of_rounds

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
            plots=plots,
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
