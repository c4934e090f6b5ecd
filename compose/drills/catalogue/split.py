"""The network splits: one node of the broker is apart from the others and from its clients, silently."""

import asyncio

from compose.containers.cluster import NODES
from compose.drills.rig import Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import isolated

# First so briefly that the nodes do not even notice, then for longer than that takes (net_ticktime).
APART_SECONDS = (4.0, 20.0)
PAUSE_SECONDS = 2.0


async def strike(stage: Stage) -> None:
    for apart_seconds in APART_SECONDS:
        name = stage.random.choice(NODES)
        with stage.broken(f"{name} apart"):
            async with isolated(stage.rig, name):
                await asyncio.sleep(apart_seconds)
        await asyncio.sleep(PAUSE_SECONDS)


DRILL = Drill(
    "split",
    "one node of the broker is apart from the others, and comes back",
    strike,
    tuple(Deed("isolate", name) for name in NODES),
)
