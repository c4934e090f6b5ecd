"""Runs a drill: a steady load, the strike, the wait for every saga's end, and the judgement."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

import aiohttp
import psycopg
from aio_pika.exceptions import AMQPError

from compose.check import Findings, ask_tracker, examine
from compose.demo.shop import Refused, Shop, open_shop
from compose.drills import judge
from compose.drills.judge import recovery_checks, recovery_of, why_not_ended
from compose.drills.load import Load, NotAccepted
from compose.drills.outcome import Check, Outcome, Timeline, sampling
from compose.drills.rig import DrillRig
from compose.drills.stage import Drill, Stage
from compose.local.commands import RigError
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
            async with self.rig.ready_for(drill.deeds), open_shop(self.rig.where) as shop:
                outcome = await self._run(drill, shop)
        except RigError as error:
            outcome.breaks_off(_sentence(error))
        outcome.seconds = time.monotonic() - began
        return outcome

    async def _run(self, drill: Drill, shop: Shop) -> Outcome:
        random = Random(f"{self.seed}:{drill.name}")  # noqa: S311 - to be repeated, not to be secret
        run_name = f"{drill.name}-{self.seed}"
        load = Load(shop, random, run_name, drill.orders_per_second or self.orders_per_second)
        # Generators of their own: what the one draws does not depend on how often the other did.
        strikes = Random(f"{run_name}:strike")  # noqa: S311
        stage = Stage(self.rig, shop, load, strikes, Timeline(), run_name)
        outcome = Outcome(drill.name, drill.title, timeline=stage.timeline, target=drill.target)
        await self._break(drill, stage, outcome)
        outcome.accepted = len(load.accepted_as)
        await self._judge(drill, stage, outcome)
        return outcome

    async def _break(self, drill: Drill, stage: Stage, outcome: Outcome) -> None:
        """Load, strike, heal, and wait until every order ended."""
        try:
            async with sampling(stage.timeline, self.rig.where, lambda: len(stage.load.accepted_as)):
                async with asyncio.timeout(drill.limit_seconds + LEAD_SECONDS + TAIL_SECONDS):
                    await self._under_load(drill, stage)
                async with asyncio.timeout(self.limit_seconds):
                    # By a sample later than the last acceptance.
                    await stage.timeline.in_flight_at_most(0)
        except* TimeoutError:
            outcome.breaks_off(why_not_ended(stage.timeline, self.limit_seconds, OF_LATE_SECONDS))
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
