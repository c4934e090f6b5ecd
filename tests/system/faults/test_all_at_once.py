"""Many orders of every kind, while processes die at random and the outside world lies."""

import asyncio
from random import Random

from compose.drills.stage import killed, misbehaving
from compose.system import SERVICE_NAMES
from tests.system.faults.verbs import under_load
from tests.system.stage import System

ORDERS = 500
LOAD_SECONDS = 12.0
FAULTS = {"fail_rate": 0.05, "lose_answer_rate": 0.05}
SEED = 500


async def test_every_accepted_order_ends_and_none_is_lost(system: System) -> None:
    random = Random(SEED)
    victims = [*SERVICE_NAMES, "tracker", "sandbox"]
    random.shuffle(victims)
    async with under_load(system, ORDERS, LOAD_SECONDS) as burst:
        for seed, victim in enumerate(victims):
            # Anew each time, for a sandbox that was killed has forgotten that it lies.
            async with misbehaving(system.where, "all", **FAULTS, seed=seed), killed(system, victim):
                await asyncio.sleep(random.random())
    assert len(burst.accepted_as) == ORDERS
    await burst.landed()
