"""The payment provider does nothing that it is asked, and says so."""

import asyncio

from compose.drills.stage import Drill, Stage
from compose.drills.verbs import misbehaving

DOWN_SECONDS = 20.0


async def strike(stage: Stage) -> None:
    with stage.broken("provider down"):
        async with misbehaving(stage.rig.where, "provider", fail_rate=1.0):
            await asyncio.sleep(DOWN_SECONDS)


DRILL = Drill("provider-down", f"the payment provider is down for {DOWN_SECONDS:.0f} s", strike)
