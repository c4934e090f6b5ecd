"""Dead letters over HTTP: found, grouped, seen whole, replayed to one service alone, discarded, audited."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4, uuid5

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from fastapi import FastAPI

from events.facts.saga import RetryRequested
from events.messaging.envelope import decode
from events.messaging.retries import original_routing_key
from events.service import REDRIVE_EXCHANGE
from tests.runtime.eventually import eventually
from tests.tracker.dead_letters import (
    BENS,
    TOKEN,
    TOKENS,
    fail,
    give_up,
    let_broker_give_up,
    sees_dead_letters,
    unusable,
)
from tests.tracker.watch import FIVE, Answer, Watch, get, post

ANNA = {"note": "fixed the parser"}


@pytest.fixture
async def app(watch: Watch) -> FastAPI:
    """The HTTP side of a running tracker."""
    return watch.app(await watch.start(tokens=TOKENS, sweep_seconds=0.2))


async def act(app: FastAPI, path: str, body: Any = ANNA) -> Answer:
    return await post(app, path, body, token=TOKEN)


async def whole(app: FastAPI, letter_id: str) -> dict[str, Any]:
    answer = await get(app, f"/dead-letters/{letter_id}", token=TOKEN)
    assert answer.status == 200
    dead_letter: dict[str, Any] = answer.json()
    return dead_letter


async def ids_of(app: FastAPI, query: str) -> set[str]:
    answer = await get(app, f"/dead-letters?{query}")
    assert answer.status == 200
    return {dead_letter["letter_id"] for dead_letter in answer.json()["dead_letters"]}


def ids(dead_letters: Iterable[dict[str, Any]]) -> list[str]:
    return [dead_letter["letter_id"] for dead_letter in dead_letters]


class Ears:
    """What reaches each service by its name alone."""

    def __init__(self, queues: dict[str, aio_pika.abc.AbstractQueue]) -> None:
        self._queues = queues

    async def next(self, service: str) -> AbstractIncomingMessage:
        queue = self._queues[service]
        found: AbstractIncomingMessage | None = await eventually(lambda: queue.get(fail=False, no_ack=True))
        assert found is not None
        return found

    async def silent(self, *services: str) -> bool:
        facts_named = [await self._queues[name].get(fail=False, no_ack=True) for name in services or FIVE]
        return not any(facts_named)


@pytest.fixture
async def ears(watch: Watch) -> Ears:
    return Ears({service: await watch.receive_redrives(service) for service in FIVE})


async def test_letters_are_found_by_service_reason_order_and_state(watch: Watch, app: FastAPI) -> None:
    order = uuid4()
    await give_up(watch, unusable(order))
    await give_up(watch, unusable(), why="KeyError")
    await give_up(watch, unusable(order), service="fulfillment")
    found = await sees_dead_letters(app, 3)
    by = {(dead_letter["service"], dead_letter["reason"]): dead_letter["letter_id"] for dead_letter in found}
    bad, raised, other = by["payment", "bad_body"], by["payment", "KeyError"], by["fulfillment", "bad_body"]
    assert await ids_of(app, "service=payment") == {bad, raised}
    assert await ids_of(app, "reason=bad_body") == {bad, other}
    assert await ids_of(app, f"order_id={order}") == {bad, other}
    assert await ids_of(app, f"order_id={order}&service=payment&reason=bad_body") == {bad}
    assert await ids_of(app, "wire_name=inventory.stock_reserved.v1") == {bad, raised, other}
    assert (await act(app, f"/dead-letters/{raised}/discard")).status == 200
    assert await ids_of(app, "state=open") == {bad, other}
    assert await ids_of(app, "state=discarded&service=payment") == {raised}


BAD_QUESTIONS = (
    "service=toy",
    "state=gone",
    "order_id=7",
    "limit=0",
    "limit=501",
    "cursor=x",
    "reason=%00",
)


async def test_a_bad_question_gets_a_problem_for_an_answer(app: FastAPI) -> None:
    for path in (*(f"/dead-letters?{query}" for query in BAD_QUESTIONS), "/audit?limit=0", "/audit?before=x"):
        answer = await get(app, path)
        assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json"), path


async def test_pages_cover_every_letter_once_even_while_more_arrive(watch: Watch, app: FastAPI) -> None:
    await give_up(watch, *(unusable() for _ in range(7)))
    first = await sees_dead_letters(app, 7)
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await get(app, f"/dead-letters?limit=3{cursor}")).json()
        seen += ids(page["dead_letters"])
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
        await give_up(watch, unusable())
        await sees_dead_letters(app, len(first) + len(seen) // 3)
    assert seen == ids(first)


async def test_groups_are_counted(watch: Watch, app: FastAPI) -> None:
    await give_up(watch, unusable(), unusable())
    await give_up(watch, unusable(), why="KeyError")
    found = await sees_dead_letters(app, 3)
    gone = next(dead_letter for dead_letter in found if dead_letter["reason"] == "bad_body")
    await act(app, f"/dead-letters/{gone['letter_id']}/discard")
    await give_up(watch, unusable(), unusable(), why="KeyError")
    await sees_dead_letters(app, 5)
    groups = (await get(app, "/dead-letters/groups")).json()["groups"]
    counted = [(group["service"], group["reason"], group["open"], group["dead_letters"]) for group in groups]
    assert counted == [("payment", "KeyError", 3, 3), ("payment", "bad_body", 1, 2)]
    assert {group["wire_name"] for group in groups} == {"inventory.stock_reserved.v1"}
    assert groups[0]["first_at"] < groups[0]["last_at"]


@pytest.mark.parametrize(
    ("body", "shown"),
    [(b'{"a": "\xc3\xa9"}', ('{"a": "é"}', "text")), (b"\xff\x00", ("/wA=", "base64")), (b"", ("", "text"))],
)
async def test_a_letter_is_seen_whole(
    watch: Watch, app: FastAPI, body: bytes, shown: tuple[str, str]
) -> None:
    message = unusable(body=body)
    await give_up(watch, message)
    (dead_letter,) = await sees_dead_letters(app, 1)
    seen = await whole(app, dead_letter["letter_id"])
    assert (seen["body"], seen["body_encoding"], seen["body_bytes"]) == (*shown, len(body))
    assert seen["headers"]["x-mine"] == "kept"
    assert seen["headers"]["dead_letter_reason"] == "bad_body"
    assert seen["properties"]["message_id"] == message.message_id
    assert seen["routing_key"] == "inventory.stock_reserved.v1"
    assert seen["history"] == {
        "attempts": 4,
        "first_at": "2026-11-28T06:00:00Z",
        "last_at": "2026-11-28T06:00:31Z",
        "came_back_as": [],
        "audit": [],
    }


async def test_a_body_too_long_to_show_is_cut_and_says_so(watch: Watch, app: FastAPI) -> None:
    await give_up(watch, unusable(body="é".encode() * 510_000))
    (dead_letter,) = await sees_dead_letters(app, 1)
    seen = await whole(app, dead_letter["letter_id"])
    assert (seen["body_bytes"], seen["body_cut"], seen["body_encoding"]) == (1_020_000, True, "text")
    assert seen["body"] == "é" * 500_000


async def test_acts_and_what_is_in_a_letter_are_the_admins(watch: Watch, app: FastAPI) -> None:
    some = uuid4()
    acts = [f"/dead-letters/{some}/{verb}" for verb in ("replay", "discard")]
    acts += ["/dead-letters/replay", f"/sagas/{some}/redrive", f"/sagas/{some}/settle"]
    closed = watch.app(await watch.start())
    for path in acts:
        assert (await post(app, path, ANNA)).status == 401
        assert (await post(app, path, ANNA, token="guessed")).status == 401
        assert (await post(closed, path, ANNA, token=TOKEN)).status == 403
    for path in (f"/dead-letters/{some}",):
        assert (await get(app, path)).status == 401
        assert (await get(closed, path, token=TOKEN)).status == 403
        assert (await get(app, path, token=TOKEN)).status == 404


BAD_ACTS: tuple[tuple[str, Any], ...] = (
    ("/dead-letters/{id}/replay", {"by": "anna"}),
    ("/dead-letters/{id}/discard", {"by": "eve", "note": "typed"}),
    ("/sagas/{id}/settle", {"by": "anna", "note": "typed"}),
    ("/dead-letters/{id}/replay", {"note": "a\x00b"}),
    ("/dead-letters/{id}/replay", {"why": "typo"}),
    ("/dead-letters/{id}/discard", {}),
    ("/dead-letters/{id}/discard", {"note": "x" * 1_001}),
    ("/dead-letters/replay", {}),
    ("/dead-letters/replay", {"ids": []}),
    ("/dead-letters/replay", {"ids": [str(uuid4())] * 1_001}),
    ("/dead-letters/replay", {"ids": [str(uuid4())], "service": "payment"}),
    ("/dead-letters/replay", {"service": "payment"}),
    ("/dead-letters/replay", {"service": "toy", "reason": "bad_body"}),
    ("/sagas/{id}/redrive", {}),
    ("/sagas/{id}/settle", {}),
)


async def test_an_act_that_is_not_well_formed_is_refused(app: FastAPI) -> None:
    for path, body in BAD_ACTS:
        answer = await act(app, path.format(id=uuid4()), body)
        assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json"), (
            path,
            body,
        )


async def test_an_act_on_a_letter_that_does_not_exist_finds_nothing(app: FastAPI) -> None:
    for verb in ("replay", "discard"):
        assert (await act(app, f"/dead-letters/{uuid4()}/{verb}")).status == 404
    answer = await act(app, "/dead-letters/replay", {"ids": [str(uuid4())]})
    assert (answer.json()["replayed"], len(answer.json()["missing"])) == (0, 1)


async def test_a_replay_reaches_that_service_alone_and_is_what_it_was(
    watch: Watch, app: FastAPI, ears: Ears
) -> None:
    message = unusable(
        headers={"CC": ["order", "fulfillment"], "retry_attempts": 3, "raw": bytearray(b"\xff"), "n": 2**40}
    )
    message.expiration = 60.0
    await give_up(watch, message)
    (dead_letter,) = await sees_dead_letters(app, 1, "service=payment")
    answer = await act(app, f"/dead-letters/{dead_letter['letter_id']}/replay")
    assert (answer.status, answer.json()["state"]) == (200, "replayed")
    facts_named = await ears.next("payment")
    assert await ears.silent()
    assert (facts_named.body, facts_named.exchange) == (message.body, REDRIVE_EXCHANGE)
    for name in ("message_id", "type", "app_id", "content_type", "correlation_id", "priority"):
        assert getattr(facts_named, name) == getattr(message, name), name
    assert facts_named.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert facts_named.expiration is None
    assert original_routing_key(facts_named) == "inventory.stock_reserved.v1"
    assert facts_named.headers == {
        "order_id": message.headers["order_id"],
        "x-mine": "kept",
        "raw": bytearray(b"\xff"),
        "n": 2**40,
        "replayed_letter_id": dead_letter["letter_id"],
        "retry_routing_key": "inventory.stock_reserved.v1",
    }


async def test_what_the_broker_gave_up_is_replayed_too(watch: Watch, app: FastAPI, ears: Ears) -> None:
    await let_broker_give_up(watch, unusable(headers={"dead_letter_routing_key": "payment.captured.v1"}))
    (dead_letter,) = await sees_dead_letters(app, 1)
    assert (await act(app, f"/dead-letters/{dead_letter['letter_id']}/replay")).status == 200
    facts_named = await ears.next("payment")
    assert original_routing_key(facts_named) == "inventory.stock_reserved.v1"
    assert not [name for name in facts_named.headers if name.startswith(("x-death", "x-first", "x-last"))]


async def test_replaying_twice_has_no_second_effect(watch: Watch, app: FastAPI, ears: Ears) -> None:
    await give_up(watch, unusable(), unusable())
    found = ids(await sees_dead_letters(app, 2))
    path = f"/dead-letters/{found[0]}/replay"
    assert (await act(app, path)).status == 200
    await ears.next("payment")
    again = await act(app, path)
    assert (again.status, again.json()["state"]) == (409, "replayed")
    assert again.json()["detail"].startswith("the letter is not open: replayed at ")
    both = {"ids": found}
    assert (await act(app, "/dead-letters/replay", both)).json() == {
        "replayed": 1,
        "skipped": 1,
        "missing": [],
        "remaining": 0,
    }
    await ears.next("payment")
    assert (await act(app, "/dead-letters/replay", both)).json()["skipped"] == 2
    assert await ears.silent()
    assert (await act(app, f"/dead-letters/{found[0]}/discard")).status == 409


async def test_of_many_who_replay_at_once_one_does(watch: Watch, app: FastAPI, ears: Ears) -> None:
    await give_up(watch, unusable())
    (dead_letter,) = await sees_dead_letters(app, 1)
    path = f"/dead-letters/{dead_letter['letter_id']}/replay"
    answers = await asyncio.gather(*(act(app, path) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 5
    await ears.next("payment")
    assert await ears.silent()


async def test_a_group_is_replayed_in_parts(watch: Watch, ears: Ears) -> None:
    limits = {"replay_dead_letters": 5, "replay_batch_size": 2}
    app = watch.app(await watch.start(tokens=TOKENS, **limits))
    await give_up(watch, *(unusable() for _ in range(7)))
    await give_up(watch, unusable(), why="KeyError")
    await give_up(watch, unusable(), service="fulfillment")
    await sees_dead_letters(app, 9)
    group = {"service": "payment", "reason": "bad_body"}
    outcomes = [(await act(app, "/dead-letters/replay", group)).json() for _ in range(3)]
    assert [(each["replayed"], each["remaining"]) for each in outcomes] == [(5, 2), (2, 0), (0, 0)]
    for _ in range(7):
        await ears.next("payment")
    assert await ears.silent()
    assert len(await ids_of(app, "state=open")) == 2


async def test_a_letter_is_marked_only_when_the_broker_has_confirmed(watch: Watch, ears: Ears) -> None:
    proxy = await watch.proxy_broker()
    app = watch.app(
        await watch.start(broker_url=proxy.url(watch.broker_url), tokens=TOKENS, replay_timeout_seconds=1.0)
    )
    await give_up(watch, unusable())
    (dead_letter,) = await sees_dead_letters(app, 1)
    path = f"/dead-letters/{dead_letter['letter_id']}/replay"
    for fault in (proxy.cut, proxy.freeze):
        fault()
        answer = await act(app, path)
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        assert (await sees_dead_letters(app, 1))[0]["state"] == "open"
        assert (await whole(app, dead_letter["letter_id"]))["history"]["audit"] == []
        proxy.restore()
    proxy.thaw()
    await eventually(lambda: replayed(app, path))
    await ears.next("payment")


async def replayed(app: FastAPI, path: str) -> bool:
    return (await act(app, path)).status == 200


async def test_a_service_that_has_no_queue_is_not_taken_to_have_received(watch: Watch, app: FastAPI) -> None:
    await give_up(watch, unusable())
    (dead_letter,) = await sees_dead_letters(app, 1)
    assert (await act(app, f"/dead-letters/{dead_letter['letter_id']}/replay")).status == 503
    assert (await sees_dead_letters(app, 1))[0]["state"] == "open"


async def test_one_that_fails_again_is_a_new_letter_that_names_the_old_one(
    watch: Watch, app: FastAPI, ears: Ears
) -> None:
    await give_up(watch, unusable())
    (dead_letter,) = await sees_dead_letters(app, 1)
    await act(app, f"/dead-letters/{dead_letter['letter_id']}/replay")
    facts_named = await ears.next("payment")
    again = unusable(headers={"replayed_letter_id": facts_named.headers["replayed_letter_id"]})
    await give_up(watch, again, why="KeyError")
    newest, oldest = await sees_dead_letters(app, 2)
    assert (newest["replay_of"], newest["state"]) == (dead_letter["letter_id"], "open")
    assert (oldest["letter_id"], oldest["state"]) == (dead_letter["letter_id"], "replayed")
    history = (await whole(app, dead_letter["letter_id"]))["history"]
    assert history["came_back_as"] == [newest["letter_id"]]
    assert [entry["action"] for entry in history["audit"]] == ["replayed"]


async def test_every_act_is_in_the_audit(watch: Watch, app: FastAPI, ears: Ears) -> None:
    order = uuid4()
    before = datetime.now(UTC)
    await give_up(watch, unusable(order), unusable(order))
    one, other = ids(await sees_dead_letters(app, 2))
    await act(app, f"/dead-letters/{one}/replay", {})
    await post(app, f"/dead-letters/{other}/discard", {"note": "a test order"}, token=BENS)
    entries = (await get(app, f"/audit?order_id={order}")).json()["entries"]
    shown = [
        (each["by"], each["action"], each["note"], each["letter_id"], each["service"]) for each in entries
    ]
    assert shown == [
        ("ben", "discarded", "a test order", other, "payment"),
        ("anna", "replayed", None, one, "payment"),
    ]
    assert all(before < datetime.fromisoformat(each["at"]) < datetime.now(UTC) for each in entries)
    assert (await whole(app, one))["history"]["audit"] == entries[1:]
    page = (await get(app, "/audit?limit=1")).json()
    rest = (await get(app, f"/audit?limit=1&before={page['next_before']}")).json()
    assert page["entries"] + rest["entries"] == entries
    assert rest["next_before"] is None


async def test_replaying_a_case_asks_its_owner_to_try_again(watch: Watch, app: FastAPI, ears: Ears) -> None:
    order = uuid4()
    failed = await fail(watch, "refund_failed", order)
    (dead_letter,) = await sees_dead_letters(app, 1)
    path = f"/dead-letters/{dead_letter['letter_id']}/replay"
    facts_named = await watch.receive(RetryRequested)
    assert (await act(app, path)).json()["state"] == "replayed"
    message = await eventually(lambda: facts_named.get(fail=False))
    assert message is not None
    asked = decode(message, message.routing_key)
    assert asked.fact == RetryRequested(order_id=order, service="payment", by="anna", **ANNA)
    assert asked.fact_id == uuid5(failed.fact_id, "retry_requested")
    assert asked.causation_id == failed.fact_id
    assert asked.traceparent == failed.traceparent
    assert await ears.silent()
    assert (await act(app, path)).status == 409
    (entry,) = (await get(app, f"/audit?order_id={order}")).json()["entries"]
    assert (entry["action"], entry["letter_id"]) == ("retry_requested", dead_letter["letter_id"])
    assert UUID(entry["case_id"]) == failed.fact_id
