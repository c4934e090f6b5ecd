"""Whatever the tracker enters in its outbox reaches the broker, and leaves the table only then."""

from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

from events.facts.saga import SagaRedriven
from events.messaging.envelope import decode
from events.service import REDRIVE_EXCHANGE
from saga_tracker.scheduler import redrive as outbox
from saga_tracker.scheduler.redrive import Outgoing
from saga_tracker.service import Tracker
from tests.metrics import Numbers
from tests.runtime.eventually import eventually
from tests.tracker.facts import BEGAN, TRACEPARENT, envelopes
from tests.tracker.watch import Watch, get

QUICK_SWEEP = {"sweep_seconds": 0.1}


def redriven(to: str) -> Outgoing:
    """A fact of somebody else's, on its way to one service alone."""
    fact = envelopes("created", uuid4())[0]
    return Outgoing(
        message_id=fact.fact_id,
        exchange=REDRIVE_EXCHANGE,
        routing_key=to,
        wire_name=fact.fact.wire_name,
        order_id=fact.fact.order_id,
        stated_by=fact.stated_by,
        body=fact.fact.model_dump_json(),
        stated_at=fact.stated_at,
        traceparent=TRACEPARENT,
    )


def own() -> Outgoing:
    """A fact of the tracker's own."""
    causation, order = uuid4(), uuid4()
    fact = SagaRedriven(order_id=order, service="payment", redriven_id=causation)
    return outbox.publishing(
        fact,
        fact_id=uuid4(),
        causation_id=causation,
        stated_at=BEGAN + timedelta(microseconds=7),
        traceparent=None,
    )


async def enter(tracker: Tracker, *messages: Outgoing) -> None:
    async with tracker.database.transaction() as connection:
        await outbox.enter(connection, messages)
    tracker.publisher.look_in_table()


async def is_empty(watch: Watch) -> bool:
    return not await watch.rows("SELECT FROM outbox")


async def test_a_fact_of_its_own_reaches_everybody_and_the_view(watch: Watch) -> None:
    tracker = await watch.start()
    message = own()
    await enter(tracker, message)
    await watch.sees_facts(1)
    seen = await watch.rows("SELECT fact_id, wire_name, stated_by, causation_id, stated_at FROM saga_facts")
    assert seen == [
        {
            "fact_id": message.message_id,
            "wire_name": "saga.redriven.v1",
            "stated_by": "tracker",
            "causation_id": message.causation_id,
            "stated_at": message.stated_at,
        }
    ]
    await eventually(lambda: is_empty(watch))


async def test_what_is_for_one_service_is_as_it_was_published(watch: Watch) -> None:
    tracker = await watch.start()
    redrives = await watch.receive_redrives()
    message = redriven("payment")
    await enter(tracker, message, message)
    await eventually(lambda: is_empty(watch))
    facts_named = await redrives.get(timeout=5)
    assert facts_named is not None
    assert (facts_named.routing_key, facts_named.app_id) == ("payment", "order")
    envelope = decode(facts_named, None)
    assert (envelope.fact_id, envelope.stated_at) == (message.message_id, message.stated_at)
    assert envelope.fact.model_dump_json() == message.body
    assert envelope.traceparent == TRACEPARENT
    assert await redrives.get(fail=False) is None
    assert await watch.facts_seen() == 0


async def test_what_nobody_takes_holds_up_nobody_and_stays(
    watch: Watch, logged: list[MutableMapping[str, Any]]
) -> None:
    tracker = await watch.start(relay_in_flight=1, **QUICK_SWEEP)
    await enter(tracker, redriven("nobody"), own(), own())
    await watch.sees_facts(2)
    left = await watch.rows("SELECT routing_key FROM outbox")
    assert left == [{"routing_key": "nobody"}]

    async def shown() -> bool:
        readiness = await get(watch.app(tracker), "/readyz")
        return readiness.status == 200 and readiness.json().get("refused_messages") == 1

    await eventually(shown)
    numbers = await get(watch.app(tracker), "/metrics")
    assert Numbers(numbers.text)["murmuration_outbox_refused"] == 1
    redrives = await watch.receive_redrives("nobody")
    await eventually(lambda: is_empty(watch))
    assert await redrives.get(timeout=5) is not None
    assert len([line for line in logged if line["event"] == "unroutable_fact"]) == 1
    await eventually(lambda: not tracker.publisher.set_aside)
    assert "refused_messages" not in await tracker.ready()


async def test_a_broker_and_a_database_that_are_away_are_waited_for(watch: Watch) -> None:
    broker, database = await watch.proxy_broker(), await watch.proxy_database()
    tracker = await watch.start(
        broker_url=broker.url(watch.broker_url),
        database_url=database.url(watch.database_url),
        database_timeout_seconds=0.5,
        **QUICK_SWEEP,
    )
    broker.cut()
    await enter(tracker, own())
    assert not await is_empty(watch)
    database.cut()
    broker.restore()
    database.restore()
    await watch.sees_facts(1)
    await eventually(lambda: is_empty(watch))


async def test_what_a_tracker_left_another_publishes(watch: Watch) -> None:
    broker = await watch.proxy_broker()
    broker.cut()
    first = await watch.begin(broker_url=broker.url(watch.broker_url))
    await eventually(first.database.working)
    await enter(first, own())
    await watch.start(**QUICK_SWEEP)
    await watch.sees_facts(1)
