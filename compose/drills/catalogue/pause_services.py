"""Services are frozen, one after the other, and go on: zombies with stale work, which kept their queues."""

import asyncio

from compose.drills.rig import Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import paused
from compose.drills.victims import Victims

# The first for longer than the broker, and its own deadline, wait for it.
VICTIMS = Victims({"payment": 20.0, "inventory": 8.5}, drawn_seconds=8.5)


def pausing(victims: Victims) -> Drill:
    """The drill for some services."""

    async def strike(stage: Stage) -> None:
        for name, seconds in victims.in_turn(stage.random):
            with stage.broken(f"{name} frozen"):
                async with paused(stage.rig, name):
                    await asyncio.sleep(seconds)
            await stage.caught_up()

    return Drill(
        "pause-services",
        f"a service is frozen for up to {victims.longest_seconds:.0f} s, and goes on",
        strike,
        tuple(Deed("pause", name) for name in victims.names),
    )


DRILL = pausing(VICTIMS)
