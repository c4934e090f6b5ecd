"""The tracker is dead for the whole load: nobody needs it, and afterwards it has seen everything."""

import asyncio

from compose.drills.rig import Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import killed
from compose.system import TRACKER

AWAY_SECONDS = 15.0


async def strike(stage: Stage) -> None:
    with stage.broken("tracker dead"):
        async with killed(stage.rig, TRACKER):
            await asyncio.sleep(AWAY_SECONDS)


DRILL = Drill(
    "tracker-down",
    f"the tracker is dead for {AWAY_SECONDS:.0f} s",
    strike,
    (Deed("kill", TRACKER),),
)
