"""The running tracker against the running services: what was changed behind a service's back is noticed."""

import asyncio
from io import StringIO
from typing import Any
from uuid import UUID

from rich.console import Console

from compose.check import ask_tracker, check, print_agreement
from compose.demo.shop import Item
from tests.system.stage import System, until

PATIENCE_SECONDS = 30.0
CHANGE = "UPDATE shipments SET status = %s WHERE order_id = %s"


async def listed(system: System, order_id: UUID) -> list[dict[str, Any]]:
    found = await system.shop.ask("tracker", "GET", "/reconciliation?service=fulfillment&limit=500")
    return [each for each in found["differences"] if each["order_id"] == str(order_id)]


async def test_a_row_changed_behind_a_services_back_is_listed_until_it_is_put_right(system: System) -> None:
    sku = await system.new_sku(1)
    order_id = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 100))
    await system.settle({order_id: "COMPLETED"})

    async def compared() -> bool:
        waiting = "SELECT FROM comparisons WHERE order_id = %s"
        return not await system.execute("tracker", waiting, [order_id])

    await until(compared, "what ended is compared by itself")
    await system.execute("fulfillment", CHANGE, ["scheduled", order_id])
    try:
        agreement = await ask_tracker(system.rig.addresses, PATIENCE_SECONDS)
        [difference] = await listed(system, order_id)
        output = StringIO()
        good = await asyncio.to_thread(check, system.rig, Console(file=output, width=200), 0)
    finally:
        await system.execute("fulfillment", CHANGE, ["dispatched", order_id])
    assert agreement.listed == 1
    assert (difference["expected"], difference["found"]) == ("dispatched", "scheduled")
    sentence = f"order {order_id}: fulfillment status: dispatched was expected, scheduled was found"
    assert sentence in agreement.examples
    assert not good
    assert sentence in output.getvalue()

    # The periodic job finds that, too.
    async def gone() -> bool:
        return not await listed(system, order_id)

    await until(gone, "it is no longer listed", within_seconds=60)


async def test_everybody_agrees_about_every_order_and_is_asked(system: System) -> None:
    """Whatever the tests before did to the system."""
    await system.settle()
    agreement = await ask_tracker(system.rig.addresses, PATIENCE_SECONDS)
    output = StringIO()
    print_agreement(agreement, Console(file=output, width=200))
    assert (agreement.listed, list(agreement.reservations)) == (0, []), output.getvalue()
    assert output.getvalue().startswith("  ok ")
