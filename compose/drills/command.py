"""Runs drills on a system of their own, prints a line for each, and writes the reports.

For each drill: a steady load, the strike, the wait for every saga's end, and the judgement.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from uuid import UUID

import aiohttp
import psycopg
from aio_pika.exceptions import AMQPError
from rich.console import Console

from compose.check import Findings, ask_tracker, examine
from compose.demo.shop import Refused, Shop, open_shop
from compose.drills import judge
from compose.drills.catalogue import CLUSTER_DRILLS, DRILLS, LONG_DRILLS
from compose.drills.container_rig import ClusterSystem, ContainerSystem
from compose.drills.judge import recovery_checks, recovery_of, why_not_ended
from compose.drills.load import Load, NotAccepted
from compose.drills.local_rig import LocalSystem
from compose.drills.outcome import Check, Outcome, Report, Timeline, sampling
from compose.drills.report import print_outcome, write_reports
from compose.drills.rig import DrillRig, System
from compose.drills.stage import Drill, Stage
from compose.local.commands import Progress, RigError, uninterrupted
from compose.local.state import exclusive
from compose.snapshot import Reader, sources_of
from compose.waiting import seen_in_time
from saga_tracker.consistency.snapshot import Books, books_by_order

# The load alone before the strike, and after the last of it is healed.
LEAD_SECONDS = 2.0
TAIL_SECONDS = 2.0
# From the last of it to the last order's end. Longer than it may take, to tell late from lost.
LIMIT_SECONDS = 120.0
PATIENCE_SECONDS = 12.0
POLL_SECONDS = 0.5
# Whether orders still ended in the end, where the limit was not enough.
OF_LATE_SECONDS = 15.0

# What a strike may meet with when the system is not as it should be. Anything else is a mistake of the drill.
BROKE_OFF = (
    RigError,
    Refused,
    NotAccepted,
    OSError,
    psycopg.Error,
    AMQPError,
    aiohttp.ClientError,
    RuntimeError,
    AssertionError,
)


@dataclass(slots=True)
class Harness:
    """Runs drills one after the other on one rig, which is up. The same seed repeats a run."""

    rig: DrillRig
    seed: int
    orders_per_second: float
    limit_seconds: float = LIMIT_SECONDS
    patience_seconds: float = PATIENCE_SECONDS
    _known: judge.Known = field(default_factory=set)
    _listed: int = 0

    def why_skipped(self, drill: Drill) -> str | None:
        """The deed of a drill that this rig cannot do, and why; None when it can do them all."""
        if drill.settings and (reason := self.rig.why_not_set(drill.settings)) is not None:
            return f"cannot set {', '.join(drill.settings)} otherwise: {reason}"
        reasons = ((deed, self.rig.why_not(deed)) for deed in drill.deeds)
        return next((f"cannot {deed}: {reason}" for deed, reason in reasons if reason is not None), None)

    async def run(self, drill: Drill) -> Outcome:
        """One drill, from the first order to the verdict. Leaves everything running, if it can be."""
        if (reason := self.why_skipped(drill)) is not None:
            return Outcome(drill.name, drill.title, skipped_because=reason)
        began = time.monotonic()
        outcome = Outcome(drill.name, drill.title)
        try:
            # What an earlier drill left dead is none of this one's business.
            await self.rig.start_all()
            async with self.rig.ready_for(drill.deeds, drill.settings), open_shop(self.rig.where) as shop:
                outcome = await self._run(drill, shop)
        except RigError as error:
            outcome.breaks_off(_sentence(error))
        outcome.seconds = time.monotonic() - began
        return outcome

    async def _run(self, drill: Drill, shop: Shop) -> Outcome:
        random = Random(f"{self.seed}:{drill.name}")  # noqa: S311 - to be repeated, not to be secret
        run_name = f"{drill.name}-{self.seed}"
        per_second = drill.orders_per_second or self.orders_per_second
        load = Load(shop, random, run_name, per_second, kinds=drill.kinds)
        # Generators of their own: what the one draws does not depend on how often the other did.
        strikes = Random(f"{run_name}:strike")  # noqa: S311
        stage = Stage(self.rig, shop, load, strikes, Timeline(), run_name)
        outcome = Outcome(
            drill.name, drill.title, timeline=stage.timeline, notes=stage.notes, target=drill.target
        )
        await self._break(drill, stage, outcome)
        outcome.accepted = len(load.accepted_as)
        await self._judge(drill, stage, outcome)
        return outcome

    async def _break(self, drill: Drill, stage: Stage, outcome: Outcome) -> None:
        """Load, strike, heal, and wait until every order ended."""
        limit_seconds = max(self.limit_seconds, drill.target.ended_within_seconds)
        try:
            async with sampling(stage.timeline, self.rig.where, lambda: len(stage.load.accepted_as)):
                async with asyncio.timeout(drill.limit_seconds + LEAD_SECONDS + TAIL_SECONDS):
                    await self._under_load(drill, stage)
                async with asyncio.timeout(limit_seconds):
                    # By a sample later than the last acceptance.
                    await stage.timeline.in_flight_at_most(0)
                    await drill.rested(stage)
        except* TimeoutError:
            outcome.breaks_off(why_not_ended(stage.timeline, limit_seconds, OF_LATE_SECONDS))
        except* BROKE_OFF as errors:
            for error in _leaves(errors):
                outcome.breaks_off(_sentence(error))

    async def _under_load(self, drill: Drill, stage: Stage) -> None:
        """Strike while orders come in; returns when everything is healed and the last of them accepted."""
        await stage.load.stock()
        async with asyncio.TaskGroup() as group:
            group.create_task(stage.load.run())
            await asyncio.sleep(LEAD_SECONDS)
            await drill.strike(stage)
            await asyncio.sleep(TAIL_SECONDS)
            stage.load.stop()

    async def _judge(self, drill: Drill, stage: Stage, outcome: Outcome) -> None:
        """Ask everything that must be true."""
        try:
            outcome.services = conditions = await self._conditions()
            async with Reader(sources_of(self.rig.where)) as reader:
                findings = await examine(reader, self.patience_seconds)
            books = books_by_order(findings.snapshot)
            ours = {order_id: books.get(order_id, Books()) for order_id in stage.load.accepted_as}
            outcome.ends = Counter(book.verdict for book in ours.values())
            outcome.services = judge.end_states(conditions, findings.snapshot, ours)
            outcome.recovery = recovery_of(stage.load, ours, stage.timeline, OF_LATE_SECONDS)
            outcome.checks = (
                *recovery_checks(outcome.recovery, drill.target),
                *await self._checks(drill, stage, findings, books, conditions),
            )
        except BROKE_OFF as error:
            outcome.breaks_off(f"it cannot be judged: {_sentence(error)}")

    async def _conditions(self) -> Mapping[str, str]:
        """How everything is, once it is well or the patience is over: orders may end before all reconnect."""
        return await seen_in_time(
            self.rig.conditions,
            lambda conditions: set(conditions.values()) == {judge.READY},
            self.patience_seconds,
            poll_seconds=POLL_SECONDS,
        )

    async def _checks(
        self,
        drill: Drill,
        stage: Stage,
        findings: Findings,
        books: Mapping[UUID, Books],
        conditions: Mapping[str, str],
    ) -> tuple[Check, ...]:
        accepted, where = stage.load.accepted_as, self.rig.where
        agreement = await ask_tracker(where, self.patience_seconds)
        listed_before, self._listed = self._listed, agreement.listed
        return (
            *judge.client_checks(accepted, books),
            *judge.invariant_checks(findings, self._known),
            judge.agreement_check(agreement, listed_before),
            await judge.given_up_check(where, list(accepted)),
            judge.rest_check(findings, books),
            judge.condition_check(conditions),
            Check(judge.DRILLS_OWN, tuple(await drill.verify(stage, books))),
        )


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


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

    `stem` is the reports' path without an ending, `again` the arguments of `make drill` that repeat one.
    """
    began = time.monotonic()
    for each in chosen:
        report.outcomes.append(outcome := await harness.run(each))
        report.seconds = time.monotonic() - began
        print_outcome(outcome, console, f"make drill NAME={each.name} {again}")
        write_reports(report, stem)
    return write_reports(report, stem)
