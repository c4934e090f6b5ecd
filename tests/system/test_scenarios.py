"""The demo's orders, end to end: each ends as the demo says, in every service and in the tracker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from compose.demo.play import Act, Audience, Played, Scenario, Stage, play_all, sabotage_of
from compose.demo.scenarios import SCENARIOS
from saga_tracker.consistency.snapshot import statuses_of
from tests.system.stage import System, new_run

# What the trail of a scenario must begin with.
WAYS = {
    "in_stock": "created stock_reserved captured shipment_scheduled confirmed",
    "published": "created stock_reserved captured shipment_scheduled confirmed",
    "out_of_stock": "created stock_rejected cancelled",
    "declined": "created stock_reserved declined stock_released cancelled",
    "not_served": "created stock_reserved captured shipment_rejected refunded stock_released cancelled",
    "answer_lost": "created stock_reserved captured shipment_scheduled confirmed",
    "cancelled_midway": "created stock_reserved withdrawn shipment_cancelled refunded stock_released",
    "approval": "created stock_reserved held approved captured shipment_scheduled confirmed",
    "manual": "created stock_reserved captured shipment_rejected refund_failed settled refunded "
    "stock_released cancelled",
    "late_fact": "created withdrawn shipment_cancelled refunded",
    "timed_out": "created stock_reserved redriven timed_out withdrawn shipment_cancelled",
    "poison": "created stock_reserved captured shipment_scheduled confirmed",
}

# What moved at the payment provider, where that is not the same for every order with the same end.
MOVEMENTS = {
    "cancelled_midway": ["authorised", "voided"],
    "late_fact": [],
    "manual": ["authorised", "captured"],
    "answer_lost": ["authorised", "captured"],
}


@dataclass
class Seen:
    """All that the audience was told of one scenario."""

    facts: list[Mapping[str, Any]] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)
    played: Played | None = None


class Witness(Audience):
    """Remembers what it was told, and that it was told one scenario at a time."""

    def __init__(self) -> None:
        self.seen_by_name: dict[str, Seen] = {}
        self._telling = Seen()

    def begins(self, scenario: Scenario, order_id: object) -> None:
        self._telling = self.seen_by_name[scenario.name] = Seen()

    def sees(self, fact: Mapping[str, Any]) -> None:
        self._telling.facts.append(fact)

    def watches(self, act: Act) -> None:
        self._telling.acts.append(act)

    def learns(self, what: str) -> None:
        self._telling.learned.append(what)

    def leaves(self, played: Played) -> None:
        self._telling.played = played


@pytest.fixture(scope="module")
async def seen_by_name(system: System) -> Mapping[str, Seen]:
    """The whole demo, played once: what takes long runs beside the rest."""
    witness = Witness()
    with sabotage_of(system.rig) as sabotage:
        await play_all(Stage(system.shop, sabotage), SCENARIOS, new_run(), witness)
    return witness.seen_by_name


def by_cause(facts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The facts as they stand, but none before what caused it: the broker may put a fact into the stream
    after it gave it to a queue, and the answer of who received it there may be in the stream before it."""
    left, ordered = list(facts), list[Mapping[str, Any]]()
    while left:
        ids = {fact["fact_id"] for fact in left}
        ordered.append(next(fact for fact in left if fact["causation_id"] not in ids))
        left.remove(ordered[-1])
    return ordered


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_it_goes_and_ends_as_the_demo_says(
    system: System, seen_by_name: Mapping[str, Seen], scenario: Scenario
) -> None:
    seen = seen_by_name[scenario.name]
    assert seen.played is not None
    assert (seen.played.state, seen.played.awaited) == (scenario.end, "")
    assert seen.acts == list(scenario.acts)
    order_id = seen.played.order_id
    saga = await system.shop.saga(order_id)
    assert saga is not None
    assert saga["waits"] == []
    assert {fact["fact_id"] for fact in saga["facts"]} == {fact["fact_id"] for fact in seen.facts}
    way = WAYS[scenario.name].split()
    assert [fact["name"].partition(".")[2] for fact in by_cause(saga["facts"])][: len(way)] == way
    books = await system.settle({order_id: scenario.end})
    assert statuses_of(books[order_id]) == scenario.statuses
    if scenario.name in MOVEMENTS:
        assert [movement.kind for movement in books[order_id].money.movements] == MOVEMENTS[scenario.name]


async def test_a_fact_that_comes_after_its_undo_is_ignored_by_the_fence(
    seen_by_name: Mapping[str, Seen],
) -> None:
    seen = seen_by_name["late_fact"]
    [answer] = seen.learned
    assert answer.endswith(": fenced")
    published = [fact["name"] for fact in seen.facts]
    assert published.index("payment.refunded") < published.index("inventory.stock_reserved")
    assert "payment.captured" not in published


async def test_a_poison_message_says_what_is_wrong_with_it(seen_by_name: Mapping[str, Seen]) -> None:
    [dead_letter] = seen_by_name["poison"].learned
    assert "fulfillment" in dead_letter
    assert "three_lines_a_dispatch" in dead_letter
