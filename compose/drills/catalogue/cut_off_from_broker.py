"""Services lose the broker, but not their databases: what they commit waits in their outboxes."""

import asyncio

from compose.drills.rig import RABBITMQ, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import cut_off
from compose.drills.victims import Victims

# Where nobody tells a connection that it is lost, most come back to the one they had; the last is away for
# longer than three heartbeats, and has given it up.
VICTIMS = Victims({"inventory": 6.0, "payment": 18.0}, drawn_seconds=6.0)


def cutting_off(victims: Victims) -> Drill:
    """The drill for some services."""

    async def strike(stage: Stage) -> None:
        for name, seconds in victims.in_turn(stage.random):
            await stage.caught_up()
            with stage.broken(f"{name} has no broker"):
                async with cut_off(stage.rig, name, RABBITMQ):
                    await asyncio.sleep(seconds)

    return Drill(
        "cut-off-from-broker",
        f"a service is cut off from the broker for up to {victims.longest_seconds:.0f} s",
        strike,
        tuple(Deed("cut_off", name, RABBITMQ) for name in victims.names),
    )


DRILL = cutting_off(VICTIMS)
