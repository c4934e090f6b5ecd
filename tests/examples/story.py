"""Stops loyalty_svc while an order is confirmed, and prints how the tracker sees the order before and after.

`MURMURATION_STATE_DIR=... python tests/examples/story.py`, where the rig of that folder runs.
"""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from compose.demo.shop import Item, Shop, open_shop
from compose.local.rig import LocalRig

SERVICE = "loyalty"
SKU = "apple-of-the-story"
POLL_SECONDS = 0.1
# What all others have to say of a confirmed order.
DONE = {"fulfillment.shipment_dispatched", "notification.customer_notified", "inventory.stock_sold"}
WITHIN_SECONDS = 90.0

Saga = Mapping[str, Any]


async def saga_once(shop: Shop, order_id: UUID, has: Callable[[Saga], bool]) -> Saga:
    """The saga, as soon as it is as wanted. Raises TimeoutError."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            saga = await shop.saga(order_id)
            if saga is not None and has(saga):
                return saga
            await asyncio.sleep(POLL_SECONDS)


def names_of(saga: Saga) -> set[str]:
    return {fact["name"] for fact in saga["facts"]}


def standing(saga: Saga) -> dict[str, Any]:
    """Where it stands, and whom it waits for."""
    return {"state": saga["state"], "waits_for": [wait["service"] for wait in saga["waits"]]}


async def main(rig: LocalRig) -> None:
    async with open_shop(rig.addresses) as shop:
        await shop.stock(SKU, 10)
        rig.stop(SERVICE)
        order_id = await shop.place("cust_ada", "tok_ok", Item(SKU, 1, 500))
        without = await saga_once(
            shop, order_id, lambda saga: {fact["name"] for fact in saga["facts"]} >= DONE
        )
        rig.start(SERVICE)
        ended = await saga_once(shop, order_id, lambda saga: saga["state"] == "COMPLETED")
    facts = [fact["name"] for fact in ended["facts"]]
    print(json.dumps({"without it": standing(without), "with it": standing(ended), "facts": facts}))


if __name__ == "__main__":
    asyncio.run(main(LocalRig(Path(os.environ["MURMURATION_STATE_DIR"]))))
