"""A manual case shows what the provider or carrier says of it at the moment, not what was read of it once."""

from functools import partial
from uuid import UUID

import pytest
from aiohttp import ClientSession

from compose.demo.shop import Item
from tests.system.stage import System, until


async def _page(system: System, path: str) -> str:
    async with ClientSession(system.where.http("tracker")) as browser:
        answer = await browser.get(path, headers={"Accept": "text/html"})
        assert answer.status == 200
        return await answer.text()


async def shows(system: System, path: str, *words: str) -> bool:
    """Whether a page has all of these words."""
    page = await _page(system, path)
    return all(each in page for each in words)


async def needs_a_person(system: System, order_id: UUID) -> bool:
    """Whether its saga is a manual case."""
    saga = await system.shop.saga(order_id)
    return saga is not None and saga["state"] == "NEEDS_MANUAL"


@pytest.mark.usefixtures("own_servers")
async def test_the_queue_and_the_saga_say_what_the_provider_says_now(system: System) -> None:
    item = Item(await system.new_sku(1), 1, 4_000)
    order_id = await system.shop.place("cust_refused", "tok_undo_refused", item)

    await until(partial(needs_a_person, system, order_id))
    shown = "issue credit note: undo refused, credit_note_refused, says provider"
    ledger = "provider&#39;s ledger: authorised 40.00 EUR, captured 40.00 EUR"
    for path in ("/ui/manual", f"/ui/sagas/{order_id}"):
        refund = "refund: undo refused, refund_refused, says provider"
        await until(partial(shows, system, path, refund, shown, ledger), f"{path} says it")
    # Now it cannot be asked: that is what is said now.
    await system.kill("sandbox")
    try:
        unreachable = "issue credit note: provider cannot be reached"
        await until(partial(shows, system, "/ui/manual", unreachable, ledger))
    finally:
        await system.start("sandbox")
    await system.shop.settle(order_id, "paid by transfer")
    await system.settle({order_id: "CANCELLED"})
