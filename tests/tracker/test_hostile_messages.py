"""Whatever a message has for properties and headers: the tracker reads on, every dead letter can be acted on.

Without decimals: RabbitMQ 3.10 cannot hold them in a stream, and ends the connection of whoever sends one.
The services get the message then, and the tracker does not. Of tables and arrays its streams keep nothing.
"""

from collections.abc import MutableMapping
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from events.facts.order import OrderCreated
from events.service import DEAD_LETTER_EXCHANGE, EXCHANGE
from tests import raw_amqp
from tests.hostile_messages import Hostile, hostile, texts
from tests.runtime.eventually import eventually
from tests.tracker.dead_letters import TOKEN, TOKENS, dead_letters
from tests.tracker.facts import facts_of
from tests.tracker.watch import Watch, get, post

Logged = list[MutableMapping[str, Any]]
CREATED = OrderCreated.wire_name
ANNA = {"note": "looked at it"}
# Each example is a run of messages. No shrinking: the broker is a slow oracle.
MESSAGES, EXAMPLES = 12, 5
generated = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
UNREADABLE = {"headers_too_deep", "forged_type", "wrong_content_type"}
UNHEARD_OF = ("outage_began", "unreadable_dead_letter", "dead_letter_set_aside", "unstorable_fact")

Sent = list[tuple[Hostile, bytes | None]]


@pytest.fixture
async def app(watch: Watch) -> FastAPI:
    """The HTTP side of a running tracker."""
    return watch.app(await watch.start(tokens=TOKENS))


def runs(*, decimals: bool) -> st.SearchStrategy[Sent]:
    """Messages, and what each says of its type, if anything."""
    type_name = st.none() | st.just(CREATED.encode()) | texts()
    one = st.tuples(hostile(decimals=decimals), type_name)
    return st.lists(one, min_size=MESSAGES, max_size=MESSAGES)


async def publish(
    watch: Watch, exchange: str, key: str, one: Hostile, type_name: bytes | None, message_id: UUID
) -> None:
    known = {} if type_name is None else {"message_type": raw_amqp.short(type_name)}
    body = facts_of(uuid4())["created"].model_dump_json().encode()
    await raw_amqp.publish(watch.channel, exchange, key, one.properties(message_id, **known), body)


async def seen(watch: Watch, message_ids: list[UUID]) -> bool:
    """Each once: as a fact, or as a message that cannot be read."""
    facts = await watch.rows("SELECT fact_id FROM saga_facts WHERE fact_id = ANY(%(ids)s)", ids=message_ids)
    others = await watch.rows(
        "SELECT message_id, reason FROM unreadable_messages WHERE message_id = ANY(%(ids)s)",
        ids=[str(message_id) for message_id in message_ids],
    )
    assert {row["reason"] for row in others} <= UNREADABLE
    found = [row["fact_id"] for row in facts] + [UUID(row["message_id"]) for row in others]
    return sorted(found) == sorted(message_ids)


@generated
@given(sent=runs(decimals=False))
async def test_each_in_the_stream_is_a_fact_or_unreadable(
    watch: Watch, app: FastAPI, logged: Logged, sent: Sent
) -> None:
    message_ids = [uuid4() for _ in sent]
    for message_id, (one, type_name) in zip(message_ids, sent, strict=True):
        await publish(watch, EXCHANGE, CREATED, one, type_name, message_id)
    await eventually(lambda: seen(watch, message_ids))
    assert [line for line in logged if line["event"] in UNHEARD_OF] == []


async def taken_in(app: FastAPI, count: int) -> list[dict[str, Any]]:
    found = await dead_letters(app, "state=open&limit=500")
    assert len(found) <= count
    return found if len(found) == count else []


@generated
@given(sent=runs(decimals=True))
async def test_each_dead_letter_is_shown_and_replayed_or_discarded(
    watch: Watch, app: FastAPI, logged: Logged, sent: Sent
) -> None:
    facts_named = await watch.receive_redrives("inventory")
    message_ids = [uuid4() for _ in sent]
    for message_id, (one, type_name) in zip(message_ids, sent, strict=True):
        await publish(watch, DEAD_LETTER_EXCHANGE, "inventory", one, type_name, message_id)
    found = await eventually(lambda: taken_in(app, len(sent)))
    for number, dead_letter in enumerate(found):
        path = f"/dead-letters/{dead_letter['letter_id']}"
        assert (await get(app, path, token=TOKEN)).status == 200
        answer = await post(app, f"{path}/{('replay', 'discard')[number % 2]}", ANNA, token=TOKEN)
        assert answer.status == 200, answer.text
    replayed = {dead_letter["message_id"] for dead_letter in found[::2]}
    again = [await eventually(lambda: facts_named.get(fail=False, no_ack=True)) for _ in replayed]
    assert {one.message_id for one in again if one is not None} == replayed
    assert [line for line in logged if line["event"] in UNHEARD_OF] == []
    await facts_named.delete(if_empty=False)


async def test_what_belonged_to_no_saga_long_ago_is_forgotten(watch: Watch) -> None:
    await watch.start(retention_interval_seconds=0.1, dead_letter_retention_days=30)
    for offset, days in ((1, 31), (2, 29)):
        await watch.rows(
            "INSERT INTO unreadable_messages (stream_offset, reason, detail, read_at)"
            " VALUES (%(offset)s, 'bad_body', '', now() - make_interval(days => %(days)s))",
            offset=offset,
            days=days,
        )

    async def kept() -> bool:
        rows = await watch.rows("SELECT stream_offset FROM unreadable_messages")
        return [row["stream_offset"] for row in rows] == [2]

    await eventually(kept)
