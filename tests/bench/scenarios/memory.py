"""Steady load for ten minutes, or an hour: no process may need more and more memory."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import Sequence
from functools import partial

from tests.bench.cpu import LOAD, own_megabytes, running_parts
from tests.bench.results import Round, Target
from tests.bench.scenarios.scenario import Scenario
from tests.bench.stage import Stage

PER_SECOND = 50.0
TEN_MINUTES, AN_HOUR = 600.0, 3_600.0
SAMPLE_SECONDS = 10.0
# Pools, caches and the sandbox's books of recent mail fill at first, and are bounded.
SETTLED_AFTER_SECONDS = 180.0
TOO_FEW_SAMPLES = 30
# What a garbage collector and a write-ahead log rise and fall by anyway.
FLAT_PERCENT, FLAT_MEGABYTES = 10.0, 8.0

Samples = Sequence[tuple[float, float]]


async def play(seconds: float, stage: Stage) -> Round:
    """The load's own memory grows with all it remembers of the orders: it is not asked for."""
    samples: dict[str, list[tuple[float, float]]] = {}
    begin = time.monotonic()

    async def sample() -> None:
        while True:
            parts = [part for part in running_parts(stage.rig) if part.name != LOAD]
            for name, megabytes in (await asyncio.to_thread(own_megabytes, parts)).items():
                samples.setdefault(name, []).append((time.monotonic() - begin, megabytes))
            await asyncio.sleep(SAMPLE_SECONDS)

    task = asyncio.create_task(sample(), name="sample memory")
    try:
        found = await stage.measure(stage.load.at_rate(PER_SECOND, seconds))
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    found.memory_megabytes = samples
    grown = {name: growth(taken) for name, taken in samples.items() if len(taken) > TOO_FEW_SAMPLES}
    if not grown:
        found.problems.append("there were too few samples to tell whether memory is flat")
        return found
    found.figures["memory_growth_percent"] = max(percent for percent, _ in grown.values())
    found.problems += [
        f"{name} grew by {megabytes:.0f} MB, {percent:.0f} %, after {SETTLED_AFTER_SECONDS:.0f} s"
        for name, (percent, megabytes) in grown.items()
        if percent > FLAT_PERCENT and megabytes > FLAT_MEGABYTES
    ]
    return found


def growth(samples: Samples) -> tuple[float, float]:
    """By how many percent, and megabytes, memory grew from when it had settled to the end.

    By the medians of the first and the last third, which are two thirds of the time apart: what comes and
    goes within minutes, as RabbitMQ's does, does not count.
    """
    settled = [megabytes for at, megabytes in samples if at >= SETTLED_AFTER_SECONDS]
    third = max(1, len(settled) // 3)
    first, last = statistics.median(settled[:third]), statistics.median(settled[-third:])
    grown = 1.5 * (last - first)
    return 100 * grown / max(first, 1.0), grown


def _lasting(name: str, seconds: float, *, only_by_name: bool = False) -> Scenario:
    return Scenario(
        name,
        f"{PER_SECOND:.0f} orders a second for {seconds / 60:.0f} minutes: is memory flat?",
        partial(play, seconds),
        about_seconds=seconds,
        rounds=1,
        targets=[Target("memory_growth_percent", at_most=FLAT_PERCENT)],
        counted=False,
        # Else the books of recent mail go on filling for minutes.
        settings={"MURMURATION_SANDBOX_SINK_RETENTION": "1000"},
        only_by_name=only_by_name,
    )


SCENARIOS = [_lasting("memory", TEN_MINUTES), _lasting("memory-hour", AN_HOUR, only_by_name=True)]
