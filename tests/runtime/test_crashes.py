"""A service killed at any point goes on where it was: every effect once, every fact published."""

import asyncio
import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args
from uuid import UUID, uuid4

import pytest

from events.messaging.envelope import derive_fact_id
from events.runtime.crash import CrashPoint
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.facts import Bumped, RingWanted
from tests.runtime.toy.outside import Book
from tests.runtime.toy_process import ToyProcess


@dataclass
class Work:
    """Something for the toy to do, and all that must come of it."""

    bumps: dict[UUID, UUID] = field(default_factory=lambda: {uuid4(): uuid4() for _ in range(6)})
    rings: list[UUID] = field(default_factory=lambda: [uuid4() for _ in range(3)])

    async def tell(self, stage: Stage) -> None:
        """Publish it; every other fact twice."""
        bumps = [message(Bumped(order_id=order), fact_id) for order, fact_id in self.bumps.items()]
        rings = [message(RingWanted(order_id=order), uuid4()) for order in self.rings]
        await stage.publish(*bumps, *rings, *bumps[::2])

    async def assert_done(self, stage: Stage, toy: ToyProcess) -> None:
        """Exactly what would have come of it without any crash."""

        async def all_taken_in() -> bool:
            return await stage.size("inbox") >= len(self.bumps) + len(self.rings)

        # An empty queue alone says little: what was delivered may not be committed yet.
        await eventually(all_taken_in)
        await eventually(stage.drained)
        assert await stage.counts(list(self.bumps)) == dict.fromkeys(self.bumps, 1)
        assert await stage.size("inbox") == len(self.bumps) + len(self.rings)
        expected = {str(derive_fact_id(fact_id, "toy", 0)) for fact_id in self.bumps.values()}
        await eventually(lambda: set(stage.published(*self.bumps)) == expected)
        answers = await stage.rows("SELECT answer FROM tallies WHERE order_id = ANY(%(ids)s)", ids=self.rings)
        assert answers == [{"answer": "done"}] * len(self.rings)
        await eventually(lambda: len(set(stage.published(*self.rings, kind="answered"))) == len(self.rings))
        assert Book(toy.book).count("did") == {f"ring:{order}": 1 for order in self.rings}
        assert not await stage.dead_letters()


async def has_left(stage: Stage, point: CrashPoint, work: Work, toy: ToyProcess) -> None:
    """What a crash at this point leaves behind: that it was there indeed that it happened."""
    committed, outbox = await stage.size("inbox"), await stage.size("outbox")
    calls, did = await stage.size("calls"), sum(Book(toy.book).count("did").values())
    match point:
        case "before_commit":
            assert (committed, outbox, calls, did) == (0, 0, 0, 0)
        case "after_commit":
            assert committed
            assert outbox or calls
            assert did == 0
            assert not stage.received
        case "before_ack":
            assert committed
            # Committed, and the broker still has it.
            await eventually(stage.waiting_in_queue)
        case "after_publish":
            assert outbox
            await eventually(lambda: stage.received)
        case "after_forget":
            await eventually(lambda: stage.received)
            assert outbox < len(work.bumps) + len(work.rings)
        case "after_call":
            assert calls
            assert did


@pytest.mark.parametrize("point", get_args(CrashPoint))
async def test_killed_there_and_started_again(stage: Stage, tmp_path: Path, point: CrashPoint) -> None:
    toy, work = ToyProcess(stage, tmp_path), Work()
    await work.tell(stage)
    await toy.start(crash_at=point)
    assert await toy.exit_code() == -signal.SIGKILL
    await has_left(stage, point, work, toy)
    await toy.start()
    await work.assert_done(stage, toy)


@pytest.mark.parametrize("point", ["after_commit", "after_call"])
async def test_killed_there_and_taken_over_by_a_living_instance(
    stage: Stage, tmp_path: Path, point: CrashPoint
) -> None:
    toy, work = ToyProcess(stage, tmp_path), Work()
    await work.tell(stage)
    await toy.start(crash_at=point)
    assert await toy.exit_code() == -signal.SIGKILL
    stage.outside.book = Book(toy.book)
    await stage.start()
    await work.assert_done(stage, toy)


async def test_killed_at_any_moment_several_times_under_load(stage: Stage, tmp_path: Path) -> None:
    toy, work = (
        ToyProcess(stage, tmp_path, batch_size=5, prefetch=20, relay_in_flight=3),
        Work({uuid4(): uuid4() for _ in range(150)}, [uuid4() for _ in range(30)]),
    )
    await toy.start_ready()
    telling = asyncio.create_task(work.tell(stage))
    for published in (30, 90):
        await eventually(lambda published=published: len(stage.received) >= published)  # type: ignore[misc]
        await toy.kill()
        await toy.start()
    await telling
    await work.assert_done(stage, toy)


async def test_what_a_process_that_hangs_could_not_publish_another_does(stage: Stage, tmp_path: Path) -> None:
    proxy = await stage.proxy_broker()
    hung = ToyProcess(
        stage,
        tmp_path,
        broker_url=proxy.url(stage.broker_url),
        presumed_dead_after_seconds=1,
        heartbeat_seconds=0.3,
    )
    await hung.start_ready()
    order = uuid4()
    proxy.cut()
    await hung.bump(order)
    hung.send(signal.SIGSTOP)
    await stage.start()
    await eventually(lambda: stage.published(order))
    hung.send(signal.SIGCONT)
    proxy.restore()
    await eventually(stage.drained)
    await hung.bump(order)
    await eventually(lambda: len(set(stage.published(order))) == 2)


async def test_sigterm_ends_it_in_order_and_its_log_is_json(stage: Stage, tmp_path: Path) -> None:
    toy, work = ToyProcess(stage, tmp_path), Work()
    await toy.start_ready()
    await work.tell(stage)
    await eventually(lambda: stage.received)
    toy.send(signal.SIGTERM)
    assert await toy.exit_code() in (0, -signal.SIGTERM)  # uvicorn passes the signal on in the end
    lines = [json.loads(line) for line in toy.log.read_text().splitlines()]
    assert {"started", "stopped"} <= {line["event"] for line in lines}
    assert all({"event", "level", "timestamp", "process"} <= line.keys() for line in lines)
    await toy.start()
    await work.assert_done(stage, toy)
