"""The demo's orders, end to end: each ends as the demo says, in every service and in the tracker."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from compose.books import statuses_of
from compose.demo.play import Audience, play
from compose.demo.scenarios import SCENARIOS, Scenario
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
}


class Witness(Audience):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.order_ids: list[UUID] = []
        self.facts: list[Mapping[str, Any]] = []

    def begins(self, scenario: Scenario, order_id: UUID) -> None:
        self.order_ids.append(order_id)

    def sees(self, fact: Mapping[str, Any]) -> None:
        self.facts.append(fact)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_it_goes_and_ends_as_the_demo_says(system: System, scenario: Scenario) -> None:
    witness = Witness()
    played = await play(system.shop, scenario, new_run(), witness)
    assert (played.state, played.awaited) == (scenario.end, "")
    assert witness.order_ids == [played.order_id]
    saga = await system.shop.saga(played.order_id)
    assert saga is not None
    assert saga["waits"] == []
    assert {fact["fact_id"] for fact in saga["facts"]} == {fact["fact_id"] for fact in witness.facts}
    way = WAYS[scenario.name].split()
    assert [fact["name"].partition(".")[2] for fact in saga["facts"]][: len(way)] == way
    books = await system.settle({played.order_id: scenario.end})
    assert statuses_of(books[played.order_id]) == scenario.statuses


async def test_the_whole_chain_of_a_withdrawn_order_is_undone_at_the_provider(system: System) -> None:
    [scenario] = [scenario for scenario in SCENARIOS if scenario.name == "cancelled_midway"]
    played = await play(system.shop, scenario, new_run(), Audience())
    books = await system.settle({played.order_id: "CANCELLED"})
    assert [entry.kind for entry in books[played.order_id].ledger] == ["authorised", "voided"]
