"""A node of the broker is frozen, and goes on: it does not know that it was gone, nor what it missed."""

import asyncio

from compose.containers.cluster import NODES
from compose.drills.rig import Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import paused

# Longer than its peers (net_ticktime), and about as long as its clients, need to give it up.
FROZEN_SECONDS = 20.0


async def strike(stage: Stage) -> None:
    name = stage.random.choice(NODES)
    with stage.broken(f"{name} frozen"):
        async with paused(stage.rig, name):
            await asyncio.sleep(FROZEN_SECONDS)


DRILL = Drill(
    "freeze-node",
    "one node of the broker is frozen, and goes on",
    strike,
    tuple(Deed("pause", name) for name in NODES),
)
