"""Runs drills on a system of their own, prints a line for each, and writes the reports."""

import asyncio
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from compose.drills import FOLDER
from compose.drills.catalogue import DRILLS
from compose.drills.harness import Harness
from compose.drills.local_rig import LocalDrillRig
from compose.drills.outcome import Outcome, Report
from compose.drills.page import page_of
from compose.drills.stage import Drill
from compose.drills.summary import summary_of
from compose.local.errors import RigError
from compose.local.interruptions import uninterrupted
from compose.local.progress import Progress
from compose.local.rig import LocalRig
from compose.local.state import exclusive

LOCK_FILE = "drills.lock"
SUMMARY_FILE = "drills-report.md"
PAGE_FILE = "drills-report.html"
SEEDS = 1_000_000
ORDERS_PER_SECOND = 30.0
EXAMPLES = 5
COLOURS = {"pass": "green", "FAIL": "red", "skipped": "yellow"}
PREFIX = "MURMURATION_"
# A tracker that loses its patience soon, so that being late for good is part of what is drilled; and services
# that try again soon, so that a drill is over soon.
SETTINGS = {
    "MURMURATION_STEP_DEADLINE_SECONDS": '{"order": 3, "inventory": 3, "payment": 4, "fulfillment": 4}',
    "MURMURATION_REDRIVE_GRACE_SECONDS": "1.5",
    "MURMURATION_OVERDUE_AFTER_SECONDS": "10",
    # So an undo is not given up before two minutes have passed, as without these settings.
    "MURMURATION_UNDO_BACKOFF_CAP_SECONDS": "5",
    "MURMURATION_UNDO_ATTEMPTS": "40",
    "MURMURATION_MESSAGE_BACKOFF_CAP_SECONDS": "5",
    "MURMURATION_SANDBOX_SLOW_SECONDS": "1",
    "MURMURATION_RECONCILIATION_SETTLE_SECONDS": "2",
    "MURMURATION_RECONCILIATION_RECHECK_SECONDS": "2",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose of a run."""

    only: Sequence[str] = ()
    seed: int | None = None
    report_dir: Path | None = None
    orders_per_second: float = ORDERS_PER_SECOND


def drill(
    state_dir: Path,
    console: Console,
    progress: Progress,
    environment: Mapping[str, str],
    options: Options | None = None,
) -> bool:
    """Run all drills, or some, on a system made for them in a folder of `state_dir`; answers whether all
    passed.

    Afterwards that system is deleted; where a drill failed it is only stopped, so that its logs and databases
    can be looked at. Raises RigError, also for a name that no drill has.
    """
    options = options or Options()
    chosen = chosen_drills(options.only)
    seed = secrets.randbelow(SEEDS) if options.seed is None else options.seed
    report_dir = options.report_dir or state_dir
    report = Report(LocalDrillRig.name, seed, datetime.now(UTC).isoformat(timespec="seconds"))
    console.print(f"seed {seed}", style="bold")
    with own_rig(state_dir, progress, environment) as rig:
        harness = Harness(LocalDrillRig(rig), seed, options.orders_per_second)
        asyncio.run(run_all(harness, chosen, report, report_dir, console))
        if report.passed:
            rig.destroy()
    console.print(
        f"{report.headline}, {report.seconds:.0f} s, seed {seed}",
        style="bold green" if report.passed else "bold red",
    )
    console.print(f"reports: {report_dir / SUMMARY_FILE}, {report_dir / PAGE_FILE}", soft_wrap=True)
    if not report.passed:
        console.print(f"logs and data of the broken system: {rig.state_dir}", soft_wrap=True)
    return report.passed


def chosen_drills(only: Sequence[str]) -> list[Drill]:
    """The drills of these names, or all. Raises RigError for a name that no drill has."""
    known = [known_drill.name for known_drill in DRILLS]
    if unknown := sorted(set(only) - set(known)):
        raise RigError(f"there is no drill {', '.join(unknown)} (there are {', '.join(known)})")
    return [known_drill for known_drill in DRILLS if not only or known_drill.name in only]


@contextmanager
def own_rig(state_dir: Path, progress: Progress, environment: Mapping[str, str]) -> Iterator[LocalRig]:
    """A system of the drills' own, with servers of its own, up; stopped afterwards.

    What an earlier run left is deleted. A second run waits until this one is through.
    """
    state_dir.mkdir(mode=0o711, exist_ok=True)
    note = "other drills are running here: waiting until they are through"
    with exclusive(state_dir / LOCK_FILE, lambda: progress.note(note)):
        rig = LocalRig(state_dir / FOLDER, progress=progress, environment=drill_environment(environment))
        rig.destroy()
        try:
            rig.up()
            yield rig
        finally:
            with uninterrupted():
                rig.down()


def drill_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a system to be broken is told: settings and servers of one's own are not meant for it."""
    kept = {name: value for name, value in environment.items() if not name.startswith(PREFIX)}
    return kept | SETTINGS


async def run_all(
    harness: Harness, chosen: Sequence[Drill], report: Report, report_dir: Path, console: Console
) -> None:
    """One drill after the other. As each ends: a line, and the reports anew, for a run may be broken off."""
    began = time.monotonic()
    for each in chosen:
        report.outcomes.append(outcome := await harness.run(each))
        report.seconds = time.monotonic() - began
        print_outcome(outcome, console, harness.seed)
        write_reports(report, report_dir)


def print_outcome(outcome: Outcome, console: Console, seed: int) -> None:
    """One line; below it, the first few things that are wrong, and how to see them again."""
    colour = COLOURS[outcome.result]
    line = f"[{colour}]{outcome.result:<7}[/] {outcome.name:<22} {outcome.seconds:5.1f} s"
    if outcome.skipped_because:
        line += f"  {escape(outcome.skipped_because)}"
    else:
        ends = ", ".join(f"{count} {end}" for end, count in sorted(outcome.ends.items()))
        stall = outcome.timeline.longest_stall.seconds
        line += f"  {outcome.accepted} orders: {ends or 'not counted'}; longest stall {stall:.1f} s"
    console.print(line, soft_wrap=True)
    for problem in outcome.problems[:EXAMPLES]:
        console.print(f"        {escape(problem)}", soft_wrap=True)
    if len(outcome.problems) > EXAMPLES:
        console.print(f"        and {len(outcome.problems) - EXAMPLES} more (see the report)")
    if outcome.problems:
        console.print(f"        again: make drill NAME={outcome.name} SEED={seed}")


def write_reports(report: Report, folder: Path) -> None:
    """The summary and the page with the plots. Raises RigError when they cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SUMMARY_FILE).write_text(summary_of(report))
        (folder / PAGE_FILE).write_text(page_of(report))
    except OSError as error:
        raise RigError(f"cannot write the report: {error}") from error
