"""Whatever breaks, every accepted order ends as it would have, and every invariant holds."""

import asyncio
from functools import partial
from uuid import UUID

import pytest

from compose.demo.shop import Item, Refused
from tests.system.burst import new_burst
from tests.system.stage import SERVICES, System, until

BURST = 60
BURST_SECONDS = 1.5
OUTAGE_SECONDS = 3.0


@pytest.mark.parametrize("name", [*SERVICES, "tracker"])
async def test_a_process_killed_in_a_burst(system: System, name: str) -> None:
    burst = await new_burst(system, BURST, BURST_SECONDS)
    async with asyncio.TaskGroup() as group:
        group.create_task(burst.run())
        await burst.accepted(BURST // 3)
        await system.kill(name)
        await system.start(name)
    await system.settle(burst.ends)


async def test_the_outside_world_killed_in_a_burst(system: System) -> None:
    """Its ledger survives. How orders end is up to how long it was away; that they do, is not."""
    burst = await new_burst(system, BURST, BURST_SECONDS)
    async with asyncio.TaskGroup() as group:
        group.create_task(burst.run())
        await burst.accepted(BURST // 3)
        await system.kill("sandbox")
        await system.start("sandbox")
    books = await system.settle()
    assert {books[order_id].verdict for order_id in burst.ends} <= {"COMPLETED", "CANCELLED", "NEEDS_MANUAL"}


async def test_two_instances_side_by_side_one_killed(system: System) -> None:
    """What the killed one leaves behind, the other takes over."""
    burst = await new_burst(system, 2 * BURST, 2 * BURST_SECONDS)
    for name in ("inventory", "payment"):
        await system.start(name, instance=2)
    async with asyncio.TaskGroup() as group:
        group.create_task(burst.run())
        await burst.accepted(BURST)
        await system.kill("payment", instance=2)
    await system.settle(burst.ends)
    await system.stop("inventory", instance=2)
    await system.stop("payment", instance=2)
    await system.settle(burst.ends)


@pytest.mark.usefixtures("own_servers")
async def test_the_broker_stopped_under_load(system: System) -> None:
    """Orders are accepted all the while, nobody says that it is ready, and everything goes on afterwards."""
    burst = await new_burst(system, BURST, OUTAGE_SECONDS)
    async with asyncio.TaskGroup() as group:
        group.create_task(burst.run())
        await burst.accepted(BURST // 3)
        await system.stop("rabbitmq")
        await asyncio.gather(*(until(partial(_unready, system, name), name) for name in SERVICES))
        during = await _accepted_now(system)
        await burst.accepted(BURST)
        await system.start("rabbitmq")
    await system.settle({**burst.ends, during: "COMPLETED"})
    await asyncio.gather(*(until(partial(_ready, system, name), name) for name in SERVICES))


@pytest.mark.usefixtures("own_servers")
async def test_the_broker_killed_under_load(system: System) -> None:
    burst = await new_burst(system, BURST, BURST_SECONDS)
    async with asyncio.TaskGroup() as group:
        group.create_task(burst.run())
        await burst.accepted(BURST // 3)
        await system.kill("rabbitmq")
        await system.start("rabbitmq")
    await system.settle(burst.ends)


@pytest.mark.usefixtures("own_servers")
async def test_postgres_stopped_under_load(system: System) -> None:
    """Nothing is accepted meanwhile, and a client that tries again under its key loses nothing."""
    burst = await new_burst(system, BURST, BURST_SECONDS)
    async with asyncio.TaskGroup() as group:
        group.create_task(burst.run())
        await burst.accepted(BURST // 3)
        await system.stop("postgres")
        assert all(await asyncio.gather(*(_unready(system, name) for name in SERVICES)))
        with pytest.raises(Refused, match="503"):
            await system.shop.place("cust_burst", "tok_ok", Item("any", 1, 100))
        await system.start("postgres")
    await system.settle(burst.ends)


async def _accepted_now(system: System) -> UUID:
    sku = await system.new_sku(1)
    return await system.shop.place("cust_burst", "tok_ok", Item(sku, 1, 100))


async def _ready(system: System, name: str) -> bool:
    answer = await system.shop.ask(name, "GET", "/readyz")
    return bool(answer["status"] == "ready")


async def _unready(system: System, name: str) -> bool:
    assert (await system.shop.ask(name, "GET", "/healthz"))["status"] == "alive"
    try:
        await system.shop.ask(name, "GET", "/readyz")
    except Refused as refused:
        return refused.status == 503
    return False
