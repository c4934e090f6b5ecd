"""Runs drills on a system of their own, prints a line for each, and writes the reports."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from compose.drills.catalogue import CLUSTER_DRILLS, DRILLS, LONG_DRILLS
from compose.drills.container_rig import ClusterSystem, ContainerSystem
from compose.drills.harness import Harness
from compose.drills.local_rig import LocalSystem
from compose.drills.outcome import Report
from compose.drills.report import print_outcome, write_reports
from compose.drills.rig import System
from compose.drills.stage import Drill
from compose.local.commands import Progress, RigError, uninterrupted
from compose.local.state import exclusive

SystemMaker = Callable[[Path, Progress, Mapping[str, str]], System]

# By the name that a person gives: RIG=compose.
SYSTEMS: Mapping[str, SystemMaker] = {
    "local": LocalSystem,
    "compose": ContainerSystem,
    "cluster": ClusterSystem,
}
CLUSTER = "cluster"
DEFAULT_RIG = "local"
LOCK_FILE = "drills.lock"
REPORT = "drills-report"
SEEDS = 1_000_000
ORDERS_PER_SECOND = 30.0
# A cluster's many processes share what this machine can do.
ON_A_CLUSTER_PER_SECOND = 8.0


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose of a run."""

    only: Sequence[str] = ()
    seed: int | None = None
    report_dir: Path | None = None
    orders_per_second: float | None = None
    rig: str = DEFAULT_RIG
    long: bool = False
    """Those that take ten minutes each, too."""

    @property
    def rate(self) -> float:
        """How many orders a second."""
        usual = ON_A_CLUSTER_PER_SECOND if self.rig == CLUSTER else ORDERS_PER_SECOND
        return self.orders_per_second or usual

    @property
    def report_name(self) -> str:
        """Of the reports' files, without an ending."""
        return REPORT if self.rig == DEFAULT_RIG else f"{REPORT}-{self.rig}"

    def again(self, seed: int) -> str:
        """What says the same to `make drill`."""
        rig = "" if self.rig == DEFAULT_RIG else f" RIG={self.rig}"
        rate = "" if self.orders_per_second is None else f" RATE={self.orders_per_second:g}"
        return f"SEED={seed}{rig}{rate}"


def drill(
    state_dir: Path,
    console: Console,
    progress: Progress,
    environment: Mapping[str, str],
    options: Options | None = None,
) -> bool:
    """Run all drills, or some, on a system made for them in a folder of `state_dir`; answers whether none
    failed.

    Afterwards that system is deleted; where a drill failed it is only stopped, so that its logs and databases
    can be looked at. Raises RigError, also for a name that no drill or no rig has.
    """
    options = options or Options()
    chosen = chosen_drills(options.only, options.rig, long=options.long)
    if options.rig not in SYSTEMS:
        raise RigError(f"there is no rig {options.rig} (there are {', '.join(SYSTEMS)})")
    seed = secrets.randbelow(SEEDS) if options.seed is None else options.seed
    state_dir.mkdir(mode=0o711, exist_ok=True)
    system = SYSTEMS[options.rig](state_dir, progress, environment)
    report = Report(system.rig.name, seed, datetime.now(UTC).isoformat(timespec="seconds"))
    console.print(f"seed {seed}", style="bold")
    with alone(state_dir, progress), broken_on_purpose(system, report):
        harness = Harness(system.rig, seed, options.rate)
        if any(harness.why_skipped(each) is None for each in chosen):
            system.up()
        stem = (options.report_dir or state_dir) / options.report_name
        files = asyncio.run(run_all(harness, chosen, report, console, stem, options.again(seed)))
    style = "bold green" if report.passed else "bold red"
    console.print(f"{report.headline}, {report.seconds:.0f} s, seed {seed}", style=style)
    console.print(f"reports: {', '.join(map(str, files))}", soft_wrap=True)
    if not report.passed:
        console.print(f"logs and data of the broken system: {system.remains}", soft_wrap=True)
    return report.passed


def chosen_drills(only: Sequence[str], rig: str = DEFAULT_RIG, *, long: bool = False) -> list[Drill]:
    """The drills of these names, or all but the long ones; on a cluster, all that take one.

    Raises RigError for a name that no drill has.
    """
    if rig == CLUSTER and not only:
        return [*CLUSTER_DRILLS, *(LONG_DRILLS if long else ())]
    known = [known_drill.name for known_drill in DRILLS]
    if unknown := sorted(set(only) - set(known)):
        raise RigError(f"there is no drill {', '.join(unknown)} (there are {', '.join(known)})")
    if only:
        return [known_drill for known_drill in DRILLS if known_drill.name in only]
    return [known_drill for known_drill in DRILLS if long or known_drill not in LONG_DRILLS]


@contextmanager
def alone(state_dir: Path, progress: Progress) -> Iterator[None]:
    """Inside, no other drills run here: whoever comes second waits."""
    note = "other drills are running here: waiting until they are through"
    with exclusive(state_dir / LOCK_FILE, lambda: progress.note(note)):
        yield


@contextmanager
def broken_on_purpose(system: System, report: Report) -> Iterator[None]:
    """What an earlier run left of a system is deleted first. At the end nothing runs; what is left stays only
    where there is something to look at."""
    system.delete()
    worth_a_look = False
    try:
        yield
    except Exception:
        worth_a_look = True
        raise
    finally:
        with uninterrupted():
            if worth_a_look or not report.passed:
                system.stop()
            else:
                system.delete()


def delete_leftovers(state_dir: Path, progress: Progress, environment: Mapping[str, str]) -> None:
    """Everything that drills left in this folder, on whatever they ran. Raises RigError."""
    for make in SYSTEMS.values():
        system = make(state_dir, progress, environment)
        if system.left_something:
            system.delete()


async def run_all(
    harness: Harness, chosen: Sequence[Drill], report: Report, console: Console, stem: Path, again: str
) -> list[Path]:
    """One drill after the other. As each ends: a line, and the reports anew, for a run may be broken off.

    `stem` is the reports' path without an ending, `again` what is said to `make drill` to repeat one.
    """
    began = time.monotonic()
    for each in chosen:
        report.outcomes.append(outcome := await harness.run(each))
        report.seconds = time.monotonic() - began
        print_outcome(outcome, console, f"make drill NAME={each.name} {again}")
        write_reports(report, stem)
    return write_reports(report, stem)
