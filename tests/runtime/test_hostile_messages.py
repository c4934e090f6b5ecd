"""Whatever a message has for properties and headers: it is handled or one dead letter, and alone."""

import json
from collections.abc import Iterator, MutableMapping
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import AMQPError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from events.runtime.service_runtime import ServiceRuntime
from events.service import EXCHANGE
from events.telemetry import tracing
from tests import raw_amqp
from tests.hostile_messages import Hostile, hostile, texts
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.facts import Bumped

Logged = list[MutableMapping[str, Any]]
# Each example is a run of messages. No shrinking: the broker is a slow oracle.
MESSAGES, EXAMPLES = 12, 5
# Of what is otherwise valid, or says that it is of another type, or cannot be handled.
REASONS = {"headers_too_deep", "forged_type", "wrong_content_type", "ArithmeticError"}
UNHEARD_OF = ("outage_began", "message_broke_reading", "copy_without_properties")
generated = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(params=["untraced", "traced"])
def traced(request: pytest.FixtureRequest) -> Iterator[None]:
    """With and without the instrumentation between aio-pika and the consumer."""
    if request.param == "traced":
        tracing.start_tracing("toy", InMemorySpanExporter())
    yield
    tracing.stop_tracing()


@pytest.fixture
async def toy(stage: Stage, traced: None) -> ServiceRuntime:
    """Running, without the stream: RabbitMQ 3.10 ends a publisher's connection over decimals for that."""
    await stage.unbind_stream()
    return await stage.start()


@st.composite
def runs(draw: st.DrawFn) -> list[tuple[Hostile, str, bytes | None]]:
    """Messages, each with the fact that it is and what it says of its type, if anything."""
    kinds = st.sampled_from(["toy.bumped.v1", "toy.bumped.v1", "toy.poisoned.v1"])
    type_name = st.none() | st.just(b"") | texts()
    found = draw(st.lists(st.tuples(hostile(), kinds, type_name), min_size=MESSAGES, max_size=MESSAGES))
    return [(one, kind, kind.encode() if draw(st.booleans()) else word) for one, kind, word in found]


async def publish(stage: Stage, one: Hostile, kind: str, type_name: bytes | None, order_id: UUID) -> None:
    known = {} if type_name is None else {"message_type": raw_amqp.short(type_name)}
    how = b', "how": "decide"' if kind == "toy.poisoned.v1" else b""
    body = b'{"order_id": "%s"%s}' % (str(order_id).encode(), how)
    await raw_amqp.publish(stage.channel, EXCHANGE, kind, one.properties(uuid4(), **known), body)


async def dead_letters_in(stage: Stage, count: int) -> list[AbstractIncomingMessage]:
    """So many dead letters, and no more."""
    await eventually(lambda: stage.dead_letters_are(count), why=f"{count} dead letters")
    return await stage.dead_letters()


async def counted(stage: Stage, orders: list[UUID]) -> bool:
    return await stage.counts(orders) == dict.fromkeys(orders, 1)


@generated
@given(sent=runs())
async def test_each_is_handled_or_one_dead_letter(
    toy: ServiceRuntime, stage: Stage, logged: Logged, sent: list[tuple[Hostile, str, bytes | None]]
) -> None:
    orders = [uuid4() for _ in sent]
    good = [uuid4() for _ in range(len(sent) + 1)]
    await stage.publish(message(Bumped(order_id=good[0]), uuid4()))
    for order, (one, kind, type_name), after in zip(orders, sent, good[1:], strict=True):
        await publish(stage, one, kind, type_name, order)
        await stage.publish(message(Bumped(order_id=after), uuid4()))
    await eventually(lambda: counted(stage, good), why="its neighbours are handled")
    await eventually(stage.drained, why="what comes again has come")
    await eventually(lambda: all_retried(stage))
    handled = await stage.counts(orders)
    dead_letters = await dead_letters_in(stage, len(orders) - len(handled))
    assert {json.loads(dead_letter.body)["order_id"] for dead_letter in dead_letters} == {
        str(order) for order in orders if order not in handled
    }
    assert {dead_letter.headers["dead_letter_reason"] for dead_letter in dead_letters} <= REASONS
    assert (await toy.ready())["consumer"]
    assert [line for line in logged if line["event"] in UNHEARD_OF] == []


async def all_retried(stage: Stage) -> bool:
    return not any(await stage.waiting_to_retry()) and await stage.drained()


REFUSED: dict[str, dict[str, Any]] = {
    "an expiration that is no number": {"expiration": raw_amqp.short(b"soon")},
    "somebody else": {"user_id": raw_amqp.short(b"root")},
    "copies to no array": {"headers": [(b"CC", b"V")]},
    "a float that is no number": {"headers": [(b"f", b"f\x7f\xc0\0\0")]},
    "an infinite double": {"headers": [(b"d", b"d\x7f\xf0" + b"\0" * 6)]},
    "a type that AMQP has not": {"headers": [(b"z", b"z")]},
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_no_message_here_can_have_for_the_broker_refuses_it(stage: Stage, what: str) -> None:
    """Should a release let one of these pass, aio-pika must be looked at again: it raises on some."""
    properties = raw_amqp.properties(**REFUSED[what])
    async with await aio_pika.connect(stage.broker_url) as connection:
        channel = await connection.channel()
        with pytest.raises(AMQPError):
            await raw_amqp.publish(channel, EXCHANGE, "toy.bumped.v1", properties, b"{}")
    assert await stage.waiting_in_queue() == 0


@pytest.mark.parametrize("mode", [b"\0", b"\3", b"\xff"])
async def test_a_delivery_mode_that_amqp_has_not_is_refused_or_counts_as_persistent(
    toy: ServiceRuntime, stage: Stage, mode: bytes
) -> None:
    """RabbitMQ 3 refuses it, 4 passes it on."""
    order, fact_id = uuid4(), raw_amqp.short(str(uuid4()).encode())
    properties = raw_amqp.properties(message_id=fact_id, delivery_mode=mode)
    body = b'{"order_id": "%s"}' % str(order).encode()
    async with await aio_pika.connect(stage.broker_url) as connection:
        channel = await connection.channel()
        try:
            await raw_amqp.publish(channel, EXCHANGE, "toy.bumped.v1", properties, body)
        except AMQPError:
            return
    await eventually(lambda: counted(stage, [order]))
    await eventually(stage.drained)
