"""Dead letters with headers of every type, however deep: shown, and replayed to service and view."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI

from events.messaging.envelope import decode
from events.messaging.lenient_pamqp import MAX_DEPTH
from events.service import DEAD_LETTER_EXCHANGE
from saga_tracker.dead_letters.dead_letter import as_text, from_text
from tests import raw_amqp
from tests.runtime.eventually import eventually
from tests.tracker.dead_letters import TOKEN, TOKENS, give_up, reason_of, sees_dead_letters, unusable
from tests.tracker.facts import envelopes
from tests.tracker.watch import Watch, get, post

ANNA = {"note": "in order otherwise"}
# As an earlier release could store them.
EARLIER_DEPTH = 300


@pytest.fixture
async def app(watch: Watch) -> FastAPI:
    """The HTTP side of a running tracker."""
    return watch.app(await watch.start(tokens=TOKENS))


async def headers_shown(app: FastAPI, letter_id: str) -> dict[str, Any]:
    answer = await get(app, f"/dead-letters/{letter_id}", token=TOKEN)
    assert answer.status == 200
    headers: dict[str, Any] = answer.json()["headers"]
    return headers


async def replay(app: FastAPI, letter_id: str) -> None:
    answer = await post(app, f"/dead-letters/{letter_id}/replay", ANNA, token=TOKEN)
    assert answer.status == 200, answer.text


def nested(depth: int, kinds: str) -> Any:
    value: Any = 7
    for number in range(depth):
        value = {"n": value} if kinds[number % len(kinds)] == "F" else [value]
    return value


def tagged(value: Any, depth: int) -> str:
    """As `as_text` of an earlier release wrote it, without recursion."""
    text = json.dumps(value)
    for _ in range(depth):
        text = f'{{"table": {{"n": {text}}}}}'
    return text


def test_what_is_read_of_headers_is_written_and_read_whole() -> None:
    for kinds in ("F", "A", "FA"):
        properties = {"headers": {"deep": nested(MAX_DEPTH - 1, kinds)}}
        assert from_text(as_text(properties)) == properties


def test_what_an_earlier_release_stored_is_read_by_a_caller_of_any_depth() -> None:
    def called(frames: int) -> dict[str, Any]:
        return called(frames - 1) if frames else from_text(tagged(1, 450))

    assert called(frames=500) == called(frames=0)


@pytest.mark.parametrize("depth", [20, EARLIER_DEPTH, 450, 5_000])
async def test_a_letter_of_an_earlier_release_is_shown_and_replayed(
    watch: Watch, app: FastAPI, depth: int
) -> None:
    facts_named = await watch.receive_redrives("payment")
    await give_up(watch, unusable(headers={"deep": {"n": 1}}))
    (dead_letter,) = await sees_dead_letters(app, 1)
    await watch.rows(
        "UPDATE dead_letters SET properties = replace(properties, %(now)s, %(before)s)",
        now=tagged(1, 1),
        before=tagged(1, depth),
    )
    shown = await headers_shown(app, dead_letter["letter_id"])
    assert '{"n":' in json.dumps(shown["deep"])
    await replay(app, dead_letter["letter_id"])
    assert await eventually(lambda: facts_named.get(fail=False)) is not None


async def test_headers_that_no_stream_can_hold_reach_the_service_and_not_the_view(
    watch: Watch, app: FastAPI
) -> None:
    """RabbitMQ 3.10 ends the connection over a decimal on its way into a stream."""
    facts_named = await watch.receive_redrives("inventory")
    created = envelopes("created", uuid4())[0]
    texts = {name.encode(): str(found).encode() for name, found in reason_of(service="inventory").items()}
    texts[b"dead_letter_routing_key"] = created.fact.wire_name.encode()
    texts[b"dead_letter_reason"] = b"headers_too_deep"
    headers = [(name, raw_amqp.long_string(text)) for name, text in texts.items()]
    headers += [(b"exact", b"D\x02\x00\x00\x00\x07"), (b"deep", raw_amqp.deep(500, "FA"))]
    properties = raw_amqp.properties(
        headers,
        message_id=raw_amqp.short(str(created.fact_id).encode()),
        message_type=raw_amqp.short(created.fact.wire_name.encode()),
    )
    body = created.fact.model_dump_json().encode()
    await raw_amqp.publish(watch.channel, DEAD_LETTER_EXCHANGE, "inventory", properties, body)
    (dead_letter,) = await sees_dead_letters(app, 1)
    assert dead_letter["reason"] == "headers_too_deep"
    shown = await headers_shown(app, dead_letter["letter_id"])
    assert shown["exact"] == "0.07"
    await replay(app, dead_letter["letter_id"])
    sent = await eventually(lambda: facts_named.get(fail=False))
    assert sent is not None
    assert decode(sent, created.fact.wire_name).fact_id == created.fact_id
    assert str(sent.headers["exact"]) == "0.07"
    await watch.sees_order(UUID(str(created.fact.order_id)))
