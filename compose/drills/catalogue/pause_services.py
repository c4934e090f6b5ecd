"""Services are frozen, one after the other, and go on: zombies with stale work, which kept their queues."""

import asyncio

from compose.drills.rig import Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import paused
from compose.drills.victims import Victims

# The last for longer than its step, the second telling and the grace after it take.
VICTIMS = Victims({"inventory": 6.0, "payment": 15.0}, drawn_seconds=6.0)


def pausing(victims: Victims) -> Drill:
    """The drill for some services."""

    async def strike(stage: Stage) -> None:
        for name, seconds in victims.in_turn(stage.random):
            await stage.caught_up()
            with stage.broken(f"{name} frozen"):
                async with paused(stage.rig, name):
                    await asyncio.sleep(seconds)

    return Drill(
        "pause-services",
        f"a service is frozen for up to {victims.longest_seconds:.0f} s, and goes on",
        strike,
        tuple(Deed("pause", name) for name in victims.names),
    )


DRILL = pausing(VICTIMS)
