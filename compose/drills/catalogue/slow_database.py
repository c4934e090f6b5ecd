"""Everything between inventory and its database takes longer, as across a bad network."""

import asyncio

from compose.drills.rig import POSTGRES, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import delayed

NAME = "inventory"
LATENCY_SECONDS = 0.1
SLOW_SECONDS = 10.0


async def strike(stage: Stage) -> None:
    with stage.broken(f"{NAME}'s database far away"):
        async with delayed(stage.rig, NAME, POSTGRES, LATENCY_SECONDS):
            await asyncio.sleep(SLOW_SECONDS)


DRILL = Drill(
    "slow-database",
    "100 ms each way between inventory and its database",
    strike,
    (Deed("delay", NAME, POSTGRES),),
)
