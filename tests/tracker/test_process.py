"""The tracker as a process: it starts, tells, stops on SIGTERM, and rebuilds from the command line."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import ClientSession

from compose.local.ports import free_port
from tests.runtime.eventually import eventually
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.watch import Watch


def run(watch: Watch, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return run_modules(watch, "saga_tracker", *arguments, **environment)


def run_modules(watch: Watch, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={
            **os.environ,
            "MURMURATION_BROKER_URL": watch.broker_url,
            "MURMURATION_DATABASE_URL": watch.database_url,
            "MURMURATION_AUTH": "open",
            **environment,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def processes() -> Iterator[list["subprocess.Popen[str]"]]:
    """Processes to end with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


async def test_it_serves_and_stops_and_rebuilds_while_it_runs(
    watch: Watch, processes: list["subprocess.Popen[str]"]
) -> None:
    port = free_port()
    process = run(watch, MURMURATION_HTTP_PORT=str(port))
    processes.append(process)
    order = uuid4()
    await watch.say(*envelopes(PATHS["completed"], order))
    async with ClientSession(f"http://127.0.0.1:{port}") as http:

        async def answer(path: str) -> Any:
            async with http.get(path) as response:
                assert response.status == 200
                return await response.json()

        async def completed() -> bool:
            return bool((await answer(f"/sagas/{order}"))["state"] == "COMPLETED")

        await eventually(completed)
        assert (await answer("/readyz"))["status"] == "ready"
        assert "/sagas/{order_id}" in (await answer("/openapi.json"))["paths"]
        before = await watch.view()
        rebuilding = run(watch, "rebuild")
        processes.append(rebuilding)
        _, log = await asyncio.to_thread(rebuilding.communicate, timeout=60)
        assert rebuilding.returncode == 0, log
        assert '"messages":8' in log
        assert await watch.view() == before
        assert await completed()
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode in (0, -signal.SIGTERM), log
    assert '"event":"stopped"' in log


async def test_killed_in_the_middle_it_loses_nothing_and_counts_nothing_twice(
    watch: Watch, processes: list["subprocess.Popen[str]"]
) -> None:
    facts = [fact for _ in range(300) for fact in envelopes(PATHS["completed"], uuid4())]
    settings = {"MURMURATION_BATCH_SIZE": "20", "MURMURATION_PREFETCH": "50"}
    await watch.say_at_once(facts)
    for _ in range(3):
        process = run(watch, MURMURATION_HTTP_PORT=str(free_port()), **settings)
        processes.append(process)
        enough = min(await watch.facts_seen() + 1, len(facts))
        await eventually(partial(_sees, watch, enough))
        process.kill()
        await asyncio.to_thread(process.wait)
    processes.append(run(watch, MURMURATION_HTTP_PORT=str(free_port())))
    await watch.sees_facts(len(facts))
    shown = await watch.rows("SELECT state, fact_count, count(*) AS sagas FROM sagas GROUP BY 1, 2")
    assert shown == [{"state": "COMPLETED", "fact_count": 8, "sagas": 300}]


async def _sees(watch: Watch, enough: int) -> bool:
    return await watch.facts_seen() >= enough


async def test_a_rebuild_that_fails_says_why_and_exits_with_1(
    watch: Watch, processes: list["subprocess.Popen[str]"]
) -> None:
    nowhere = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    process = run(watch, "rebuild", MURMURATION_DATABASE_URL=nowhere)
    processes.append(process)
    _, log = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 1
    assert "the database is away, the view is as it was" in log
    assert "Traceback" not in log


async def test_a_missing_setting_is_named(watch: Watch, processes: list["subprocess.Popen[str]"]) -> None:
    process = run(watch)
    processes.append(process)
    _, log = await asyncio.to_thread(process.communicate, timeout=30)
    assert process.returncode == 2
    assert "MURMURATION_HTTP_PORT" in log
