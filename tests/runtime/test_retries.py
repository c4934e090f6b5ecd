"""A fact that fails comes again after growing delays, holds up nobody meanwhile, and has its effect once."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import pamqp.encode
import pytest

from events.messaging.retries import MAX_ATTEMPTS
from events.service import REDRIVE_EXCHANGE
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message, new_stage
from tests.runtime.toy.facts import Bumped, Poisoned
from tests.runtime.toy.service import TOY
from tests.runtime.toy_process import ToyProcess
from tests.servers import PrivateServers, Servers, private_servers

Logged = list[MutableMapping[str, Any]]
FOR_EVER = (600.0, 600.0, 600.0)


@pytest.fixture
async def slow(servers: Servers) -> AsyncIterator[Stage]:
    """A stage on which nothing that failed comes back during a test."""
    async with new_stage(servers, FOR_EVER) as stage:
        yield stage


def bump(order: UUID, fact_id: UUID | None = None) -> aio_pika.Message:
    return message(Bumped(order_id=order), fact_id or uuid4())


def poison(order: UUID | None = None) -> aio_pika.Message:
    return message(Poisoned(order_id=order or uuid4(), how="decide"), uuid4())


async def the_dead_letter(stage: Stage) -> aio_pika.abc.AbstractIncomingMessage:
    await eventually(lambda: stage.waiting_in_queue(TOY.dead_letter_queue))
    (dead_letter,) = await stage.dead_letters()
    return dead_letter


async def has_one_effect(stage: Stage, order: UUID) -> None:
    await eventually(lambda: stage.published(order))
    await eventually(stage.drained)
    assert await stage.count_of(order) == 1
    assert await stage.size("inbox") == 1
    assert len(set(stage.published(order))) == 1
    assert not await stage.dead_letters()


async def test_facts_behind_a_poison_one_pass_at_once(slow: Stage) -> None:
    orders = [uuid4() for _ in range(20)]
    await slow.publish(poison(), *(bump(order) for order in orders[:10]), poison())
    await slow.start()
    await slow.publish(*(bump(order) for order in orders[10:]))
    await eventually(lambda: len(slow.published(*orders)) == 20)
    await eventually(slow.drained)
    assert await slow.waiting_to_retry() == [2, 0, 0]
    assert not await slow.dead_letters()


async def test_what_cannot_be_read_does_not_come_again(slow: Stage) -> None:
    await slow.start()
    await slow.publish(aio_pika.Message(b"?", message_id=str(uuid4()), type=Bumped.wire_name))
    dead_letter = await the_dead_letter(slow)
    assert dead_letter.headers["dead_letter_attempts"] == 1
    assert dead_letter.headers["dead_letter_first_at"] == dead_letter.headers["dead_letter_at"]
    assert await slow.waiting_to_retry() == [0, 0, 0]


@pytest.mark.parametrize("failures", range(1, MAX_ATTEMPTS))
async def test_what_fails_for_a_while_succeeds_in_the_end_and_once(
    stage: Stage, logged: Logged, failures: int
) -> None:
    await stage.fail_first(failures)
    await stage.start()
    order = uuid4()
    await stage.publish(bump(order))
    await has_one_effect(stage, order)
    again = [line for line in logged if line["event"] == "retry_later"]
    assert [(line["attempts"], line["through"], line["reason"]) for line in again] == [
        (attempt, f"retry.{attempt}", "CheckViolation") for attempt in range(1, failures + 1)
    ]
    assert not [line for line in logged if line["event"] == "not_handled"]


async def test_a_fact_that_comes_back_and_its_duplicate_count_once(stage: Stage) -> None:
    await stage.fail_first(2)
    await stage.start()
    order, fact_id = uuid4(), uuid4()
    await stage.publish(bump(order, fact_id), bump(order, fact_id))
    await has_one_effect(stage, order)


async def test_killed_before_the_acknowledgement_it_counts_once(servers: Servers, tmp_path: Path) -> None:
    async with new_stage(servers, (1.0, 1.0, 1.0)) as stage:
        await stage.fail_first(1)
        order = uuid4()
        await stage.publish(bump(order))
        toy = ToyProcess(stage, tmp_path)
        await toy.start(crash_at="before_ack")
        assert await toy.exit_code() == -signal.SIGKILL
        # The original is still in the queue, and a copy on its way back: two in all.
        await eventually(lambda: stage.waiting_in_queue_is(2))
        assert await stage.size("inbox") == 0
        await toy.start()
        await has_one_effect(stage, order)


async def test_what_waits_survives_the_broker(servers: Servers) -> None:
    if not isinstance(servers, PrivateServers):
        pytest.skip("a broker in a container is not ours to kill")
    # Its own, for the session's has by now so many queues that it takes long to start.
    async with private_rig() as own, new_stage(own, (3.0, 3.0, 3.0)) as stage:
        await stage.fail_first(1)
        order = uuid4()
        await stage.start()
        await stage.publish(bump(order))
        await eventually(lambda: waits(stage))
        await asyncio.to_thread(own.rig.kill, "rabbitmq")
        await asyncio.to_thread(own.rig.start, "rabbitmq")
        await eventually(lambda: counted(stage, order))
        await eventually(lambda: settled(stage))
        assert await stage.size("inbox") == 1


@asynccontextmanager
async def private_rig() -> AsyncIterator[PrivateServers]:
    servers = private_servers()
    yield await asyncio.to_thread(servers.__enter__)
    await asyncio.to_thread(servers.__exit__, None, None, None)


async def waits(stage: Stage) -> bool:
    return await stage.waiting_to_retry() == [1, 0, 0]


async def settled(stage: Stage) -> bool:
    return await stage.drained() and await stage.waiting_to_retry() == [0, 0, 0]


async def counted(stage: Stage, order: UUID) -> bool:
    return await stage.count_of(order) == 1


async def test_while_nothing_can_be_kept_for_later_it_stays_in_the_queue(
    stage: Stage, logged: Logged
) -> None:
    retrying = await stage.channel.get_queue("retry.1", ensure=False)
    await retrying.unbind("retry.1", "#")
    await stage.fail_first(3)
    await stage.start()
    order = uuid4()
    await stage.publish(bump(order))
    await has_one_effect(stage, order)
    assert [line["event"] for line in logged].count("failures_not_sent") == 3


async def test_a_message_without_a_type_is_still_known_when_it_comes_back(stage: Stage) -> None:
    await stage.fail_first(2)
    await stage.start()
    order = uuid4()
    untyped = bump(order)
    untyped.type = None
    await stage.publish(untyped, routing_key=Bumped.wire_name)
    await has_one_effect(stage, order)


@pytest.mark.parametrize("header", ["retry_routing_key", "dead_letter_routing_key"])
async def test_coming_back_does_not_make_a_forged_type_true(stage: Stage, header: str) -> None:
    """What the tracker replays, or came back before: it is still what it was published as."""
    await stage.start()
    forged = poison()
    forged.headers[header] = Bumped.wire_name
    redrive = await stage.channel.get_exchange(REDRIVE_EXCHANGE, ensure=False)
    await redrive.publish(forged, TOY.name)
    dead_letter = await the_dead_letter(stage)
    assert dead_letter.headers["dead_letter_reason"] == "forged_type"
    assert dead_letter.headers["dead_letter_routing_key"] == Bumped.wire_name


async def test_headers_of_a_publisher_are_not_taken_for_ours(stage: Stage) -> None:
    await stage.start()
    forged, impatient = poison(), poison()
    forged.headers["retry_routing_key"] = Poisoned.wire_name
    await stage.publish(forged, routing_key=Bumped.wire_name)
    assert (await the_dead_letter(stage)).headers["dead_letter_reason"] == "forged_type"
    impatient.headers |= {"retry_attempts": 99, "retry_first_at": "1999-01-01T00:00:00+00:00"}
    await stage.publish(impatient)
    dead_letter = await the_dead_letter(stage)
    assert dead_letter.headers["dead_letter_attempts"] == MAX_ATTEMPTS
    assert str(dead_letter.headers["dead_letter_first_at"]) > "2020"


async def test_addresses_and_histories_that_a_publisher_wrote_lead_nowhere(stage: Stage) -> None:
    """RabbitMQ sends copies as `CC` says, and holds for ever what seems to go round in circles."""
    stray = await stage.channel.declare_queue("stray.facts")
    await stray.bind(REDRIVE_EXCHANGE, "stray")
    await stage.start()
    sent = poison()
    circle: Any = {
        "queue": TOY.queue,
        "reason": "expired",
        "count": 1,
        "exchange": "facts",
        "routing-keys": ["x"],
    }
    sent.headers |= {"CC": ["stray"], "x-death": [circle], "mine": "kept"}
    await stage.publish(sent)
    dead_letter = await the_dead_letter(stage)
    assert dead_letter.headers["dead_letter_attempts"] == MAX_ATTEMPTS
    assert dead_letter.headers["mine"] == "kept"
    assert not {"CC", "x-death"} & dead_letter.headers.keys()
    assert await stage.waiting_to_retry() == [0, 0, 0]
    assert await stage.waiting_in_queue("stray.facts") == 0


@pytest.fixture
def latin_1(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call to the end of the test, strings leave this process as no UTF-8."""

    def short(value: str) -> bytes:
        return bytes([len(value)]) + value.encode("latin-1")

    def long(value: str) -> bytes:
        return len(value).to_bytes(4, "big") + value.encode("latin-1")

    def begin() -> None:
        monkeypatch.setattr(pamqp.encode, "short_string", short)
        monkeypatch.setitem(pamqp.encode.METHODS, "shortstr", short)
        monkeypatch.setattr(pamqp.encode, "long_string", long)

    return begin


async def test_what_the_library_reads_and_cannot_write_becomes_a_dead_letter_too(
    servers: Servers, tmp_path: Path, latin_1: Callable[[], None]
) -> None:
    async with new_stage(servers) as stage:
        await ToyProcess(stage, tmp_path).start_ready()
        unreadable, failing = poison(), poison()
        unreadable.body = b"?"
        for odd in (unreadable, failing):
            odd.app_id = odd.correlation_id = "é" * 255
            odd.headers |= {"latin": "é", "nested": {"latin": ["é"]}, "é" * 30: 1.5}
        latin_1()
        await stage.publish(unreadable, failing)
        await eventually(lambda: stage.dead_letters_are(2))
        dead_letters = {dead_letter.body: dead_letter.headers for dead_letter in await stage.dead_letters()}
        assert dead_letters[unreadable.body]["dead_letter_reason"] == "bad_body"
        assert dead_letters[failing.body]["dead_letter_reason"] == "ArithmeticError"
        assert {headers["latin"] for headers in dead_letters.values()} == {repr(b"\xe9")}
