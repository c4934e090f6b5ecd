"""The broker's memory is full, it says: who publishes is blocked, who consumes is not."""

import asyncio

from compose.drills.rig import RABBITMQ, Deed
from compose.drills.stage import Drill, Stage
from compose.drills.verbs import alarmed

BLOCKED_SECONDS = 15.0


async def strike(stage: Stage) -> None:
    with stage.broken("broker takes no message"):
        async with alarmed(stage.rig):
            await asyncio.sleep(BLOCKED_SECONDS)


DRILL = Drill(
    "alarm-broker",
    f"the broker's memory alarm is set for {BLOCKED_SECONDS:.0f} s",
    strike,
    (Deed("alarm", RABBITMQ),),
)
