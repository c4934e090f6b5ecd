"""Plays scenarios: begins their orders and follows the sagas in the tracker until they have ended."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from compose.demo.stage import Act, Saga, Scenario, Stage, states
from compose.waiting import POLL_SECONDS

ENDED = ("COMPLETED", "CANCELLED")
REPORTED = ("notification.customer_notified", "notification.notification_failed")
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
    """Told a saga as it unfolds. This base takes no notice."""

    def begins(self, scenario: Scenario, order_id: UUID) -> None:
        """Its order was accepted."""

    def sees(self, fact: Fact) -> None:
        """One more fact of its trail became known."""

    def watches(self, act: Act) -> None:
        """Somebody outside is about to do something."""

    def outcomes(self, what: str) -> None:
        """What came of it."""

    def leaves(self, played: Played) -> None:
        """It is over, or took too long."""


class Recorder(Audience):
    """Remembers a scenario until somebody is free to be told of it; `reached` once it saw a fact `until`."""

    def __init__(self, until: str) -> None:
        self.reached = asyncio.Event()
        self._until = until
        self._reported: list[Callable[[Audience], None]] = []
        self._audience: Audience | None = None

    def hand_over(self, audience: Audience) -> None:
        """Tell all of it so far, and from now on tell at once."""
        self._audience = audience
        for tell in self._reported:
            tell(audience)

    def begins(self, scenario: Scenario, order_id: UUID) -> None:
        self._tell(lambda audience: audience.begins(scenario, order_id))

    def sees(self, fact: Fact) -> None:
        if fact["name"] == self._until:
            self.reached.set()
        self._tell(lambda audience: audience.sees(fact))

    def watches(self, act: Act) -> None:
        self._tell(lambda audience: audience.watches(act))

    def outcomes(self, what: str) -> None:
        self._tell(lambda audience: audience.outcomes(what))

    def leaves(self, played: Played) -> None:
        self._tell(lambda audience: audience.leaves(played))

    def _tell(self, tell: Callable[[Audience], None]) -> None:
        if self._audience is None:
            self._reported.append(tell)
        else:
            tell(self._audience)


async def play_all(stage: Stage, scenarios: Sequence[Scenario], run: str, audience: Audience) -> list[Played]:
    """One after the other; those with a head start run beside them, and are told when their turn comes."""
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
        audience.outcomes(what)


def is_over(saga: Saga) -> bool:
    """Whether an order has ended and its customer was told, which happens after a cancellation."""
    return saga["state"] in ENDED and any(states(saga, name) for name in REPORTED)


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
