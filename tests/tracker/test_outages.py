"""Who is down is not late, as the running tracker sees it: by its queue, its readiness, and its answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from aiohttp import web

from events.service import REDRIVE_EXCHANGE
from saga_tracker.service import Tracker
from tests.metrics import Numbers
from tests.runtime.eventually import eventually
from tests.servers import serving
from tests.tracker.facts import envelopes
from tests.tracker.test_scheduler import impatient, just_now, published_by_trackers, stands, states
from tests.tracker.watch import FIVE, Watch, get

LATE = ("saga.redriven.v1", "saga.timed_out.v2")


def patient(**changes: Any) -> dict[str, Any]:
    """Short deadlines for payment, and patience with all."""
    return impatient(payment=0.6) | {
        "service_patience_seconds": {},
        "service_probe_seconds": 0.1,
        "service_unready_seconds": 0.3,
        "service_settled_seconds": 1.0,
        "deadline_revisit_seconds": 0.3,
        **changes,
    }


async def consume_all(watch: Watch) -> dict[str, AbstractQueue]:
    """A consumer for every service, that takes what comes and answers nothing."""
    queues = {name: await watch.channel.declare_queue(f"{name}.facts") for name in FIVE}
    for queue in queues.values():
        await queue.bind(REDRIVE_EXCHANGE, routing_key=queue.name.partition(".")[0])
        await queue.consume(take, consumer_tag=queue.name)
    return queues


async def take(message: AbstractIncomingMessage) -> None:
    """And say nothing of it."""
    await message.ack()


async def is_down(tracker: Tracker, service: str, why: str) -> bool:
    outage = tracker.availability.outage_of(service)
    return outage is not None and why in outage.why


async def is_up(tracker: Tracker, service: str) -> bool:
    """Whether it looks well, be it down or not."""
    outage = tracker.availability.outage_of(service)
    return outage is None or outage.up_since is not None


async def works(tracker: Tracker, service: str) -> bool:
    return tracker.availability.outage_of(service) is None


async def past_deadlines(watch: Watch) -> None:
    """Longer than all that a service had before it would have been given up: nothing may have come of it."""
    await asyncio.sleep(2.5)


@asynccontextmanager
async def readiness(answer: dict[str, Any]) -> AsyncIterator[str]:
    """A service's /readyz, that says what is in `answer`; its address."""

    async def say(_: web.Request) -> web.Response:
        return web.json_response(answer["body"], status=answer["status"])

    app = web.Application()
    app.router.add_get("/readyz", say)
    async with serving(app) as url:
        yield url


async def keep_answering(watch: Watch) -> UUID:
    """Payment answers one who came later."""
    order = uuid4()
    await watch.say(*envelopes("created reserved captured", order))
    await eventually(partial(stands, watch, order, "PENDING_SHIPMENT", "fulfillment"))
    return order


async def test_while_nobody_consumes_its_queue_its_orders_are_not_late_and_then_they_have_all_their_time(
    watch: Watch,
) -> None:
    queues = await consume_all(watch)
    tracker = await watch.start(**patient())
    await eventually(partial(works, tracker, "payment"))
    await queues["payment"].cancel("payment.facts")
    await eventually(partial(is_down, tracker, "payment", "nobody consumes its queue"))
    order = uuid4()
    await watch.say(*just_now("created reserved", order))
    await eventually(partial(stands, watch, order, "PENDING_PAYMENT", "payment"))
    await past_deadlines(watch)
    assert not await published_by_trackers(watch, order)
    assert await watch.rows("SELECT FROM outbox") == []
    (wait,) = (await get(watch.app(tracker), f"/sagas/{order}")).json()["waits"]
    assert wait["service_down"]["since"] < wait["service_down"]["stands_still_until"]
    assert "its deadline stands still until" in (await get(watch.app(tracker), f"/ui/sagas/{order}")).text
    numbers = Numbers((await get(watch.app(tracker), "/metrics")).text)
    assert numbers.of("murmuration_service_down", service="payment") == 1
    assert numbers.of("murmuration_service_down") == 1
    # Back, and it answers all but this one.
    await queues["payment"].consume(take, consumer_tag="payment.facts")
    await eventually(partial(is_up, tracker, "payment"))
    await keep_answering(watch)
    await eventually(partial(works, tracker, "payment"))
    await keep_answering(watch)
    await states(watch, order, *LATE)


async def test_past_its_patience_its_orders_time_out(watch: Watch) -> None:
    await watch.start(**patient(service_patience_seconds=dict.fromkeys(FIVE, 1.0)))
    order = uuid4()
    await watch.say(*just_now("created reserved", order))
    await states(watch, order, *LATE)


async def test_one_that_says_it_is_not_ready_is_down(watch: Watch) -> None:
    await consume_all(watch)
    answer = {"status": 503, "body": {"status": "not ready", "database": True, "blocked": False}}
    async with readiness(answer) as url:
        tracker = await watch.start(**patient(service_urls={"payment": url}))
        await eventually(partial(is_down, tracker, "payment", "it is not ready: blocked"))
        order = uuid4()
        await watch.say(*just_now("created reserved", order))
        await eventually(partial(stands, watch, order, "PENDING_PAYMENT", "payment"))
        await past_deadlines(watch)
        assert not await published_by_trackers(watch, order)
        answer |= {"status": 200}
        # Ready again, it has yet to show that it works: somebody waits for it all the while.
        await eventually(partial(is_up, tracker, "payment"))
        await keep_answering(watch)
        await eventually(partial(works, tracker, "payment"))


async def test_one_that_consumes_and_answers_nobody_is_down_until_it_answers(watch: Watch) -> None:
    await consume_all(watch)
    tracker = await watch.start(**patient())
    order, other = uuid4(), uuid4()
    facts = just_now("created reserved captured", order)
    await watch.say(*facts[:2], *just_now("created reserved", other))
    await eventually(partial(is_down, tracker, "payment", "it answers nobody"))
    # It is told once more, for that costs nothing, and not given up.
    await states(watch, order, "saga.redriven.v1")
    await past_deadlines(watch)
    assert await published_by_trackers(watch, order) == {"saga.redriven.v1": 1}
    await watch.say(facts[2])
    await eventually(partial(works, tracker, "payment"))
    # Now that it works: the other one is late, once one who came later is answered.
    await keep_answering(watch)
    await states(watch, other, *LATE)
    assert await published_by_trackers(watch, order) == {"saga.redriven.v1": 1}


async def test_while_it_answers_who_came_later_an_order_is_late(watch: Watch) -> None:
    await consume_all(watch)
    tracker = await watch.start(**patient())
    order = uuid4()
    await watch.say(*just_now("created reserved", order))
    await watch.sees_order(order)

    async def late() -> bool:
        await keep_answering(watch)
        return await published_by_trackers(watch, order) == dict.fromkeys(LATE, 1)

    await eventually(late)
    assert await works(tracker, "payment")
