"""The whole system with EasyPost's door in place of the sandbox's own carrier, through EasyPost's package."""

from collections.abc import Iterator
from functools import partial

import pytest

from compose.demo.shop import Item
from compose.local.rig import LocalRig
from tests.system.conftest import rig_of_its_own
from tests.system.stage import System, until
from tests.system.test_manual_cases import needs_a_person, shows

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def rig() -> Iterator[LocalRig]:
    """A system of its own: the carrier is chosen for all orders."""
    with rig_of_its_own({"MURMURATION_CARRIER": "easypost"}) as rig:
        yield rig


async def test_orders_end_as_they_do_with_any_carrier(system: System) -> None:
    item = Item(await system.new_sku(3), 1, 4_000)
    ends = {
        await system.shop.place("cust_ada", "tok_ok", item): "COMPLETED",
        await system.shop.place("cust_scan_form_late", "tok_ok", item): "COMPLETED",
        await system.shop.place("cust_undeliverable", "tok_ok", item): "CANCELLED",
    }
    books = await system.settle(ends)
    assert [books[order_id].parcel for order_id in ends] == ["dispatched", "dispatched", "none"]


async def test_the_queue_and_the_saga_say_what_the_carrier_says_now(system: System) -> None:
    item = Item(await system.new_sku(1), 1, 4_000)
    order_id = await system.shop.place("cust_scan_form_failed", "tok_ok", item)
    await until(partial(needs_a_person, system, order_id))
    for path in ("/ui/manual", f"/ui/sagas/{order_id}"):
        await until(partial(shows, system, path, "dispatch shipment: dispatch refused", "says easypost"))
    await system.kill("sandbox")
    try:
        await until(partial(shows, system, "/ui/manual", "dispatch shipment: easypost cannot be reached"))
    finally:
        await system.start("sandbox")
    await system.shop.settle(order_id, "handed to the driver")
    await system.settle({order_id: "COMPLETED"})
