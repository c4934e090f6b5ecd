"""A row of the outbox that nobody can publish is set aside alone; whatever was in flight beside it passes."""

import asyncio
from collections import Counter
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from uuid import UUID, uuid4

import pytest

from events.facts.order import OrderConfirmed
from events.runtime.service_runtime import ServiceRuntime
from events.runtime.settings import MAX_MESSAGE_BYTES
from events.service import EXCHANGE
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage
from tests.runtime.test_relay import DEAD, leave_behind
from tests.runtime.toy.decide import Bump
from tests.runtime.toy.facts import Counted
from tests.servers import Servers

Logged = list[MutableMapping[str, Any]]
INNOCENT = 50
# Of a body that this process would send, and the broker will not have.
SETTINGS: dict[str, Any] = {"max_message_bytes": 4 * MAX_MESSAGE_BYTES, "sweep_seconds": 0.1}
# What is wrong with a row, and a word of what is said of it.
GUILTY = {
    "a name too long for AMQP": ({"wire_name": "toy." + "x" * 300}, "not to be encoded"),
    "a name too long once encoded": ({"wire_name": "toy." + "\u00e9" * 200}, "not to be encoded"),
    "a body too large for the broker": ({"body": "x" * 2 * MAX_MESSAGE_BYTES}, "larger than configured"),
    "a body too large for the process": ({"body": "x" * 5 * MAX_MESSAGE_BYTES}, "bytes"),
    "what nobody is subscribed to": ({"wire_name": "toy.dreamt.v1"}, "NO_ROUTE"),
}


async def leave_guilty(
    stage: Stage, *, wire_name: str = "toy.counted.v1", body: str = "{}", traceparent: str | None = None
) -> UUID:
    fact_id = uuid4()
    await stage.rows(
        "INSERT INTO outbox (owner, fact_id, wire_name, order_id, body, stated_at, traceparent)"
        " VALUES (%(owner)s, %(fact_id)s, %(wire_name)s, %(order)s, %(body)s, %(now)s, %(traceparent)s)",
        owner=DEAD,
        fact_id=fact_id,
        wire_name=wire_name,
        order=uuid4(),
        body=body,
        now=datetime.now(UTC),
        traceparent=traceparent,
    )
    return fact_id


async def is_alone_and_shown(stage: Stage, host: ServiceRuntime, guilty: UUID, word: str) -> bool:
    """The row is the only one left, with why and until when, and readiness counts it."""
    left = await stage.rows("SELECT fact_id, due_at, refusals, last_error FROM outbox")
    return (
        [row["fact_id"] for row in left] == [guilty]
        and left[0]["due_at"] is not None
        and left[0]["refusals"] >= 1
        and word in left[0]["last_error"]
        and (await host.ready()).get("refused_messages") == 1
    )


async def passes_beside(stage: Stage, guilty: UUID, word: str, **settings: Any) -> None:
    """Fifty rows that were left behind with a guilty one, and one committed after a restart."""
    orders = [uuid4() for _ in range(INNOCENT)]
    left = await leave_behind(stage, DEAD, *orders)
    host = await stage.start(**SETTINGS, **settings)
    await eventually(lambda: len(set(stage.published(*orders))) == INNOCENT)
    assert set(stage.published(*orders)) == set(left)
    await eventually(lambda: is_alone_and_shown(stage, host, guilty, word))
    await stage.stop(host)
    host = await stage.start(**SETTINGS, **settings)
    await eventually(lambda: is_alone_and_shown(stage, host, guilty, word))
    after = uuid4()
    await host.ask(Bump(order_id=after))
    await eventually(lambda: stage.published(after))
    await eventually(lambda: is_alone_and_shown(stage, host, guilty, word))
    # Once for each time that the broker closed the channel over the guilty one.
    assert max(Counter(stage.published(*orders)).values()) <= 3


@pytest.mark.parametrize("what", GUILTY)
async def test_it_is_set_aside_alone(stage: Stage, what: str) -> None:
    row, word = GUILTY[what]
    # Counted is received by the test alone: what nobody receives must not be routed to the stream either.
    await stage.unbind_stream()
    await passes_beside(stage, await leave_guilty(stage, **row), word)


async def test_what_the_broker_forbids_is_set_aside_alone(stage: Stage, servers: Servers) -> None:
    """It closes the channel over that, with all that is in flight there."""
    url = urlsplit(stage.broker_url)
    name, vhost = f"toy-{uuid4().hex[:8]}", unquote(url.path.removeprefix("/"))
    everything = {"user": name, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"}
    own = {"user": name, "vhost": vhost, "exchange": EXCHANGE, "write": r"^toy\..*", "read": ".*"}
    user = {"name": name, "password": name, "tags": ""}
    definitions = {"users": [user], "permissions": [everything], "topic_permissions": [own]}
    await asyncio.to_thread(servers.import_definitions, definitions)
    guilty = await leave_guilty(stage, wire_name=OrderConfirmed.wire_name)
    broker_url = urlunsplit(url._replace(netloc=f"{name}:{name}@{url.hostname}:{url.port}"))
    await passes_beside(stage, guilty, "ACCESS_REFUSED", broker_url=broker_url)


async def test_several_are_each_set_aside(stage: Stage) -> None:
    """Of every kind, in one go."""
    await stage.unbind_stream()
    guilty = {await leave_guilty(stage, **row) for row, _ in GUILTY.values()}
    orders = [uuid4() for _ in range(INNOCENT)]
    left = await leave_behind(stage, DEAD, *orders)
    host = await stage.start(**SETTINGS)
    await eventually(lambda: set(stage.published(*orders)) == set(left))

    async def aside() -> bool:
        found = await stage.rows("SELECT fact_id FROM outbox WHERE due_at IS NOT NULL AND last_error <> ''")
        return {row["fact_id"] for row in found} == guilty

    await eventually(aside)
    await eventually(lambda: stage.size("outbox"))

    async def shown() -> bool:
        return (await host.ready()).get("refused_messages") == len(guilty)

    await eventually(shown)


@pytest.mark.parametrize("traceparent", ["x" * 130_000, "\u00e9" * 70_000, "00-x", ""])
async def test_a_trace_context_that_is_none_is_left_out(stage: Stage, traceparent: str) -> None:
    """RabbitMQ would end the connection over headers that are longer than a frame."""
    order = uuid4()
    await leave_guilty(
        stage, body=Counted(order_id=order, count=1).model_dump_json(), traceparent=traceparent
    )
    await stage.start()
    await eventually(lambda: bool(stage.received))
    await eventually(stage.drained)
    assert "traceparent" not in stage.received[0].headers
