"""Trackers as processes: when the one that keeps the deadlines is frozen or killed, another goes on."""

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from uuid import UUID, uuid4

import pytest

from compose.local.ports import free_port
from tests.runtime.eventually import eventually
from tests.tracker.test_process import run
from tests.tracker.test_scheduler import (
    STEP_SECONDS,
    holder,
    impatient,
    just_now,
    published_by_trackers,
    states,
)
from tests.tracker.watch import QUICK, Watch

LATE = ("saga.redriven.v1", "saga.timed_out.v2")


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes to end with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(watch: Watch, processes: list["subprocess.Popen[str]"]) -> "subprocess.Popen[str]":
    """A tracker of its own, with the settings of `impatient`."""
    given = QUICK | impatient(inventory=STEP_SECONDS)
    environment = {
        f"MURMURATION_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in given.items()
    }
    process = run(watch, MURMURATION_HTTP_PORT=str(free_port()), **environment)
    processes.append(process)
    return process


async def is_kept_by(watch: Watch, process: "subprocess.Popen[str]") -> bool:
    return f":{process.pid}:" in (await holder(watch) or "")


async def say_late(watch: Watch) -> UUID:
    """An order that nobody answers, until the trackers have said all there is to say."""
    order = uuid4()
    await watch.say(*just_now("created", order))
    await states(watch, order, *LATE)
    return order


async def test_another_takes_over_within_seconds_and_nothing_is_published_twice(
    watch: Watch, processes: list["subprocess.Popen[str]"]
) -> None:
    first = start(watch, processes)
    await eventually(partial(is_kept_by, watch, first))
    second = start(watch, processes)
    orders = [await say_late(watch)]

    first.send_signal(signal.SIGSTOP)
    await eventually(partial(is_kept_by, watch, second), within_seconds=20)
    orders.append(await say_late(watch))
    first.send_signal(signal.SIGCONT)
    orders.append(await say_late(watch))
    assert await is_kept_by(watch, second)

    second.kill()
    await asyncio.to_thread(second.wait)
    await eventually(partial(is_kept_by, watch, first), within_seconds=20)
    orders.append(await say_late(watch))
    for order in orders:
        assert sorted((await published_by_trackers(watch, order)).elements()) == sorted(LATE)
