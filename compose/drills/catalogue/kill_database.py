"""kill -9 of PostgreSQL, twice."""

import asyncio

from compose.drills.rig import POSTGRES, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import killed

TIMES = 2
AWAY_SECONDS = (0.0, 5.0)


async def strike(stage: Stage) -> None:
    for _ in range(TIMES):
        await stage.caught_up()
        with stage.broken("PostgreSQL dead"):
            async with killed(stage.rig, POSTGRES):
                await asyncio.sleep(stage.random.uniform(*AWAY_SECONDS))


DRILL = Drill("kill-database", "kill -9 of PostgreSQL", strike, (Deed("kill", POSTGRES),))
