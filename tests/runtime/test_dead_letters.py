"""What cannot be read or handled goes to the dead-letter queue with the reason, and takes nothing along."""

import asyncio
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from aiormq.abc import ChannelFrame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from events.facts.base import Fact
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.facts import Bumped, Counted, Poisoned
from tests.runtime.toy.service import TOY

Logged = list[MutableMapping[str, Any]]


def raw(
    body: bytes, *, kind: str | None = "toy.bumped.v1", message_id: str | None = None
) -> aio_pika.Message:
    """A message that no encoder of ours would make."""
    return aio_pika.Message(
        body,
        message_id=message_id,
        type=kind,
        app_id="stranger",
        content_type="application/json",
        correlation_id="saga-7",
        timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        headers={"order_id": "17", "x-mine": "kept"},
        priority=3,
    )


def poison(how: str) -> aio_pika.Message:
    return message(Poisoned.model_validate({"order_id": uuid4(), "how": how}), uuid4())


GOOD_ID = str(uuid4())
BODY = b'{"order_id": "%s"}' % str(uuid4()).encode()
# What comes in, and the reason it gets.
UNUSABLE: list[tuple[str, aio_pika.Message, str]] = [
    ("decide raises", poison("decide"), "ArithmeticError"),
    ("decide finds a contradiction", poison("contradicts"), "contradicts"),
    ("the database refuses its state", poison("store"), "CheckViolation"),
    ("the database cannot hold its state", poison("too_long_for_the_index"), "ProgramLimitExceeded"),
    ("not JSON", raw(b"\xff\x00 not json", message_id=GOOD_ID), "bad_body"),
    ("empty", raw(b"", message_id=GOOD_ID), "bad_body"),
    ("another shape", raw(b'{"order_id": 7}', message_id=GOOD_ID), "bad_body"),
    ("unknown version", raw(BODY, kind="toy.bumped.v99", message_id=GOOD_ID), "unknown_version"),
    ("unknown fact", raw(BODY, kind="toy.dreamt.v1", message_id=GOOD_ID), "unknown_fact"),
    ("nonsense for a type", raw(BODY, kind="?", message_id=GOOD_ID), "unknown_fact"),
    ("message_id is no UUID", raw(BODY, message_id="7"), "no_fact_id"),
    (
        "nothing this service subscribes to",
        message(Counted(order_id=uuid4(), count=1), uuid4()),
        "not_subscribed",
    ),
]
# What no delay makes readable, or true, is a dead letter at once.
UNREADABLE = {"bad_body", "unknown_version", "unknown_fact", "no_fact_id", "not_subscribed", "contradicts"}


@pytest.mark.parametrize(("sent", "reason"), [pytest.param(*row[1:], id=row[0]) for row in UNUSABLE])
async def test_it_fails_alone_and_says_why(
    stage: Stage, logged: Logged, sent: aio_pika.Message, reason: str
) -> None:
    orders = [uuid4() for _ in range(6)]
    good = [message(Bumped(order_id=order), uuid4()) for order in orders]
    # In one batch with its neighbours: nobody consumes yet.
    await publish_to_queue(stage, *good[:3], sent, *good[3:])
    await stage.start()
    await eventually(lambda: len(stage.published(*orders)) == 6)
    await eventually(lambda: stage.waiting_in_queue(TOY.dead_letter_queue))
    await eventually(stage.drained)
    assert await stage.counts(orders) == dict.fromkeys(orders, 1)

    (dead_letter,) = await stage.dead_letters()
    assert dead_letter.headers["dead_letter_reason"] == reason
    assert dead_letter.headers["dead_letter_service"] == "toy"
    attempts = 1 if reason in UNREADABLE else 4
    assert dead_letter.headers["dead_letter_attempts"] == attempts
    since, at = (
        datetime.fromisoformat(str(dead_letter.headers[f"dead_letter_{name}"])) for name in ("first_at", "at")
    )
    assert since.tzinfo
    assert (at - since).total_seconds() >= (sum(stage.retry_delays_seconds) if attempts > 1 else 0)
    assert dead_letter.headers["dead_letter_detail"]
    assert_untouched(dead_letter, sent)
    assert [line["reason"] for line in logged if line["event"] == "dead_letter"] == [reason]
    assert await stage.size("inbox") == 6  # the poison left no trace of having been handled


def assert_untouched(dead_letter: AbstractIncomingMessage, sent: aio_pika.Message) -> None:
    """Body, properties and headers are those of the original; the reasons are added."""
    assert dead_letter.body == sent.body
    for name in ("message_id", "type", "app_id", "content_type", "correlation_id"):
        assert getattr(dead_letter, name) == getattr(sent, name), name
    assert sent.timestamp is not None
    assert dead_letter.timestamp == sent.timestamp.replace(microsecond=0)
    assert dead_letter.priority == sent.priority
    assert dead_letter.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    added = ("dead_letter_", "x-delivery-count")  # ours, and the broker's own
    kept = {name: value for name, value in dead_letter.headers.items() if not name.startswith(added)}
    assert kept == sent.headers


async def publish_to_queue(stage: Stage, *messages: aio_pika.Message) -> None:
    """Past the exchange, as its routing would not let these through."""
    for one in messages:
        await stage.channel.default_exchange.publish(one, TOY.queue)


async def test_headers_that_leave_no_room_for_more_are_cut(stage: Stage) -> None:
    """Else RabbitMQ would end the connection over every attempt to send them on."""
    await stage.start()
    sent = raw(b"not JSON", message_id=GOOD_ID)
    sent.headers["too_much"] = "x" * 130_000
    await stage.publish(sent)
    await eventually(lambda: stage.dead_letters_are(1))
    [dead_letter] = await stage.dead_letters()
    assert "too_much" not in dead_letter.headers
    assert (dead_letter.headers["headers_cut"], dead_letter.headers["x-mine"]) == (1, "kept")


async def test_several_in_one_batch_each_get_their_own_reason(stage: Stage) -> None:
    orders = [uuid4() for _ in range(20)]
    good = [message(Bumped(order_id=order), uuid4()) for order in orders]
    bad = [poison("decide"), poison("store"), raw(b"x", message_id=GOOD_ID), poison("decide")]
    await publish_to_queue(stage, bad[0], *good[:7], bad[1], bad[2], *good[7:], bad[3])
    await stage.start()
    await eventually(lambda: len(stage.published(*orders)) == 20)
    await eventually(lambda: stage.dead_letters_are(4))
    await eventually(stage.drained)
    dead_letters = await stage.dead_letters()
    assert sorted(str(one.headers["dead_letter_reason"]) for one in dead_letters) == [
        "ArithmeticError",
        "ArithmeticError",
        "CheckViolation",
        "bad_body",
    ]
    assert await stage.counts(orders) == dict.fromkeys(orders, 1)


async def test_a_fact_that_breaks_another_constraint_than_the_key_is_not_tried_for_ever(stage: Stage) -> None:
    first, second, third = uuid4(), uuid4(), uuid4()
    await stage.start()
    await stage.say(Bumped(order_id=first, label="mine"))
    await eventually(lambda: stage.published(first))
    await stage.say(Bumped(order_id=second, label="mine"), Bumped(order_id=third, label="other"))
    await eventually(lambda: stage.published(third))
    await eventually(lambda: stage.dead_letters_are(1))
    await eventually(stage.drained)
    (dead_letter,) = await stage.dead_letters()
    assert dead_letter.headers["dead_letter_reason"] == "UniqueViolation"
    assert "mine" not in str(dead_letter.headers["dead_letter_detail"]), (
        "what is in a row is not for everybody"
    )
    assert await stage.counts([first, second, third]) == {first: 1, third: 1}


async def test_a_version_that_nobody_knows_arrives_and_is_dead_lettered(stage: Stage) -> None:
    await stage.start()
    await stage.publish(raw(BODY, kind="toy.bumped.v99", message_id=GOOD_ID))
    await eventually(lambda: stage.waiting_in_queue(TOY.dead_letter_queue))
    (dead_letter,) = await stage.dead_letters()
    assert dead_letter.headers["dead_letter_reason"] == "unknown_version"


async def test_a_message_without_an_id_is_dead_lettered(stage: Stage) -> None:
    """Clients of other languages leave it out; aiormq never does, so this goes beneath it."""
    await stage.start()
    properties = Basic.Properties(message_type="toy.bumped.v1", content_type="application/json")
    frames: list[Any] = [
        Basic.Publish(exchange="facts", routing_key="toy.bumped.v1"),
        ContentHeader(body_size=len(BODY), properties=properties),
        ContentBody(BODY),
    ]
    async with await aio_pika.connect(stage.broker_url) as connection:
        channel: Any = await (await connection.channel(publisher_confirms=False)).get_underlay_channel()
        sent = asyncio.get_running_loop().create_future()
        await channel.write_queue.put(
            ChannelFrame.marshall(frames=frames, channel_number=channel.number, drain_future=sent)
        )
        await sent
    await eventually(lambda: stage.waiting_in_queue(TOY.dead_letter_queue))
    (dead_letter,) = await stage.dead_letters()
    assert dead_letter.headers["dead_letter_reason"] == "no_fact_id"
    assert dead_letter.body == BODY


async def test_a_type_that_contradicts_the_routing_key_is_not_believed(stage: Stage) -> None:
    """The broker lets a user publish by routing key: a fact may not pass for another one."""
    await stage.start()
    forged = message(Poisoned(order_id=uuid4(), how="decide"), uuid4())
    await stage.publish(forged, routing_key=Bumped.wire_name)
    await eventually(lambda: stage.waiting_in_queue(TOY.dead_letter_queue))
    (dead_letter,) = await stage.dead_letters()
    assert dead_letter.headers["dead_letter_reason"] == "forged_type"


@pytest.mark.parametrize("kind", [None, "toy.poisoned.v1"])
async def test_a_copy_to_another_address_is_still_what_its_first_key_says(
    stage: Stage, kind: str | None
) -> None:
    """RabbitMQ before 4 sends copies to the keys in `CC`, and does not ask who may write those."""
    await stage.start()
    sent = message(Poisoned(order_id=uuid4(), how="decide"), uuid4())
    sent.type = kind
    sent.headers["CC"] = ["toy.poisoned.v1"]
    await stage.publish(sent, routing_key="order.created.v2")
    await eventually(lambda: stage.waiting_in_queue(TOY.dead_letter_queue))
    (dead_letter,) = await stage.dead_letters()
    assert dead_letter.headers["dead_letter_reason"] == ("forged_type" if kind else "bad_body")
    assert dead_letter.headers["dead_letter_routing_key"] == "order.created.v2"


async def test_a_message_without_a_type_is_what_its_routing_key_says(stage: Stage) -> None:
    await stage.start()
    order = uuid4()
    plain = raw(b'{"order_id": "%s", "by": 4}' % str(order).encode(), kind=None, message_id=str(uuid4()))
    await stage.publish(plain, routing_key=Bumped.wire_name)
    await eventually(lambda: stage.published(order))
    assert await stage.count_of(order) == 4


async def test_a_message_that_asks_for_a_reply_gets_none_and_does_no_harm(stage: Stage) -> None:
    await stage.start()
    order, after = uuid4(), uuid4()
    asking = message(Bumped(order_id=order), uuid4())
    asking.reply_to = "no-such-queue"
    await stage.publish(asking)
    await stage.say(Bumped(order_id=after))
    await eventually(lambda: stage.published(order) and stage.published(after))
    await eventually(stage.drained)


async def test_while_dead_letters_cannot_be_sent_neighbours_go_on_and_nothing_is_lost(
    stage: Stage, logged: Logged, caplog: pytest.LogCaptureFixture
) -> None:
    await stage.unbind_dead_letters()
    await stage.start()
    orders = [uuid4() for _ in range(4)]
    bad = poison("decide")
    await stage.say(Bumped(order_id=orders[0]))
    await stage.publish(bad)
    await stage.say(Bumped(order_id=orders[1]))
    await eventually(lambda: len(stage.published(*orders)) == 2)
    await eventually(lambda: "failures_not_sent" in [line["event"] for line in logged])
    await stage.say(Bumped(order_id=orders[2]))
    await eventually(lambda: len(stage.published(*orders)) == 3)
    await stage.bind_dead_letters()
    await eventually(lambda: stage.waiting_in_queue(TOY.dead_letter_queue))
    await stage.say(Bumped(order_id=orders[3]))
    await eventually(lambda: len(stage.published(*orders)) == 4)
    await eventually(stage.drained)
    assert await stage.counts(orders) == dict.fromkeys(orders, 1)
    dead_letters = await stage.dead_letters()
    assert {dead_letter.message_id for dead_letter in dead_letters} == {bad.message_id}
    # The broker closes a channel that acknowledges what was given back.
    assert "closed channel" not in caplog.text


async def test_a_poison_fact_that_is_delivered_again_is_tried_again(stage: Stage) -> None:
    """Its first failure left no inbox row behind that would make a retry count as a duplicate."""
    await stage.start()
    order, fact_id = uuid4(), uuid4()
    first: Fact = Poisoned(order_id=order, how="store")
    await stage.say(first, fact_id=fact_id)
    await eventually(lambda: stage.waiting_in_queue(TOY.dead_letter_queue))
    await stage.say(Bumped(order_id=order), fact_id=fact_id)
    await eventually(lambda: stage.published(order))
    assert await stage.count_of(order) == 1
    assert UUID((await stage.dead_letters())[0].message_id or "") == fact_id
