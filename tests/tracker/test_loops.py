"""A loop of the tracker that ends ends it; one message, dead letter or saga in trouble stops no other."""

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientError, ClientSession

from compose.local.ports import free_port
from events.runtime.loops import EXIT_CODE
from saga_tracker import metrics
from saga_tracker.consistency.rules import Difference, differences
from saga_tracker.consistency.snapshot import Books
from saga_tracker.dead_letters import ingest
from saga_tracker.dead_letters.dead_letter import bare_dead_letter
from saga_tracker.reconciliation import reconciler
from saga_tracker.scheduler import scheduler as scheduler
from tests.runtime.eventually import eventually
from tests.tracker.dead_letters import give_up, in_queue, unusable
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.others import others_answering
from tests.tracker.test_process import run_modules
from tests.tracker.test_scheduler import impatient, just_now, states
from tests.tracker.watch import Watch, is_ready

Logged = list[MutableMapping[str, Any]]

LOOPS = {
    "reader": "saga_tracker.reading.reader:Reader.run",
    "lag": "saga_tracker.reading.reader:Reader.measure_lag",
    "publisher": "saga_tracker.scheduler.redrive:Publisher.run",
    "deadline_scheduler": "saga_tracker.scheduler.scheduler:DeadlineScheduler.run",
    "dead_letters": "saga_tracker.dead_letters.ingest:Ingest.run",
    "cases": "saga_tracker.dead_letters.ingest:Ingest.close_cases",
    "reconciler": "saga_tracker.reconciliation.reconciler:Reconciler.run",
    "watcher": "saga_tracker.scheduler.watcher:Watcher.run",
    "retention": "saga_tracker.retention.retention:Retention.run",
}
# What they do again and again, and does not expect to go wrong like that.
WITHIN = {
    "reader": "saga_tracker.reading.reader:Reader._note",
    "deadline_scheduler": "saga_tracker.scheduler.scheduler:DeadlineScheduler._tick",
    "dead_letters": "saga_tracker.dead_letters.ingest:Ingest._save",
    "reconciler": "saga_tracker.reconciliation.reconciler:Reconciler._round",
    "watcher": "saga_tracker.scheduler.watcher:Watcher._look",
}
PAYMENTS = "payment.dead-letters"


@asynccontextmanager
async def ready_process(watch: Watch, broken: str, when: Path) -> AsyncIterator["subprocess.Popen[str]"]:
    port = free_port()
    process = run_modules(
        watch,
        "tests.breaking",
        "saga_tracker",
        MURMURATION_HTTP_PORT=str(port),
        MURMURATION_RECONCILIATION_INTERVAL_SECONDS="0.2",
        BREAK=broken,
        BREAK_WHEN=str(when),
    )

    async def serves() -> bool:
        try:
            async with ClientSession() as http, http.get(f"http://127.0.0.1:{port}/readyz") as answer:
                return answer.status == 200
        except ClientError:
            return False

    try:
        await eventually(serves)
        yield process
    finally:
        process.kill()
        process.communicate()


async def end_of(process: "subprocess.Popen[str]") -> tuple[int, list[dict[str, Any]]]:
    """Its exit code, and what it logged about loops that ended."""
    _, log = await asyncio.to_thread(process.communicate, timeout=20)
    lines = [json.loads(line) for line in log.splitlines()]
    return process.returncode, [line for line in lines if line["event"] == "loop_ended"]


@pytest.mark.parametrize("name", LOOPS)
async def test_a_loop_that_raises_ends_the_tracker(watch: Watch, tmp_path: Path, name: str) -> None:
    when = tmp_path / "break"
    async with ready_process(watch, f"{LOOPS[name]}=raises", when) as process:
        when.touch()
        code, ended = await end_of(process)
    assert code == EXIT_CODE
    assert [line["loop"] for line in ended] == [name]
    assert "KeyError: 'broken on purpose'" in ended[0]["exception"]


@pytest.mark.parametrize("name", WITHIN)
async def test_a_mistake_within_one_is_not_tried_again_in_silence(
    watch: Watch, tmp_path: Path, name: str
) -> None:
    when = tmp_path / "break"
    async with ready_process(watch, f"{WITHIN[name]}=breaks", when) as process:
        if name == "dead_letters":
            when.touch()
        await give_up(watch, unusable())
        if name != "dead_letters":
            await eventually(lambda: is_taken_in(watch))
            when.touch()
        await watch.say(*envelopes("created", uuid4()))
        code, ended = await end_of(process)
    assert code == EXIT_CODE
    assert [line["loop"] for line in ended] == [name]
    # Whatever it had not acknowledged is for the next.
    assert await in_queue(watch, PAYMENTS) == (1 if name == "dead_letters" else 0)


async def is_taken_in(watch: Watch) -> bool:
    """Whether the dead letter is stored, and no more in its queue."""
    return bool(await watch.rows("SELECT FROM dead_letters")) and await in_queue(watch, PAYMENTS) == 0


async def test_a_mistake_after_the_commit_is_no_facts_fault(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def miscount(*_: Any) -> None:
        raise KeyError("no such counter")

    tracker = await watch.start()
    monkeypatch.setattr(metrics, "recorded", miscount)
    await watch.say(*envelopes("created", uuid4()))
    await eventually(lambda: tracker.loops.failed)
    assert await watch.facts_seen() == 1
    assert await watch.rows("SELECT FROM unreadable_messages") == []


async def test_a_schema_that_is_not_migrated_yet_is_no_facts_fault(watch: Watch, logged: Logged) -> None:
    tracker = await watch.start()
    await watch.rows("ALTER TABLE saga_facts RENAME COLUMN dated TO not_yet")
    facts = [fact for _ in range(3) for fact in envelopes("created", uuid4())]
    await watch.say(*facts)
    await eventually(lambda: named(logged, "reader_failed"))
    await watch.rows("ALTER TABLE saga_facts RENAME COLUMN not_yet TO dated")
    await watch.sees_facts(len(facts))
    await eventually(lambda: is_ready(tracker))
    assert await watch.rows("SELECT FROM unreadable_messages") == []


async def test_one_saga_in_trouble_does_not_end_the_deadlines_of_others(
    watch: Watch, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    guilty, innocent = uuid4(), [uuid4() for _ in range(5)]
    sick = True

    def stumbling(late: Any, *others: Any) -> Any:
        if late.order_id == guilty and sick:
            raise KeyError(late.order_id)
        return traced(late, *others)

    traced = scheduler._traced
    monkeypatch.setattr(scheduler, "_traced", stumbling)
    settings = impatient(payment=0.3) | {"redrive_grace_seconds": 3_600, "deadline_revisit_seconds": 0.2}
    tracker = await watch.start(**settings)
    await watch.say(*(fact for order in (guilty, *innocent) for fact in just_now("created reserved", order)))
    for order in innocent:
        await states(watch, order, "saga.redriven.v1")
    await eventually(lambda: len(named(logged, "deadline_not_kept")) >= 3)
    aside = named(logged, "deadline_not_kept")
    assert {line["order_id"] for line in aside} == {str(guilty)}
    assert [line["times"] for line in aside[:3]] == [1, 2, 3]
    assert all(tracker.loops.running.values())
    sick = False
    await states(watch, guilty, "saga.redriven.v1")


async def test_trouble_with_every_saga_ends_the_tracker(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: Any) -> Any:
        raise KeyError("a mistake in the program")

    monkeypatch.setattr(scheduler, "_traced", stumble)
    # The tracebacks of all of them take their time within the transaction, which the lease bounds.
    alone = {"deadline_batch_size": 4, "lease_seconds": 30.0}
    tracker = await watch.start(**impatient(payment=0.3) | alone)
    await watch.say(*(fact for _ in range(8) for fact in just_now("created reserved", uuid4())))
    await eventually(lambda: tracker.loops.failed)


async def test_one_letter_in_trouble_stays_and_holds_up_no_other(
    watch: Watch, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: Any) -> Any:
        raise RecursionError("as deep as it gets")

    monkeypatch.setattr(ingest, "read_dead_letter", unreadable)
    monkeypatch.setattr(
        ingest,
        "bare_dead_letter",
        lambda delivered, *more: (
            unreadable() if b"guilty" in delivered.body else bare_dead_letter(delivered, *more)
        ),
    )
    before = [unusable() for _ in range(3)]
    await give_up(watch, *before, unusable(body=b"guilty"), *(unusable() for _ in range(3)))
    tracker = await watch.start()
    await stored(watch, 6)
    await give_up(watch, unusable())
    await stored(watch, 7)
    assert len(named(logged, "dead_letter_set_aside")) == 1
    assert all(tracker.loops.running.values())
    await watch.stop(tracker)
    await eventually(lambda: waiting(watch, 1))
    monkeypatch.undo()
    await watch.start()
    await stored(watch, 8)


async def test_one_order_in_trouble_does_not_end_the_comparisons_of_others(
    watch: Watch, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    guilty, foreign, wrong = uuid4(), uuid4(), uuid4()

    def stumbling(order_id: UUID, book: Books) -> Sequence[Difference]:
        if order_id == guilty:
            raise KeyError(order_id)
        return list(differences(order_id, book))

    monkeypatch.setattr(reconciler, "differences", stumbling)
    with others_answering() as others:
        others.completed(guilty, foreign, wrong)
        others.states["payment"][wrong]["status"] = "declined"
        tracker = await watch.begin(**others.settings())
        facts = [fact for order in (guilty, foreign, wrong) for fact in envelopes(PATHS["completed"], order)]
        await watch.say_at_once(facts)
        await watch.sees_facts(len(facts))
        await watch.rows("UPDATE sagas SET state = 'OF_ANOTHER_VERSION' WHERE order_id = %(id)s", id=foreign)
        await eventually(lambda: differs(watch, wrong))
        await eventually(lambda: named(logged, "order_not_compared"))
        await eventually(lambda: named(logged, "saga_not_understood"))
        assert all(tracker.loops.running.values())
    waiting = await watch.rows("SELECT order_id FROM comparisons")
    assert {guilty, foreign} <= {row["order_id"] for row in waiting}


async def differs(watch: Watch, order_id: UUID) -> bool:
    return bool(await watch.rows("SELECT FROM differences WHERE order_id = %(id)s", id=order_id))


async def stored(watch: Watch, count: int) -> None:
    async def enough() -> bool:
        rows = await watch.rows("SELECT count(*) AS dead_letters FROM dead_letters")
        return bool(rows[0]["dead_letters"] == count)

    await eventually(enough, why=f"{count} letters are stored")


async def waiting(watch: Watch, count: int) -> bool:
    return await in_queue(watch, PAYMENTS) == count


def named(logged: Logged, event: str) -> Logged:
    return [line for line in logged if line["event"] == event]


async def test_a_stop_does_not_wait_for_what_the_broker_still_has_to_answer(watch: Watch) -> None:
    """An empty stream says nothing about its end, for as long as one listens."""
    patient = {"stream_answer_seconds": 100, "connect_timeout_seconds": 100, "stop_grace_seconds": 100}
    tracker = await watch.start(lag_probe_seconds=0.01, **patient)
    began = time.monotonic()
    await watch.stop(tracker)
    assert time.monotonic() - began < 30
    assert not any(tracker.loops.running.values())
