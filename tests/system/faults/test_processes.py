"""Processes that die or are away while orders come in."""

import asyncio
import json
from typing import get_args

import pytest

from compose.drills.load import KINDS
from compose.drills.stage import killed
from compose.system import SERVICE_NAMES
from events.runtime.crash import CrashPoint
from tests.system.burst import new_burst
from tests.system.faults.verbs import die_at, restarted, under_load
from tests.system.stage import System

ORDERS = 60
LOAD_SECONDS = 1.5
AWAY_SECONDS = 3.0
CRASH_POINTS: tuple[CrashPoint, ...] = get_args(CrashPoint)
CALLING = ("payment", "fulfillment", "notification")
# A tracker that loses its patience in less than AWAY_SECONDS: who is down is late at once.
HASTY = {
    "MURMURATION_SERVICE_PATIENCE_SECONDS": json.dumps(dict.fromkeys(SERVICE_NAMES, 0)),
    "MURMURATION_STEP_DEADLINE_SECONDS": json.dumps({"inventory": 1, "payment": 1.5, "fulfillment": 1.5}),
    "MURMURATION_REDRIVE_GRACE_SECONDS": "1",
    "MURMURATION_OVERDUE_AFTER_SECONDS": "1",
}


def crash_points(name: str) -> tuple[CrashPoint, ...]:
    """Those that a process has."""
    if name == "tracker":
        return ("before_ack",)
    return tuple(point for point in CRASH_POINTS if name in CALLING or point != "after_call")


@pytest.mark.parametrize("name", [*SERVICE_NAMES, "tracker"])
async def test_a_process_dies_at_every_crash_point(system: System, name: str) -> None:
    """At one after the other, in the middle of orders; each start finds what the death before left behind."""
    points = crash_points(name)
    burst = await new_burst(system, 0, 0)
    async with asyncio.TaskGroup() as group, killed(system, name):
        for point in points:
            for kind in KINDS:
                group.create_task(burst.place(kind))
            await die_at(system, name, point)
    assert len(burst.accepted_as) == len(points) * len(KINDS)
    await burst.landed()


async def test_each_service_is_killed_and_away_until_orders_are_late_for_good(system: System) -> None:
    """Orders time out, the chain runs back, and whoever comes back meets with fences."""
    async with restarted(system, "tracker", HASTY):
        async with under_load(system, 2 * ORDERS, len(SERVICE_NAMES) * AWAY_SECONDS) as burst:
            for name in SERVICE_NAMES:
                async with killed(system, name):
                    await asyncio.sleep(AWAY_SECONDS)
        await burst.landed()
    [[timed_out]] = await system.execute(
        "tracker",
        "SELECT count(*) FROM sagas WHERE timed_out AND order_id = ANY(%s)",
        [list(burst.accepted_as)],
    )
    assert timed_out > 0


async def test_the_tracker_is_away_for_the_whole_burst(system: System) -> None:
    """Nobody needs it: all orders end as they do with it, and then it has seen them."""
    burst = await new_burst(system, ORDERS, LOAD_SECONDS)
    async with killed(system, "tracker"):
        await burst.run()
    await burst.landed()


async def test_two_instances_side_by_side_one_killed(system: System) -> None:
    """What the killed one leaves behind, the other takes over."""
    for name in ("inventory", "payment"):
        await system.start(name, instance=2)
    async with under_load(system, 2 * ORDERS, 2 * LOAD_SECONDS) as burst:
        await system.kill("payment", instance=2)
    await burst.landed()
    await system.stop("inventory", instance=2)
    await system.stop("payment", instance=2)
    await burst.landed()
