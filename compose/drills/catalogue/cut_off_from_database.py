"""Services lose their databases, but not the broker: what they receive goes unacknowledged."""

import asyncio

from compose.drills.rig import POSTGRES, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import cut_off
from compose.drills.victims import Victims

# The last for longer than it takes a service to give up a connection that nobody told that it is lost.
VICTIMS = Victims({"payment": 6.0, "inventory": 16.0}, drawn_seconds=6.0)


async def strike(stage: Stage) -> None:
    for name, seconds in VICTIMS.in_turn(stage.random):
        await stage.caught_up()
        with stage.broken(f"{name} has no database"):
            async with cut_off(stage.rig, name, POSTGRES):
                await asyncio.sleep(seconds)


DRILL = Drill(
    "cut-off-from-database",
    f"a service is cut off from its database for up to {VICTIMS.longest_seconds:.0f} s",
    strike,
    tuple(Deed("cut_off", name, POSTGRES) for name in VICTIMS.names),
)
