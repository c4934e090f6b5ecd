"""A loop that ends ends its process: in order, in time, with a word in the log and a code that says so."""

import asyncio
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from events.runtime.loops import EXIT_CODE, Loops
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.facts import Bumped
from tests.runtime.toy_process import ToyProcess

Logged = list[MutableMapping[str, Any]]

# Every loop of a service, and where it is.
LOOPS = {
    "instance": "events.storage.instance:Instance.stay",
    "relay": "events.messaging.relay:Relay.run",
    "relay_sweep": "events.messaging.relay:Relay.sweep",
    "relay_forget": "events.messaging.relay:Relay.forget",
    "worker": "events.runtime.worker:Worker.run",
    "consumer": "events.messaging.consumer:Consumer.run",
    "retention": "events.storage.retention:Retention.run",
    "call_dispatcher": "events.outbound.dispatcher:CallDispatcher.run",
    "call_dispatcher_sweep": "events.outbound.dispatcher:CallDispatcher.sweep",
}
IN_A_BATCH = "events.runtime.worker:Worker._next_batch=breaks"


# -- the group ----------------------------------------------------------------------------------------


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def raising() -> None:
    raise KeyError("missing")


async def returning() -> None:
    pass


async def cancelled_within() -> None:
    """As a library does to who waits for something on a channel that ends."""
    waiting = asyncio.get_running_loop().create_future()
    waiting.cancel()
    await waiting


@pytest.mark.parametrize(
    ("ending", "why"),
    [(raising, "KeyError"), (returning, "LoopEnded"), (cancelled_within, "LoopEnded")],
)
async def test_however_a_loop_ends_all_end_and_it_is_logged_once(
    logged: Logged, ending: Any, why: str
) -> None:
    loops, failed = Loops(), asyncio.Event()
    loops.on_failure(failed.set)
    await loops.open()
    loops.start({"other": for_ever, "guilty": ending})
    async with asyncio.timeout(5):
        await failed.wait()
        await eventually(lambda: not any(loops.running.values()))
    assert loops.failed
    assert [(line["log_level"], line["loop"]) for line in logged] == [("error", "guilty")]
    assert type(logged[0]["exc_info"]).__name__ == why
    await loops.close(1)


async def test_what_is_closed_has_not_failed(logged: Logged) -> None:
    loops = Loops()
    await loops.open()
    begun = loops.begin("start", returning)
    loops.start({"one": for_ever, "two": for_ever})
    await begun
    assert loops.running == {"one": True, "two": True}
    await loops.close(1)
    assert loops.running == {"one": False, "two": False}
    assert not loops.failed
    assert logged == []


async def test_one_that_will_not_end_is_not_waited_for_longer_than_allowed() -> None:
    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    let_go, loops = asyncio.Event(), Loops()
    await loops.open()
    loops.start({"stubborn": stubborn})
    await asyncio.sleep(0)
    began = time.monotonic()
    await loops.close(0.1)
    assert time.monotonic() - began < 30
    let_go.set()


# -- the process --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOOPS)
async def test_a_loop_that_raises_ends_the_process_with_a_line_in_the_log(
    stage: Stage, tmp_path: Path, name: str
) -> None:
    toy = ToyProcess(stage, tmp_path)
    await toy.start_ready(broken=f"{LOOPS[name]}=raises")
    toy.break_it()
    assert await toy.exit_code() == EXIT_CODE
    (ended,) = toy.logged("loop_ended")
    assert (ended["level"], ended["loop"]) == ("error", name)
    assert "KeyError: 'broken on purpose'" in ended["exception"]
    assert toy.logged("stopped")


@pytest.mark.parametrize("name", ["worker", "consumer"])
async def test_a_loop_that_returns_does_too(stage: Stage, tmp_path: Path, name: str) -> None:
    toy = ToyProcess(stage, tmp_path)
    await toy.start_ready(broken=f"{LOOPS[name]}=returns")
    toy.break_it()
    assert await toy.exit_code() == EXIT_CODE
    assert [line["loop"] for line in toy.logged("loop_ended")] == [name]


@pytest.mark.parametrize("name", ["worker", "relay", "consumer"])
async def test_what_it_had_not_acknowledged_is_on_the_queue_again_and_handled_by_the_next(
    stage: Stage, tmp_path: Path, name: str
) -> None:
    toy = ToyProcess(stage, tmp_path)
    held, others = uuid4(), [uuid4() for _ in range(10)]
    await toy.start_ready(broken=f"{LOOPS[name]}=raises")
    await toy.bump(held)
    async with stage.holding(held):
        orders = [held, *others]
        await stage.publish(*(message(Bumped(order_id=order), uuid4()) for order in orders))
        await eventually(stage.blocked)
        await eventually(lambda: stage.waiting_in_queue_is(0))
        toy.break_it()
        assert await toy.exit_code() == EXIT_CODE
        await eventually(lambda: stage.waiting_in_queue_is(len(orders)))
    await stage.start()
    await eventually(lambda: len(set(stage.published(*orders))) == len(orders) + 1)
    await eventually(stage.drained)
    assert await stage.counts(orders) == dict.fromkeys(others, 1) | {held: 2}


async def test_a_mistake_within_the_worker_does_it_too_and_who_waits_for_a_command_gets_an_answer_soon(
    stage: Stage, tmp_path: Path
) -> None:
    toy = ToyProcess(stage, tmp_path, command_timeout_seconds=100)
    await toy.start_ready(broken=IN_A_BATCH)
    toy.break_it()
    began = time.monotonic()
    assert await toy.bump_status(uuid4()) == 503
    assert time.monotonic() - began < 30
    assert await toy.exit_code() == EXIT_CODE
    assert [line["loop"] for line in toy.logged("loop_ended")] == ["worker"]


async def test_a_start_that_fails_ends_the_process(stage: Stage, tmp_path: Path) -> None:
    await stage.rows("DROP SEQUENCE instance_ids")
    toy = ToyProcess(stage, tmp_path)
    await toy.start()
    assert await toy.exit_code() == EXIT_CODE
    (ended,) = toy.logged("loop_ended")
    assert ended["loop"] == "start"
    assert "UndefinedTable" in ended["exception"]


@pytest.mark.parametrize("how", ["hangs", "blocks"])
async def test_it_ends_though_it_cannot_stop_in_order(stage: Stage, tmp_path: Path, how: str) -> None:
    toy = ToyProcess(stage, tmp_path, stop_grace_seconds=1, stop_margin_seconds=0.5)
    await toy.start_ready(
        broken=f"{LOOPS['worker']}=raises events.runtime.service_runtime:ServiceRuntime.stop={how}"
    )
    toy.break_it()
    began = time.monotonic()
    assert await toy.exit_code() == EXIT_CODE
    assert time.monotonic() - began < 30
    assert toy.logged("stopped_without_order")
    assert not toy.logged("stopped")


async def test_while_the_database_is_away_it_starts_all_the_same_and_stays(
    stage: Stage, tmp_path: Path
) -> None:
    proxy = await stage.proxy_database()
    proxy.cut()
    toy = ToyProcess(stage, tmp_path, database_url=proxy.url(stage.database_url))
    await toy.start()
    await eventually(lambda: proxy.refused >= 5)
    assert toy.logged("loop_ended") == []
    proxy.restore()
    await eventually(toy.is_ready)
