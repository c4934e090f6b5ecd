"""kill -9 of one replica of everything at once: the others carry on, and take over what the dead left."""

import asyncio

from compose.drills.rig import Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import all_killed
from compose.system import SERVICE_NAMES as SERVICES
from compose.system import TRACKER

# First the one half of all processes, then the other. The tracker that acts is in one of the two.
HALVES = tuple(tuple(f"{name}{number}" for name in (*SERVICES, TRACKER)) for number in ("", "-2"))
AWAY_SECONDS = 8.0
PAUSE_SECONDS = 4.0


async def strike(stage: Stage) -> None:
    for number, half in enumerate(HALVES, 1):
        with stage.broken(f"half of all replicas dead ({number})"):
            async with all_killed(stage.rig, half):
                await asyncio.sleep(AWAY_SECONDS)
        await asyncio.sleep(PAUSE_SECONDS)


DRILL = Drill(
    "kill-replicas",
    "kill -9 of one replica of every service, and of the tracker",
    strike,
    tuple(Deed("kill", name) for half in HALVES for name in half),
)
