"""Dead letters are taken in: every kind, whatever is in it, once each, off the queue only when stored."""

import asyncio
import os
import signal
from collections.abc import MutableMapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from fastapi import FastAPI
from pamqp.commands import Basic

from compose.local.ports import free_port
from events.facts.payment import PaymentRefundFailed
from events.runtime.settings import MAX_MESSAGE_BYTES
from events.service import DEAD_LETTER_EXCHANGE
from saga_tracker.dead_letters.dead_letter import as_text, from_text, shown
from tests.runtime.eventually import eventually
from tests.tracker.dead_letters import (
    FIRST_AT,
    LAST_AT,
    TOKEN,
    TOKENS,
    dead_letters,
    fail,
    give_up,
    in_queue,
    let_broker_give_up,
    sees_dead_letters,
    unusable,
)
from tests.tracker.test_process import run
from tests.tracker.watch import Watch, get

Logged = list[MutableMapping[str, Any]]


@pytest.fixture
async def app(watch: Watch) -> FastAPI:
    """The HTTP side of a running tracker."""
    return watch.app(await watch.start(tokens=TOKENS))


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_what_a_service_could_not_use_is_kept_with_the_reason(watch: Watch, app: FastAPI) -> None:
    order = uuid4()
    message = unusable(order)
    await give_up(watch, message)
    (dead_letter,) = await sees_dead_letters(app, 1)
    assert (dead_letter["service"], dead_letter["kind"], dead_letter["reason"]) == (
        "payment",
        "unusable",
        "bad_body",
    )
    assert dead_letter["detail"] == "lines: Field required"
    assert dead_letter["state"] == "open"
    assert dead_letter["attempts"] == 4
    assert (instant(dead_letter["first_at"]), instant(dead_letter["last_at"])) == (FIRST_AT, LAST_AT)
    assert dead_letter["order_id"] == str(order)
    assert dead_letter["message_id"] == message.message_id
    assert (dead_letter["wire_name"], dead_letter["stated_by"]) == (
        "inventory.stock_reserved.v1",
        "inventory",
    )
    await eventually(lambda: empty(watch, "payment"))


async def empty(watch: Watch, service: str) -> bool:
    return await in_queue(watch, f"{service}.dead-letters") == 0


async def test_a_failure_for_good_is_a_case_with_its_own_reason(watch: Watch, app: FastAPI) -> None:
    order = uuid4()
    published = await fail(watch, "refund_failed", order)
    (dead_letter,) = await sees_dead_letters(app, 1)
    assert isinstance(published.fact, PaymentRefundFailed)
    assert (dead_letter["service"], dead_letter["kind"]) == ("payment", "case")
    assert dead_letter["reason"] == published.fact.reason
    assert "a person has to settle it" in dead_letter["detail"]
    assert instant(dead_letter["last_at"]) == published.stated_at
    assert (dead_letter["order_id"], dead_letter["message_id"]) == (str(order), str(published.fact_id))


async def test_what_the_broker_gave_up_is_kept_with_its_word_for_it(watch: Watch, app: FastAPI) -> None:
    order = uuid4()
    forged = {"dead_letter_routing_key": "payment.captured.v1", "dead_letter_reason": "forged"}
    await let_broker_give_up(watch, unusable(order, headers=forged))
    (dead_letter,) = await sees_dead_letters(app, 1)
    assert (dead_letter["service"], dead_letter["kind"], dead_letter["reason"]) == (
        "payment",
        "undelivered",
        "rejected",
    )
    assert dead_letter["order_id"] == str(order)
    assert dead_letter["last_at"] is not None
    whole = (await get(app, f"/dead-letters/{dead_letter['letter_id']}", token=TOKEN)).json()
    # What a publisher says of where its message came from counts for nothing.
    assert whole["routing_key"] == "inventory.stock_reserved.v1"


HOSTILE: list[tuple[str, aio_pika.Message]] = [
    ("nothing at all", aio_pika.Message(b"")),
    ("bytes", aio_pika.Message(b"\xff\x00\xfe" * 1_000, message_id="\x00", type="\x00")),
    ("a large body", aio_pika.Message(b"x" * MAX_MESSAGE_BYTES)),
    ("not an object", aio_pika.Message(b"[[]]")),
    ("deep", aio_pika.Message(b"[" * 100_000)),
    ("no reason", aio_pika.Message(b"{}", headers={"dead_letter_reason": ""})),
    ("NUL in all", aio_pika.Message(b"\x00", headers={"dead_letter_reason": "\x00", "\x00": "\x00"})),
    (
        "long",
        aio_pika.Message(
            b"", headers={"dead_letter_reason": "é" * 20_000, "dead_letter_detail": "ü" * 20_000}
        ),
    ),
    (
        "not what they should be",
        aio_pika.Message(
            b'{"order_id": [1]}',
            correlation_id="seven",
            headers={
                "dead_letter_reason": ["a"],
                "dead_letter_attempts": -(2**60),
                "dead_letter_at": "0001-01-01T00:00:00+14:00",
                "dead_letter_first_at": {"year": 2026},
                "order_id": 7,
                "replayed_letter_id": True,
            },
        ),
    ),
    ("deaths that are none", aio_pika.Message(b"", headers={"x-death": [1, {}], "x-delivery-count": "?"})),
    ("a death without anything", aio_pika.Message(b"", headers={"x-death": [{}]})),
    (
        "every type",
        aio_pika.Message(
            b"",
            headers={
                "table": {"a": [1, 2.5, None, True, {"b": "c"}]},
                "bytes": bytearray(b"\xff\x00"),
                "decimal": Decimal("1.5"),
                "time": datetime(2026, 1, 2, tzinfo=UTC),
                "long": 2**62,
            },
        ),
    ),
]


async def test_nothing_that_arrives_blocks_the_queue_or_is_lost(
    watch: Watch, app: FastAPI, logged: Logged
) -> None:
    exchange = await watch.channel.get_exchange(DEAD_LETTER_EXCHANGE)
    for _, message in HOSTILE:
        await exchange.publish(message, "payment")
    await give_up(watch, unusable())
    found = await sees_dead_letters(app, len(HOSTILE) + 1)
    bodies = await watch.rows("SELECT body FROM dead_letters")
    assert sorted(row["body"] for row in bodies if row["body"] != b'{"lines": 7}') == sorted(
        message.body for _, message in HOSTILE
    )
    for dead_letter in found:
        answer = await get(app, f"/dead-letters/{dead_letter['letter_id']}", token=TOKEN)
        assert answer.status == 200
    assert (await get(app, "/ui/dead-letters")).status == 200
    await eventually(lambda: empty(watch, "payment"))
    assert not [line for line in logged if line["log_level"] == "error"]


async def test_each_comes_once_however_often_it_is_delivered(watch: Watch, app: FastAPI) -> None:
    message = unusable()
    await give_up(watch, message, message)
    await give_up(watch, message, service="fulfillment")
    assert len(await sees_dead_letters(app, 2)) == 2
    await eventually(lambda: empty(watch, "payment"))
    assert len(await dead_letters(app)) == 2


async def test_killed_between_commit_and_acknowledgement_it_stores_nothing_twice(watch: Watch) -> None:
    await give_up(watch, *(unusable() for _ in range(30)))
    process = run(
        watch,
        MURMURATION_HTTP_PORT=str(free_port()),
        MURMURATION_CRASH_AT="before_ack",
        MURMURATION_DEAD_LETTER_BATCH_SIZE="20",
    )
    try:
        await asyncio.to_thread(process.wait, 30)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    stored = await watch.rows("SELECT count(*) AS dead_letters FROM dead_letters")
    assert stored[0]["dead_letters"] > 0
    await eventually(lambda: holds(watch, 30), why="the broker takes them back")
    app = watch.app(await watch.start())
    assert len(await sees_dead_letters(app, 30)) == 30
    await eventually(lambda: empty(watch, "payment"))
    assert len(await dead_letters(app)) == 30


async def holds(watch: Watch, count: int) -> bool:
    return await in_queue(watch, "payment.dead-letters") == count


async def test_several_trackers_share_the_work(watch: Watch) -> None:
    apps = [watch.app(await watch.start(dead_letter_prefetch=5)) for _ in range(2)]
    await give_up(watch, *(unusable() for _ in range(40)))
    for app in apps:
        assert len(await sees_dead_letters(app, 40)) == 40


async def test_what_was_not_committed_is_still_in_its_queue(watch: Watch, logged: Logged) -> None:
    database = await watch.proxy_database()
    tracker = await watch.start(
        database_url=database.url(watch.database_url), database_timeout_seconds=0.5, stop_grace_seconds=2.0
    )
    database.cut()
    await give_up(watch, unusable(), unusable())
    await eventually(lambda: any(line.get("of") == "database" for line in logged))
    await eventually(lambda: empty(watch, "payment"), why="the tracker has them")
    await watch.stop(tracker)
    await eventually(lambda: holds(watch, 2))


async def test_it_waits_for_broker_and_database_and_says_so_once(watch: Watch, logged: Logged) -> None:
    broker, database = await watch.proxy_broker(), await watch.proxy_database()
    tracker = await watch.start(
        broker_url=broker.url(watch.broker_url),
        database_url=database.url(watch.database_url),
        database_timeout_seconds=0.5,
    )
    database.cut()
    await give_up(watch, unusable())
    await eventually(lambda: any(line.get("of") == "database" for line in logged))
    database.restore()
    app = watch.app(tracker)
    await sees_dead_letters(app, 1)
    broker.cut()
    await give_up(watch, unusable())
    await eventually(lambda: [line for line in logged if "dead letters" in str(line.get("of"))])
    refused = broker.refused
    await eventually(lambda: broker.refused > refused + 5)
    broker.restore()
    await sees_dead_letters(app, 2)
    began = [line for line in logged if line["event"] == "outage_began"]
    assert len([line for line in began if "dead letters" in line["of"]]) == 1


async def test_a_rebuild_keeps_them(watch: Watch, app: FastAPI) -> None:
    await give_up(watch, unusable())
    await sees_dead_letters(app, 1)
    await watch.rebuild()
    assert len(await dead_letters(app)) == 1


def test_properties_come_back_as_they_were() -> None:
    headers: Any = {
        "bytes": bytearray(b"\xff\x00"),
        "table": {"table": {"bytes": "not a tag"}, "list": [1, None, True, 1.5]},
        "time": datetime(2026, 1, 2, tzinfo=UTC),
        "decimal": Decimal("1.5"),
        "text": "\x00é",
    }
    given = {"headers": headers, "message_id": "7", "priority": 3}
    assert from_text(as_text(given)) == given
    assert as_text(given).isascii()
    assert as_text(dict(reversed(given.items()))) == as_text(given)
    assert shown(given)["headers"]["bytes"] == {"base64": "/wA="}
    assert Basic.Properties(**given).headers == headers
