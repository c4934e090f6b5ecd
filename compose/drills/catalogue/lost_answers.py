"""The payment provider charges and loses half of its answers, and refuses some requests besides."""

import asyncio

from compose.drills.stage import Drill, Stage
from compose.drills.verbs import misbehaving

LOSE_ANSWER_RATE = 0.5
FAIL_RATE = 0.1
FAULT_SECONDS = 20.0
SEEDS = 1_000_000


async def strike(stage: Stage) -> None:
    with stage.broken("provider charges and loses answers"):
        async with misbehaving(
            stage.rig.where,
            "provider",
            lose_answer_rate=LOSE_ANSWER_RATE,
            fail_rate=FAIL_RATE,
            seed=stage.random.randrange(SEEDS),
        ):
            await asyncio.sleep(FAULT_SECONDS)


DRILL = Drill("lost-answers", f"the provider charges and loses answers for {FAULT_SECONDS:.0f} s", strike)
