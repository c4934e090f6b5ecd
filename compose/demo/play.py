"""Plays a scenario: begins its order and follows the saga in the tracker until it has ended."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from compose.demo.scenarios import Act, Scenario
from compose.demo.shop import POLL_SECONDS, Shop

ENDED = ("COMPLETED", "CANCELLED")
TOLD = ("notification.customer_notified", "notification.notification_failed")
TIMEOUT_SECONDS = 30.0

Saga = Mapping[str, Any]
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

    def leaves(self, played: Played) -> None:
        """It is over, or took too long."""


async def play(
    shop: Shop, scenario: Scenario, run: str, audience: Audience, timeout_seconds: float = TIMEOUT_SECONDS
) -> Played:
    """Play one scenario before an audience. `run` makes its SKUs unique."""
    deadline = time.monotonic() + timeout_seconds
    order_id = await scenario.begin(shop, run)
    audience.begins(scenario, order_id)
    act, shown = scenario.act, set[str]()
    while True:
        saga = await shop.saga(order_id)
        for fact in saga["facts"] if saga else ():
            if fact["fact_id"] not in shown:
                shown.add(fact["fact_id"])
                audience.sees(fact)
        if act and saga and _states(saga, act.after):
            audience.watches(act)
            await act.do(shop, order_id)
            act = None
        if (saga and is_over(saga)) or time.monotonic() > deadline:
            break
        await asyncio.sleep(POLL_SECONDS)
    played = _played(scenario, order_id, saga)
    audience.leaves(played)
    return played


def is_over(saga: Saga) -> bool:
    """Whether an order has ended and its customer was told, which happens after a cancellation."""
    return saga["state"] in ENDED and any(fact["name"] in TOLD for fact in saga["facts"])


def awaited(saga: Saga) -> str:
    """What a saga waits for, as a sentence."""
    waits = [f"{wait['service']} to state {' or '.join(wait['facts'])}" for wait in saga["waits"]]
    return f"It waits for {', and for '.join(waits)}." if waits else "It waits for nothing."


def _states(saga: Saga, name: str) -> bool:
    return any(fact["name"] == name for fact in saga["facts"])


def _played(scenario: Scenario, order_id: UUID, saga: Saga | None) -> Played:
    if saga is None:
        return Played(scenario, order_id, "UNKNOWN", None, "The tracker has read nothing of it.")
    if not is_over(saga):
        return Played(scenario, order_id, saga["state"], None, awaited(saga))
    return Played(scenario, order_id, saga["state"], saga["duration_seconds"])
