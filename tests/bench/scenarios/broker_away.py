"""A minute without the broker, in which orders go on coming in, and how soon its backlog is gone."""

import asyncio
import time

from compose.local.components import RABBITMQ
from tests.bench.load import Sent
from tests.bench.results import Round
from tests.bench.scenarios.scenario import PATIENT, Scenario
from tests.bench.stage import Stage

PER_SECOND = 50.0
BEFORE_SECONDS = 5.0
AWAY_SECONDS = 60.0


async def play(stage: Stage) -> Round:
    """Orders come in until the broker is back; from then on counts how long until the last has ended."""
    starting_seconds = 0.0

    async def loading() -> Sent:
        nonlocal starting_seconds
        async with asyncio.TaskGroup() as group:
            load = group.create_task(stage.load.at_rate(PER_SECOND, BEFORE_SECONDS + AWAY_SECONDS))
            await asyncio.sleep(BEFORE_SECONDS)
            await asyncio.to_thread(stage.rig.stop, RABBITMQ)
            sent = await load
        await asyncio.to_thread(stage.rig.start, RABBITMQ)
        starting_seconds = time.monotonic() - sent.end
        return sent

    found = await stage.measure(loading())
    found.figures["backlog_max"] = backlog = found.most_in_flight
    found.figures["drain_seconds"] -= starting_seconds
    found.notes.append(f"the broker took {starting_seconds:.1f} s to start")
    found.figures["drained_per_second"] = backlog / found.figures["drain_seconds"]
    return found


SCENARIOS = [
    Scenario(
        "broker-away",
        f"{PER_SECOND:.0f} orders a second with the broker away for {AWAY_SECONDS:.0f} s, and drained",
        play,
        about_seconds=110,
        rounds=1,
        settings=PATIENT,
        lasting=True,
        counted=False,
    )
]
