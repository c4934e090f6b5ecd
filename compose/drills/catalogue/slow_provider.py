"""The payment provider answers late: first within the patience of one attempt, then beyond it."""

import asyncio

from compose.drills.stage import Drill, Stage
from compose.drills.verbs import misbehaving

# Below and above the timeout of one attempt.
LATENCIES_SECONDS = (1.5, 6.0)
SLOW_SECONDS = 10.0


async def strike(stage: Stage) -> None:
    for latency_seconds in LATENCIES_SECONDS:
        with stage.broken(f"provider takes {latency_seconds} s"):
            async with misbehaving(stage.rig.where, "provider", latency_seconds=latency_seconds):
                await asyncio.sleep(SLOW_SECONDS)


DRILL = Drill("slow-provider", "the payment provider answers late, and too late", strike)
