"""Services lose their databases, but not the broker: what they hear goes unacknowledged."""

import asyncio

from compose.drills.rig import POSTGRES, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import cut_off

NAMES = ("inventory", "payment")
AWAY_SECONDS = 9.0
PAUSE_SECONDS = 2.0


async def strike(stage: Stage) -> None:
    for name in NAMES:
        with stage.broken(f"{name} has no database"):
            async with cut_off(stage.rig, name, POSTGRES):
                await asyncio.sleep(AWAY_SECONDS)
        await asyncio.sleep(PAUSE_SECONDS)


DRILL = Drill(
    "cut-off-from-database",
    "a service is cut off from its database, not from the broker",
    strike,
    tuple(Deed("cut_off", name, POSTGRES) for name in NAMES),
)
