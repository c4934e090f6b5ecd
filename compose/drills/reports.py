"""Tells how drills went: a line for each as it ends, and the files of the report."""

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from compose.drills.outcome import Outcome, Report
from compose.drills.page import page_of
from compose.drills.record import record_of
from compose.drills.summary import recovery_cells, summary_of
from compose.local.errors import RigError

EXAMPLES = 5
FORMATS: Mapping[str, Callable[[Report], str]] = {"md": summary_of, "html": page_of, "json": record_of}
COLOURS = {"pass": "green", "FAIL": "red", "skipped": "yellow"}


def print_outcome(outcome: Outcome, console: Console, again: str) -> None:
    """One line; below it, the first few things that are wrong, and the command that repeats the drill."""
    colour = COLOURS[outcome.result]
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
    for problem in outcome.problems[:EXAMPLES]:
        console.print(f"        {escape(problem)}", soft_wrap=True)
    if len(outcome.problems) > EXAMPLES:
        console.print(f"        and {len(outcome.problems) - EXAMPLES} more (see the report)")
    if outcome.problems:
        console.print(f"        again: {again}")


def write_reports(report: Report, stem: Path) -> list[Path]:
    """The summary, the page with the plots, and the same as JSON. `stem`: their path, but for the ending.

    Raises RigError when they cannot be written.
    """
    written = []
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for ending, made_of in FORMATS.items():
            file = stem.with_name(f"{stem.name}.{ending}")
            file.write_text(made_of(report))
            written.append(file)
    except OSError as error:
        raise RigError(f"cannot write the report: {error}") from error
    return written
