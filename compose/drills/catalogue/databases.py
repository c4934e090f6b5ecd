"""PostgreSQL is stopped, killed, or takes no change."""

import asyncio

from compose.drills.rig import POSTGRES, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import killed, read_only, stopped

# PostgreSQL is stopped in an orderly way, away for longer than any step may take, and started again.

STOPPED_SECONDS = 15.0


async def stop_database(stage: Stage) -> None:
    with stage.broken("PostgreSQL stopped"):
        async with stopped(stage.rig, POSTGRES):
            await asyncio.sleep(STOPPED_SECONDS)


STOP_DATABASE = Drill(
    "stop-database",
    f"PostgreSQL is stopped for {STOPPED_SECONDS:.0f} s",
    stop_database,
    (Deed("stop", POSTGRES),),
)


# kill -9 of PostgreSQL, twice.

KILLED_TIMES = 2
DEAD_SECONDS = (0.0, 5.0)


async def kill_database(stage: Stage) -> None:
    for _ in range(KILLED_TIMES):
        await stage.caught_up()
        with stage.broken("PostgreSQL dead"):
            async with killed(stage.rig, POSTGRES):
                await asyncio.sleep(stage.random.uniform(*DEAD_SECONDS))


KILL_DATABASE = Drill("kill-database", "kill -9 of PostgreSQL", kill_database, (Deed("kill", POSTGRES),))


# PostgreSQL answers, and takes no change: its sessions live on, and fail at the first write.

READ_ONLY_SECONDS = 15.0


async def make_read_only(stage: Stage) -> None:
    with stage.broken("PostgreSQL is read-only"):
        async with read_only(stage.rig):
            await asyncio.sleep(READ_ONLY_SECONDS)


READ_ONLY_DATABASE = Drill(
    "read-only-database",
    f"PostgreSQL is read-only for {READ_ONLY_SECONDS:.0f} s",
    make_read_only,
    (Deed("make_read_only", POSTGRES),),
)
