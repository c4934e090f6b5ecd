"""The broker and the database, away for long and killed, while orders come in."""

import asyncio

import pytest

from compose.demo.shop import Item, Refused
from compose.drills.stage import killed, stopped
from compose.system import SERVICE_NAMES
from tests.system.faults.verbs import all_say, under_load
from tests.system.stage import System

ORDERS = 60
LOAD_SECONDS = 1.5
BROKER_AWAY_SECONDS = 40.0
POSTGRES_AWAY_SECONDS = 20.0

pytestmark = pytest.mark.usefixtures("own_servers")


async def test_the_broker_is_away_for_long(system: System) -> None:
    """Orders are accepted all the while, nobody says that it is ready, and everything goes on afterwards."""
    async with under_load(system, 2 * ORDERS, BROKER_AWAY_SECONDS / 2) as burst:
        async with stopped(system, "rabbitmq"), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(BROKER_AWAY_SECONDS))
            await all_say(system, SERVICE_NAMES, ready=False)
            await burst.accepted(2 * ORDERS)
        await all_say(system, SERVICE_NAMES, ready=True)
    await burst.landed()


async def test_the_broker_is_killed(system: System) -> None:
    async with under_load(system, ORDERS, LOAD_SECONDS) as burst, killed(system, "rabbitmq"):
        pass
    await burst.landed()


async def test_postgres_is_away_for_long(system: System) -> None:
    """Nothing is accepted meanwhile, and a client that tries again under its key loses nothing."""
    async with under_load(system, ORDERS, LOAD_SECONDS) as burst:
        async with stopped(system, "postgres"), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(POSTGRES_AWAY_SECONDS))
            await all_say(system, SERVICE_NAMES, ready=False)
            with pytest.raises(Refused, match="503"):
                await system.shop.place("cust_burst", "tok_ok", Item("any", 1, 100))
        await all_say(system, SERVICE_NAMES, ready=True)
    await burst.landed()
