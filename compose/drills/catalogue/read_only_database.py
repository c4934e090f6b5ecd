"""PostgreSQL answers, and takes no change: its sessions live on, and fail at the first write."""

import asyncio

from compose.drills.rig import POSTGRES, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import read_only

READ_ONLY_SECONDS = 15.0


async def strike(stage: Stage) -> None:
    with stage.broken("PostgreSQL is read-only"):
        async with read_only(stage.rig):
            await asyncio.sleep(READ_ONLY_SECONDS)


DRILL = Drill(
    "read-only-database",
    f"PostgreSQL is read-only for {READ_ONLY_SECONDS:.0f} s",
    strike,
    (Deed("make_read_only", POSTGRES),),
)
