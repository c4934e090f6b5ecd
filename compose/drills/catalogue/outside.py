"""The payment provider is down, slow, or loses its answers."""

import asyncio

from compose.drills.stage import Drill, Stage
from compose.drills.verbs import misbehaving

# The payment provider does nothing that it is asked, and says so.

DOWN_SECONDS = 20.0


async def provider_down(stage: Stage) -> None:
    with stage.broken("provider down"):
        async with misbehaving(stage.rig.where, "provider", fail_rate=1.0):
            await asyncio.sleep(DOWN_SECONDS)


PROVIDER_DOWN = Drill(
    "provider-down", f"the payment provider is down for {DOWN_SECONDS:.0f} s", provider_down
)


# The payment provider answers late: first within the patience of one attempt, then beyond it.

# Below and above the timeout of one attempt.
LATENCIES_SECONDS = (1.5, 6.0)
SLOW_SECONDS = 10.0


async def slow_provider(stage: Stage) -> None:
    for latency_seconds in LATENCIES_SECONDS:
        with stage.broken(f"provider takes {latency_seconds} s"):
            async with misbehaving(stage.rig.where, "provider", latency_seconds=latency_seconds):
                await asyncio.sleep(SLOW_SECONDS)


SLOW_PROVIDER = Drill("slow-provider", "the payment provider answers late, and too late", slow_provider)


# The payment provider charges and loses half of its answers, and refuses some requests besides.

LOSE_ANSWER_RATE = 0.5
FAIL_RATE = 0.1
FAULT_SECONDS = 20.0
SEEDS = 1_000_000


async def lose_answers(stage: Stage) -> None:
    with stage.broken("provider charges and loses answers"):
        async with misbehaving(
            stage.rig.where,
            "provider",
            lose_answer_rate=LOSE_ANSWER_RATE,
            fail_rate=FAIL_RATE,
            seed=stage.random.randrange(SEEDS),
        ):
            await asyncio.sleep(FAULT_SECONDS)


LOST_ANSWERS = Drill(
    "lost-answers", f"the provider charges and loses answers for {FAULT_SECONDS:.0f} s", lose_answers
)
