"""Everything is stopped at once in the middle of orders, and started again."""

import asyncio

from compose.drills.rig import Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import all_stopped

DARK_SECONDS = 5.0


async def strike(stage: Stage) -> None:
    with stage.broken("nothing runs"):
        async with all_stopped(stage.rig):
            await asyncio.sleep(DARK_SECONDS)


DRILL = Drill("full-stop", "the whole stack stops and starts again", strike, (Deed("stop_all", "all"),))
