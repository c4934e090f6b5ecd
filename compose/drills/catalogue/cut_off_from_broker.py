"""Services lose the broker, but not their databases: what they commit waits in their outboxes."""

import asyncio

from compose.drills.rig import RABBITMQ, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import cut_off

NAMES = ("order", "payment")
AWAY_SECONDS = 9.0
PAUSE_SECONDS = 2.0


async def strike(stage: Stage) -> None:
    for name in NAMES:
        with stage.broken(f"{name} has no broker"):
            async with cut_off(stage.rig, name, RABBITMQ):
                await asyncio.sleep(AWAY_SECONDS)
        await asyncio.sleep(PAUSE_SECONDS)


DRILL = Drill(
    "cut-off-from-broker",
    "a service is cut off from the broker, not from its database",
    strike,
    tuple(Deed("cut_off", name, RABBITMQ) for name in NAMES),
)
