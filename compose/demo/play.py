"""What a scenario is made of, what it may break, and how it is played.

A scenario begins an order, and its saga is followed in the tracker until it has ended. What the demo breaks
on purpose is mended whatever happens to the demo itself.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from compose.demo.shop import Shop
from compose.local.commands import RigError, uninterrupted
from compose.rig import Rig
from compose.waiting import POLL_SECONDS

SABOTAGE_TIMEOUT_SECONDS = 10
MAY_BE_FROZEN = ("inventory", "payment")
CONSTRAINED = "fulfillment"
WRONG_CONSTRAINT = "three_lines_a_dispatch"

_CONSTRAIN: LiteralString = (
    f"ALTER TABLE shipments ADD CONSTRAINT {WRONG_CONSTRAINT} "
    "CHECK (status <> 'dispatching' OR jsonb_array_length(lines) <= 3) NOT VALID"
)
_UNCONSTRAIN: LiteralString = f"ALTER TABLE shipments DROP CONSTRAINT IF EXISTS {WRONG_CONSTRAINT}"


class Sabotage:
    """Breaks a running system, as a machine or a colleague might. Methods raise RigError when they cannot."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    async def freeze(self, service: str) -> None:
        """Stop a service in its tracks (SIGSTOP): it keeps its connections and answers nothing."""
        assert service in MAY_BE_FROZEN, f"nobody would thaw {service}"
        await asyncio.to_thread(self._rig.pause, service)

    async def thaw(self, service: str) -> None:
        """Let a frozen service go on."""
        await asyncio.to_thread(self._rig.resume, service)

    async def constrain_dispatches(self) -> None:
        """Add the mistake of a migration: fulfilment's database refuses to dispatch more than three lines."""
        await asyncio.to_thread(self._execute, _UNCONSTRAIN, _CONSTRAIN)

    async def deploy_the_fix(self) -> None:
        """Take that constraint away."""
        await asyncio.to_thread(self._execute, _UNCONSTRAIN)

    def mend(self) -> None:
        """Put everything back, broken or not."""
        for service in MAY_BE_FROZEN:
            with suppress(RigError):  # it does not run, so it is not frozen
                self._rig.resume(service)
        self._execute(_UNCONSTRAIN)

    def _execute(self, *statements: LiteralString) -> None:
        url = self._rig.addresses.database_url(CONSTRAINED)
        patience = f"-c lock_timeout={SABOTAGE_TIMEOUT_SECONDS}s"
        try:
            with psycopg.connect(
                url, connect_timeout=SABOTAGE_TIMEOUT_SECONDS, options=patience
            ) as connection:
                for statement in statements:
                    connection.execute(statement)
        except psycopg.Error as error:
            raise RigError(f"cannot change the database of {CONSTRAINED}: {str(error).strip()}") from error


@contextmanager
def sabotage_of(rig: Rig) -> Iterator[Sabotage]:
    """Whatever is broken inside is mended at the end, also after Ctrl-C; and at the beginning, in case an
    earlier demo was killed."""
    sabotage = Sabotage(rig)
    sabotage.mend()
    try:
        yield sabotage
    finally:
        with uninterrupted():
            sabotage.mend()


Saga = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """The running system: used through its front doors, and broken behind its back."""

    shop: Shop
    sabotage: Sabotage


Cue = Callable[[Stage, Saga], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Act:
    """Something that somebody outside does to an order, on a cue. `do` returns a line to show about it."""

    cue: Cue
    announced_as: str
    do: Callable[[Stage, UUID], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One order. `statuses` is each service's own word for its end, `none` where it did not know of it;
    `fault` is what goes wrong, in two words."""

    name: str
    title: str
    fault: str
    point: str
    end: str
    statuses: Mapping[str, str]
    begin: Callable[[Stage, str], Awaitable[UUID]]
    """Places the order; is given what makes SKUs unique to this run."""
    acts: tuple[Act, ...] = ()
    """One after the other."""
    head_start: str | None = None
    """It takes long, so it begins before all others, and they begin once this fact of it was published."""
    freezes: bool = False
    """Whether a service is frozen by itself, for which it has to be a process of its own."""


def states(saga: Saga, name: str) -> bool:
    """Whether a fact of this name is part of a saga's timeline."""
    return any(fact["name"] == name for fact in saga["facts"])


def once(name: str) -> Cue:
    """The cue of a fact that was published."""

    async def published(_stage: Stage, saga: Saga) -> bool:
        return states(saga, name)

    return published


def given_up_after(name: str) -> Cue:
    """The cue of a dead letter of an order of which a fact was published."""

    async def given_up(stage: Stage, saga: Saga) -> bool:
        return states(saga, name) and bool(await stage.shop.dead_letters(UUID(saga["order_id"])))

    return given_up


ENDED = ("COMPLETED", "CANCELLED")
NOTIFIED = ("notification.customer_notified", "notification.notification_failed")
# Longer than the two minutes by which a service that is down is not late, where nobody shortened them.
TIMEOUT_SECONDS = 200.0
# A saga that takes longer than most is asked for less often.
SOON_SECONDS = 3.0
LATER_POLL_SECONDS = 0.25

Fact = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Played:
    """How a scenario went, by the tracker. `seconds` from its beginning to its end; None if it has none."""

    scenario: Scenario
    order_id: UUID
    state: str
    seconds: float | None
    awaited: str = ""


class Audience:
    """Follows a saga as it unfolds. This base takes no notice."""

    def begins(self, scenario: Scenario, order_id: UUID) -> None:
        """Its order was accepted."""

    def sees(self, fact: Fact) -> None:
        """One more fact of its timeline became known."""

    def watches(self, act: Act) -> None:
        """Somebody outside is about to do something."""

    def learns(self, what: str) -> None:
        """What came of it."""

    def leaves(self, played: Played) -> None:
        """It is over, or took too long."""


class Recorder(Audience):
    """Remembers a scenario until somebody is free to look at it; `reached` once it saw a fact `until`."""

    def __init__(self, until: str) -> None:
        self.reached = asyncio.Event()
        self._until = until
        self._so_far: list[Callable[[Audience], None]] = []
        self._audience: Audience | None = None

    def hand_over(self, audience: Audience) -> None:
        """Tell all of it so far, and from now on tell at once."""
        self._audience = audience
        for tell in self._so_far:
            tell(audience)

    def begins(self, scenario: Scenario, order_id: UUID) -> None:
        self._tell(lambda audience: audience.begins(scenario, order_id))

    def sees(self, fact: Fact) -> None:
        if fact["name"] == self._until:
            self.reached.set()
        self._tell(lambda audience: audience.sees(fact))

    def watches(self, act: Act) -> None:
        self._tell(lambda audience: audience.watches(act))

    def learns(self, what: str) -> None:
        self._tell(lambda audience: audience.learns(what))

    def leaves(self, played: Played) -> None:
        self._tell(lambda audience: audience.leaves(played))

    def _tell(self, tell: Callable[[Audience], None]) -> None:
        if self._audience is None:
            self._so_far.append(tell)
        else:
            tell(self._audience)


async def play_all(stage: Stage, scenarios: Sequence[Scenario], run: str, audience: Audience) -> list[Played]:
    """One after the other; those with a head start run beside them, and are shown when their turn comes."""
    ahead: dict[str, tuple[Recorder, asyncio.Task[Played]]] = {}
    played = []
    try:
        for scenario in scenarios:
            if scenario.head_start is not None:
                recorder = Recorder(until=scenario.head_start)
                task = asyncio.create_task(play(stage, scenario, run, recorder))
                ahead[scenario.name] = recorder, task
                await _reached_or_over(recorder, task)
        for scenario in scenarios:
            if scenario.name in ahead:
                recorder, task = ahead[scenario.name]
                recorder.hand_over(audience)
                played.append(await task)
            else:
                played.append(await play(stage, scenario, run, audience))
    finally:
        for _, task in ahead.values():
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
    return played


async def _reached_or_over(recorder: Recorder, task: asyncio.Task[Played]) -> None:
    reached = asyncio.create_task(recorder.reached.wait())
    await asyncio.wait((reached, task), return_when=asyncio.FIRST_COMPLETED)
    reached.cancel()


async def play(
    stage: Stage, scenario: Scenario, run: str, audience: Audience, timeout_seconds: float = TIMEOUT_SECONDS
) -> Played:
    """Play one scenario before an audience. `run` makes its SKUs unique."""
    began = time.monotonic()
    order_id = await scenario.begin(stage, run)
    audience.begins(scenario, order_id)
    acts, shown = list(scenario.acts), set[str]()
    while True:
        saga = await stage.shop.saga(order_id)
        for fact in saga["facts"] if saga else ():
            if fact["fact_id"] not in shown:
                shown.add(fact["fact_id"])
                audience.sees(fact)
        if acts and saga and await acts[0].cue(stage, saga):
            await _perform(stage, acts.pop(0), order_id, audience)
            continue
        elapsed = time.monotonic() - began
        if (saga and is_over(saga) and not acts) or elapsed > timeout_seconds:
            break
        await asyncio.sleep(POLL_SECONDS if elapsed < SOON_SECONDS else LATER_POLL_SECONDS)
    played = _played(scenario, order_id, saga)
    audience.leaves(played)
    return played


async def _perform(stage: Stage, act: Act, order_id: UUID, audience: Audience) -> None:
    audience.watches(act)
    if (what := await act.do(stage, order_id)) is not None:
        audience.learns(what)


def is_over(saga: Saga) -> bool:
    """Whether an order has ended and its customer was notified, which happens after a cancellation."""
    return saga["state"] in ENDED and any(states(saga, name) for name in NOTIFIED)


def awaited(saga: Saga) -> str:
    """What a saga waits for, as a sentence."""
    waits = [f"{wait['service']} to state {' or '.join(wait['facts'])}" for wait in saga["waits"]]
    return f"It waits for {', and for '.join(waits)}." if waits else "It waits for nothing."


def _played(scenario: Scenario, order_id: UUID, saga: Saga | None) -> Played:
    if saga is None:
        return Played(scenario, order_id, "UNKNOWN", None, "The tracker has read nothing of it.")
    if not is_over(saga):
        return Played(scenario, order_id, saga["state"], None, awaited(saga))
    return Played(scenario, order_id, saga["state"], saga["duration_seconds"])
