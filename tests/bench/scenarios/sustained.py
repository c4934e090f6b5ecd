"""Closed loop: the most that the system can do, minute after minute."""

import asyncio
import statistics

from compose.local.addresses import ALL_IN_ONE_VARIABLE
from tests.bench.floor.measure import measure_floor
from tests.bench.orders import Kind
from tests.bench.results import Result, Round, Target
from tests.bench.scenarios.scenario import Scenario
from tests.bench.stage import Stage

SECONDS = 60.0
QUICK_SECONDS = 30.0
TRIED = (150, 300, 600, 1_000)
TRIAL_SECONDS = 8.0
LINES = 50
FLOOR_SECONDS = 15.0
ALL_IN_ONE_IN_FLIGHT = 150
LONG_SECONDS = 20.0
LONG_IN_FLIGHT = 100


async def prepare(stage: Stage) -> None:
    """Choose how many orders to keep under way, and measure the floor for the first time."""
    stage.kept["in_flight"] = stage.choices.in_flight or await best_in_flight(stage)
    stage.kept["floor_before"] = await floor_alone(stage)
    for spec in stage.where.started:
        await asyncio.to_thread(stage.rig.start, spec.name)
    await stage.warm_up()


async def play(stage: Stage) -> Round:
    """With as many orders under way as were asked for, or as serve best."""
    in_flight = int(stage.kept["in_flight"])
    return await _keep(stage, in_flight, QUICK_SECONDS if stage.choices.quick else SECONDS)


async def play_all_in_one(stage: Stage) -> Round:
    """With so many under way as a single process still keeps up with."""
    return await _keep(stage, ALL_IN_ONE_IN_FLIGHT, QUICK_SECONDS)


async def _keep(stage: Stage, in_flight: int, seconds: float) -> Round:
    found = await stage.keep(in_flight, seconds)
    found.figures = {"in_flight": in_flight, **found.figures}
    return found


async def best_in_flight(stage: Stage) -> int:
    """Of some numbers of orders under way, the one with which most of them end."""
    rates: dict[int, float] = {}
    for count in TRIED:
        tried = await stage.keep(count, TRIAL_SECONDS)
        rates[count] = tried.figures.get("ended_per_second", 0.0)
        stage.say(f"trying {count} in flight: {rates[count]:.0f} sagas ended a second")
    return max(rates, key=lambda count: rates[count])


async def compare_with_floor(stage: Stage, result: Result) -> None:
    """Before and after all rounds: a machine that others share may be half as fast minutes later."""
    rate = statistics.mean([stage.kept["floor_before"], await floor_alone(stage)])
    result.added["floor_per_second"] = rate
    result.added["share_of_floor_percent"] = 100 * result.figures["ended_per_second"] / rate


async def floor_alone(stage: Stage) -> float:
    """The same messages, rows and commits by bare clients, on the same servers, with nobody else at work."""
    for spec in stage.where.started:
        await asyncio.to_thread(stage.rig.stop, spec.name)
    floor = await measure_floor(stage.rig, int(stage.kept["in_flight"]), FLOOR_SECONDS)
    stage.say(f"the floor: {floor}")
    return floor.sagas_per_second


async def play_long(stage: Stage) -> Round:
    """Orders of many lines."""
    return await stage.keep(LONG_IN_FLIGHT, LONG_SECONDS)


SCENARIOS = [
    Scenario(
        "sustained",
        f"as many as it can, for {SECONDS:.0f} s (among the main figures {QUICK_SECONDS:.0f} s)",
        play,
        about_seconds=85,
        about_more_seconds=110,
        targets=[Target("ended_per_second", at_least=300), Target("share_of_floor_percent", at_least=75)],
        main=True,
        prepare=prepare,
        finish=compare_with_floor,
    ),
    Scenario(
        "all-in-one",
        f"the same with all services and the tracker in one process, for {QUICK_SECONDS:.0f} s",
        play_all_in_one,
        about_seconds=40,
        settings={ALL_IN_ONE_VARIABLE: "1"},
        main=True,
    ),
    Scenario(
        "long-orders",
        f"orders of {LINES} lines, {LONG_IN_FLIGHT} in flight for {LONG_SECONDS:.0f} s",
        play_long,
        about_seconds=25,
        only=Kind(skus=[f"bench-{number}" for number in range(LINES)]),
    ),
]
