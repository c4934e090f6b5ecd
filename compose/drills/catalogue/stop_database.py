"""PostgreSQL is stopped in an orderly way, away for longer than any step may take, and started again."""

import asyncio

from compose.drills.rig import POSTGRES, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import stopped

AWAY_SECONDS = 15.0


async def strike(stage: Stage) -> None:
    with stage.broken("PostgreSQL stopped"):
        async with stopped(stage.rig, POSTGRES):
            await asyncio.sleep(AWAY_SECONDS)


DRILL = Drill(
    "stop-database",
    f"PostgreSQL is stopped for {AWAY_SECONDS:.0f} s",
    strike,
    (Deed("stop", POSTGRES),),
)
