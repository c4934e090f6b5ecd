"""Services lose their databases, but not the broker: what they hear goes unacknowledged."""

import asyncio
from collections.abc import Mapping

from compose.drills.rig import POSTGRES, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import cut_off

# The second for longer than it takes a service to give up a connection that nobody told that it is lost.
AWAY_SECONDS: Mapping[str, float] = {"inventory": 9.0, "payment": 16.0}
PAUSE_SECONDS = 2.0


async def strike(stage: Stage) -> None:
    for name, seconds in AWAY_SECONDS.items():
        with stage.broken(f"{name} has no database"):
            async with cut_off(stage.rig, name, POSTGRES):
                await asyncio.sleep(seconds)
        await asyncio.sleep(PAUSE_SECONDS)


DRILL = Drill(
    "cut-off-from-database",
    "a service is cut off from its database, not from the broker",
    strike,
    tuple(Deed("cut_off", name, POSTGRES) for name in AWAY_SECONDS),
)
