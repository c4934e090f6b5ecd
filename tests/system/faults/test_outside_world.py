"""A provider that is down, slow, or charges and loses the answer; and one that never gives money back."""

import asyncio
from typing import Any

import pytest

from compose.demo.shop import Item, Refused
from compose.drills.stage import misbehaving
from saga_tracker.consistency.snapshot import statuses_of
from tests.system.faults.verbs import under_load
from tests.system.stage import System, until

ORDERS = 60
LOAD_SECONDS = 1.5
FAULT_SECONDS = 3.0

FAULTS: dict[str, dict[str, float]] = {
    "down": {"fail_rate": 1},
    "slow, and charges and loses the answer": {"latency_seconds": 1, "lose_answer_rate": 0.5},
}


@pytest.mark.parametrize("rule", FAULTS.values(), ids=FAULTS.keys())
async def test_the_provider(system: System, rule: dict[str, float]) -> None:
    """However it ends: what is not charged is not delivered, and nothing is charged twice."""
    async with (
        misbehaving(system.where, "provider", **rule),
        under_load(system, ORDERS, LOAD_SECONDS) as burst,
    ):
        await asyncio.sleep(FAULT_SECONDS)
    await burst.landed()


async def test_a_refund_that_fails_for_good(system: System) -> None:
    """It is a case for a person, with its reason, and ends when the person has settled it."""
    item = Item(await system.new_sku(1), 1, 500)
    order_id = await system.shop.place("cust_refused", "tok_undo_refused", item)

    async def dead_letters() -> list[dict[str, Any]]:
        return await system.shop.dead_letters(order_id)

    [dead_letter] = await until(dead_letters)
    assert (dead_letter["service"], dead_letter["kind"]) == ("payment", "case")
    assert "issue_credit_note" in dead_letter["reason"]
    books = await system.settle({order_id: "NEEDS_MANUAL"})
    assert statuses_of(books[order_id])["payment"] == "refund_failed"
    saga = await system.shop.saga(order_id)
    assert saga is not None
    assert "issue_credit_note" in saga["reason"]

    await system.shop.settle(order_id, "paid back by bank transfer")
    books = await system.settle({order_id: "CANCELLED"})
    assert statuses_of(books[order_id])["payment"] == "refunded"
    assert [movement.kind for movement in books[order_id].money.movements] == ["authorised", "captured"]
    with pytest.raises(Refused, match="409"):
        await system.shop.settle(order_id, "and once more")

    async def resolved() -> bool:
        return not await dead_letters()

    await until(resolved)
