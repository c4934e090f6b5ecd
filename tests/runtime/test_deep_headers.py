"""Headers nested too deep: one dead letter at once, and nothing else notices."""

from collections.abc import MutableMapping
from typing import Any
from uuid import UUID, uuid4

from events.messaging.lenient_pamqp import MAX_DEPTH
from events.service import EXCHANGE
from tests import raw_amqp
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, message
from tests.runtime.toy.facts import Bumped

Logged = list[MutableMapping[str, Any]]
# The headers are the first table.
AS_DEEP_AS_MAY_BE = MAX_DEPTH - 1
KINDS = ("F", "A", "FA")
TOO_DEEP = [(depth, kinds) for depth in (MAX_DEPTH, 300, 500, 5_000) for kinds in KINDS]


def bumped(depth: int, kinds: str, order_id: UUID) -> tuple[raw_amqp.RawProperties, bytes]:
    properties = raw_amqp.properties(
        [(b"deep", raw_amqp.deep(depth, kinds)), (b"x-mine", raw_amqp.long_string(b"kept"))],
        message_id=raw_amqp.short(str(uuid4()).encode()),
        message_type=raw_amqp.short(b"toy.bumped.v1"),
    )
    return properties, b'{"order_id": "%s"}' % str(order_id).encode()


async def publish_bumped(stage: Stage, depth: int, kinds: str, order_id: UUID) -> None:
    await raw_amqp.publish(stage.channel, EXCHANGE, "toy.bumped.v1", *bumped(depth, kinds, order_id))


async def test_they_are_a_dead_letter_at_once(stage: Stage, logged: Logged) -> None:
    orders = [uuid4() for _ in range(5 * (len(TOO_DEEP) + 1))]
    good = [message(Bumped(order_id=order), uuid4()) for order in orders]
    await stage.start()
    for number, (depth, kinds) in enumerate(TOO_DEEP):
        await stage.publish(*good[5 * number : 5 * number + 5])
        await publish_bumped(stage, depth, kinds, uuid4())
    await stage.publish(*good[5 * len(TOO_DEEP) :])
    await eventually(lambda: stage.dead_letters_are(len(TOO_DEEP)))
    await eventually(lambda: len(stage.published(*orders)) == len(orders))
    await eventually(stage.drained)
    for dead_letter in await stage.dead_letters():
        assert dead_letter.headers["dead_letter_reason"] == "headers_too_deep"
        assert (dead_letter.headers["dead_letter_attempts"], dead_letter.headers["x-mine"]) == (1, "kept")
    assert not [line for line in logged if line["event"] == "outage_began"]


async def test_up_to_the_bound_they_do_not_matter(stage: Stage) -> None:
    orders = {kinds: uuid4() for kinds in KINDS}
    await stage.start()
    for kinds, order in orders.items():
        await publish_bumped(stage, AS_DEEP_AS_MAY_BE, kinds, order)
    await eventually(lambda: len(stage.published(*orders.values())) == len(orders))
    await eventually(stage.drained)
    assert await stage.dead_letters_are(0)
