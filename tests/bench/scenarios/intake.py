"""More POSTs than sagas can end: the backlog grows, up to its bound, where orders are refused."""

import asyncio

from compose.local.components import RABBITMQ
from tests.bench.load import Sent
from tests.bench.results import Round, Target
from tests.bench.scenarios.scenario import PATIENT, Scenario
from tests.bench.stage import Stage

PER_SECOND = 1_100
DOWNSTREAM = ("inventory", "payment", "fulfillment", "notification")
AT_ONCE = 48
SECONDS = 10.0
MAX_OUTBOX_BACKLOG = 1_000
BROKER_AWAY_AFTER_SECONDS = 2.0


async def play_alone(stage: Stage) -> Round:
    """Whoever comes next is away, and comes back: intake has the machine to itself, and nothing is lost."""

    async def loading() -> Sent:
        for name in DOWNSTREAM:
            await asyncio.to_thread(stage.rig.stop, name)
        sent = await stage.load.at_rate(PER_SECOND, SECONDS)
        for name in DOWNSTREAM:
            await asyncio.to_thread(stage.rig.start, name)
        return sent

    found = await stage.measure(loading())
    found.figures = {"offered_per_second": PER_SECOND, **found.figures}
    found.figures["backlog_max"] = found.most_in_flight
    return found


async def play(stage: Stage) -> Round:
    """All are at work on what was accepted meanwhile; it then drains."""
    found = await stage.measure(stage.load.as_accepted(AT_ONCE, SECONDS))
    found.figures["backlog_max"] = found.most_in_flight
    return found


async def play_backpressure(stage: Stage) -> Round:
    """The broker is away, so the outbox fills to its bound. Whoever is refused is told when to come back."""
    refused_politely = 0

    async def loading() -> Sent:
        nonlocal refused_politely
        async with asyncio.TaskGroup() as group:
            load = group.create_task(stage.load.as_accepted(AT_ONCE, SECONDS))
            await asyncio.sleep(BROKER_AWAY_AFTER_SECONDS)
            await asyncio.to_thread(stage.rig.stop, RABBITMQ)
            sent = await load
        refused_politely = sent.busy
        await asyncio.to_thread(stage.rig.start, RABBITMQ)
        return sent

    found = await stage.measure(loading())
    found.figures["refused"] = refused_politely
    found.figures["backlog_max"] = found.most_in_flight
    if not refused_politely:
        found.problems.append("no POST was refused, although the backlog was at its bound")
    return found


SCENARIOS = [
    Scenario(
        "intake",
        f"{PER_SECOND:,} POSTs a second for {SECONDS:.0f} s, before anybody works on them",
        play_alone,
        about_seconds=100,
        targets=[Target("accepted_per_second", at_least=1_000), Target("post_p99_ms", at_most=100)],
        settings=PATIENT,
    ),
    Scenario(
        "intake-busy",
        f"POSTs as fast as they are accepted, {AT_ONCE} at once for {SECONDS:.0f} s",
        play,
        about_seconds=60,
        settings=PATIENT,
    ),
    Scenario(
        "backpressure",
        f"the same, with the broker away and room for {MAX_OUTBOX_BACKLOG:,} facts in the outbox",
        play_backpressure,
        about_seconds=60,
        rounds=1,
        settings={**PATIENT, "MURMURATION_MAX_OUTBOX_BACKLOG": str(MAX_OUTBOX_BACKLOG)},
        lasting=True,
        counted=False,
    ),
]
