"""No name and no row ends redrives and timeouts: what cannot be published is set aside alone, and shown."""

import asyncio
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import UUID, uuid4

import pytest

from events.messaging.envelope import decode
from events.runtime.settings import MAX_MESSAGE_BYTES
from events.service import EXCHANGE, REDRIVE_EXCHANGE
from saga_tracker.scheduler.redrive import Outgoing
from saga_tracker.service import Tracker
from tests import raw_amqp
from tests.runtime.eventually import eventually
from tests.servers import Servers
from tests.tracker.facts import TRACEPARENT, envelopes
from tests.tracker.test_outbox import enter, own, redriven
from tests.tracker.test_scheduler import impatient, states
from tests.tracker.watch import Watch, get

INNOCENT = 50
SETTINGS: dict[str, Any] = {"max_message_bytes": 4 * MAX_MESSAGE_BYTES, "sweep_seconds": 0.1}
# What is wrong with a row, and a word of what is said of it.
GUILTY: dict[str, tuple[dict[str, Any], str]] = {
    "a name that AMQP cannot carry": ({"stated_by": "x" * 300}, "not to be encoded"),
    "a key that AMQP cannot carry": ({"routing_key": "x" * 300}, "not to be encoded"),
    "an exchange that is not there": ({"exchange": "nowhere"}, "nowhere"),
    "an exchange that AMQP cannot name": ({"exchange": "x" * 300}, "not to be encoded"),
    "a body too large for the broker": ({"body": "x" * 2 * MAX_MESSAGE_BYTES}, "larger than configured"),
    "whom nobody is": ({"exchange": REDRIVE_EXCHANGE, "routing_key": "nobody"}, "NO_ROUTE"),
}
NAMES = {
    "not UTF-8": b"\xff" * 100,
    "not UTF-8, and as long as may be": b"\xff" * raw_amqp.MAX_SHORT_BYTES,
    "NULs": b"\0" * raw_amqp.MAX_SHORT_BYTES,
    "half of a pair": b"\xed\xa0\x80" * 85,
}


@pytest.mark.parametrize("name", NAMES)
async def test_a_late_order_of_a_foreign_name_is_redriven_and_timed_out(watch: Watch, name: str) -> None:
    facts_named = await watch.receive_redrives("inventory")
    await watch.start(**impatient(inventory=0.6))
    created, order = envelopes("created", uuid4())[0], uuid4()
    fact = created.fact.model_copy(update={"order_id": order})
    properties = raw_amqp.properties(
        [(b"traceparent", raw_amqp.long_string(b"x" * 100_000))],
        message_id=raw_amqp.short(str(uuid4()).encode()),
        message_type=raw_amqp.short(fact.wire_name.encode()),
        app_id=raw_amqp.short(NAMES[name]),
    )
    await raw_amqp.publish(
        watch.channel, EXCHANGE, fact.wire_name, properties, fact.model_dump_json().encode()
    )
    again = await eventually(lambda: facts_named.get(fail=False, no_ack=True))
    assert again is not None
    assert decode(again, fact.wire_name).fact.order_id == order
    assert again.app_id is not None
    assert set(again.app_id) == {"\ufffd"}
    await states(watch, order, "saga.redriven.v1", "saga.timed_out.v2")
    await eventually(lambda: is_empty(watch))


async def is_empty(watch: Watch) -> bool:
    return not await watch.rows("SELECT FROM outbox")


async def is_alone_and_shown(watch: Watch, tracker: Tracker, guilty: UUID, word: str) -> bool:
    """The row is the only one left, with why and until when, and readiness counts it."""
    left = await watch.rows("SELECT message_id, due_at, refusals, last_error FROM outbox")
    readiness = await get(watch.app(tracker), "/readyz")
    return (
        [row["message_id"] for row in left] == [guilty]
        and left[0]["due_at"] is not None
        and left[0]["refusals"] >= 1
        and word in left[0]["last_error"]
        and (readiness.status, readiness.json()["refused_messages"]) == (200, 1)
    )


async def passes_beside(watch: Watch, guilty: Outgoing, word: str, **settings: Any) -> None:
    """Fifty rows in flight with a guilty one, and one entered after a restart."""
    tracker = await watch.start(**SETTINGS, **settings)
    innocent = [own() for _ in range(INNOCENT)]
    await enter(tracker, *innocent[: INNOCENT // 2], guilty, *innocent[INNOCENT // 2 :])
    await watch.sees_facts(INNOCENT)
    await eventually(lambda: is_alone_and_shown(watch, tracker, guilty.message_id, word))
    await watch.stop(tracker)
    tracker = await watch.start(**SETTINGS, **settings)
    await enter(tracker, own())
    await watch.sees_facts(INNOCENT + 1)
    await eventually(lambda: is_alone_and_shown(watch, tracker, guilty.message_id, word))


@pytest.mark.parametrize("what", GUILTY)
async def test_a_row_that_nobody_can_publish_is_set_aside_alone(watch: Watch, what: str) -> None:
    wrong, word = GUILTY[what]
    await passes_beside(watch, replace(own(), **wrong), word)


async def test_what_the_broker_forbids_is_set_aside_alone(watch: Watch, servers: Servers) -> None:
    """It closes the channel over that, with all that is in flight there."""
    url = urlsplit(watch.broker_url)
    name, vhost = f"tracker-{uuid4().hex[:8]}", unquote(url.path.removeprefix("/"))
    rights = {"user": name, "vhost": vhost, "configure": "", "write": f"^{EXCHANGE}$", "read": ".*"}
    user = {"name": name, "password": name, "tags": ""}
    await asyncio.to_thread(servers.import_definitions, {"users": [user], "permissions": [rights]})
    broker_url = urlunsplit(url._replace(netloc=f"{name}:{name}@{url.hostname}:{url.port}"))
    await passes_beside(watch, redriven("payment"), "ACCESS_REFUSED", broker_url=broker_url)


async def test_a_trace_context_that_is_none_is_left_out(
    watch: Watch, logged: list[MutableMapping[str, Any]]
) -> None:
    """As an earlier release kept it: RabbitMQ would end the connection over headers longer than a frame."""
    facts_named = await watch.receive_redrives("payment")
    tracker = await watch.start(**SETTINGS)
    await enter(tracker, replace(redriven("payment"), traceparent="x" * 200_000), redriven("payment"))
    await eventually(lambda: is_empty(watch))
    found = [await eventually(lambda: facts_named.get(fail=False, no_ack=True)) for _ in range(2)]
    assert {one.headers.get("traceparent") for one in found if one is not None} == {None, TRACEPARENT}
    assert not [line for line in logged if line["event"] == "outage_began"]
