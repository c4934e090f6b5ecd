"""Why a saga waits, in words; what a person can do about it, and what people did."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus, urlencode
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from fastapi import FastAPI

from events.facts.payment import PaymentDeclined
from events.messaging.envelope import encode
from events.service import DEAD_LETTER_EXCHANGE
from saga_tracker.causes.cause import Cause, Waiting, act_about, in_words, late
from tests.runtime.eventually import eventually
from tests.servers import serving
from tests.tracker.dead_letters import TOKEN, TOKENS, reason_of
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.watch import Watch, get

NOW = datetime(2026, 11, 28, tzinfo=UTC)
ORDER = UUID(int=7)
LETTER = UUID(int=8)
MOST_ASKED = 3


def cause(kind: str, code: str | None = None, **more: Any) -> Cause:
    party = more.pop("party", None)
    given: dict[str, Any] = {"what": "authorise", "attempt": 4, "since": NOW, "known_at": NOW, **more}
    return Cause(kind=kind, code=code, party=party, error=in_words(code, party), **given)


def call(code: str | None, party: str | None = "provider") -> Cause:
    return cause("call", code, party=party)


LOCK = cause("lock", session="pid 12, role inventory, application left open", attempt=0)

WORDS = {
    "provider_unreachable": "provider cannot be reached",
    "provider_timeout": "provider did not answer in time",
    "timeout": "provider did not answer in time",
    "provider_answer_lost": "the answer of provider was lost",
    "provider_answer_too_large": "the answer of provider is too large",
    "provider_answered_401": "provider refuses our credentials (401)",
    "provider_answered_403": "provider refuses our credentials (403)",
    "provider_answered_200": "provider answered 200 with something else than an answer",
    "provider_answered_404": "provider answered 404",
    "provider_answered_429": "provider is asked too often (429)",
    "provider_answered_503": "provider answered 503",
    "provider_circuit_open": "provider is left alone for a while, for it failed before",
    "gateway_raised_KeyError": "the gateway to provider broke: KeyError",
    "outcome_not_accepted: CheckViolation": "the outcome was not accepted: CheckViolation",
    "CheckViolation: wrong of payments": "CheckViolation: wrong of payments",
}


@pytest.mark.parametrize(("code", "words"), WORDS.items())
def test_a_code_in_words(code: str, words: str) -> None:
    assert in_words(code, "provider") == words


def test_a_party_of_two_words() -> None:
    assert in_words("mail_server_unavailable_451", "mail_server") == "mail server is not available"
    assert in_words("mail_postponed_451", "mail_server") == "mail server wants to be asked later (451)"


ACTS: list[tuple[Cause | None, str]] = [
    (None, "wait a moment: payment is being asked"),
    (call("provider_answered_401"), "mend MURMURATION_PROVIDER_TOKEN and restart payment"),
    (call("provider_answered_403"), "mend MURMURATION_PROVIDER_TOKEN and restart payment"),
    (call("provider_answered_200"), "what answers at MURMURATION_PROVIDER_URL answers 200"),
    (call("provider_answered_302"), "what answers at MURMURATION_PROVIDER_URL answers 302"),
    (call("provider_answered_404"), "what answers at MURMURATION_PROVIDER_URL answers 404"),
    (call("provider_answered_429"), "have its limit raised"),
    (call("provider_answered_503"), "provider fails (503): see to it"),
    (call("provider_unreachable"), "start provider, or mend the URL"),
    (call("provider_timeout"), "provider is slow or hangs"),
    (call("timeout"), "provider is slow or hangs"),
    (call("provider_answer_lost"), "provider is slow or hangs"),
    (call(None), "wait: provider is being asked"),
    (call(None, None), "see what the log of payment says"),
    (call("mail_server_unavailable", "mail_server"), "nobody is reached at MURMURATION_SMTP_URL"),
    (call("gateway_raised_KeyError"), "a mistake in payment"),
    (call("outcome_not_accepted: CheckViolation"), "its database refuses the outcome"),
    (LOCK, "SELECT pg_terminate_backend(12)"),
    (cause("lock"), "see pg_stat_activity"),
    (
        cause("message", "CheckViolation: wrong of payments", of=4),
        "mend what payment fails at (CheckViolation",
    ),
    (cause("publish", "refused", party="broker"), "make room in the queue that is full"),
    (cause("broker", "away", party="broker"), "start the broker"),
    (cause("broker", "blocked", party="broker"), "free disk or memory of the broker"),
    (cause("database", "away", party="database"), "start the database of payment"),
    (cause("service", "gone", party="payment"), "payment_svc is not there: start it"),
    (cause("service", "silent", party="payment"), "payment_svc does not answer"),
    (cause("unknown"), "wait: payment works"),
    (cause("of another release"), "see what the log of payment says"),
    (cause("dead_letter", "CheckViolation", letter_id=LETTER), f"POST /dead-letters/{LETTER}/replay"),
]


@pytest.mark.parametrize(("known", "act"), ACTS, ids=lambda one: str(one)[:40])
def test_what_a_person_can_do(known: Cause | None, act: str) -> None:
    waiting = Waiting(ORDER, "payment", "inventory.stock_reserved")
    assert act in act_about(waiting, known)


def test_what_was_given_up_is_redriven_once_it_is_mended() -> None:
    waiting = Waiting(ORDER, "payment", "fulfillment.shipment_cancelled", overdue=True)
    act = act_about(waiting, call("provider_timeout"))
    assert "slow or hangs" in act
    assert f"POST /sagas/{ORDER}/redrive" in act


def test_what_only_a_person_can_decide() -> None:
    assert "approve or reject" in act_about(Waiting(ORDER, "payment", "payment.held", person=True), None)
    failed = Waiting(ORDER, "payment", "payment.refund_failed", person=True)
    assert "settle" in act_about(failed, None)
    assert "redrive" in act_about(failed, None)


LATE = [
    (None, "payment late: nobody knows why"),
    (call("provider_timeout"), "payment late: provider did not answer in time, 4 attempts"),
    (call(None), "payment late: authorise at provider is not answered yet, 4 attempts"),
    (cause("service", "silent", party="payment", attempt=0), "payment late: payment does not answer"),
    (
        cause("message", "CheckViolation: wrong of payments", what="inventory.stock_reserved.v1"),
        "payment late: it fails at inventory.stock_reserved.v1, CheckViolation: wrong of payments, 4 att",
    ),
    (LOCK, "payment late: what it needs is locked by pid 12, role inventory, application left open"),
    (cause("unknown", what="inventory.stock_reserved", attempt=0), "payment late: it has not answered "),
]


@pytest.mark.parametrize(("known", "words"), LATE)
def test_why_a_service_is_late(known: Cause | None, words: str) -> None:
    assert late("payment", known).startswith(words)


def test_a_reason_is_never_too_long_for_a_fact() -> None:
    assert len(late("payment", cause("message", "X" * 400))) == 200


async def test_what_people_decide_at_a_service_is_in_the_audit_once(watch: Watch) -> None:
    tracker = await watch.start(tokens=TOKENS)
    approved, rejected, declined = uuid4(), uuid4(), uuid4()
    await watch.say(*envelopes("created reserved held approved", approved))
    *before, refusal = envelopes("created reserved held declined", rejected)
    by_grace = PaymentDeclined(order_id=rejected, reason="approval_rejected", by="grace", note="too much")
    await watch.say(*before, replace(refusal, fact=by_grace))
    await watch.say(*envelopes("created reserved declined", declined))
    apps = [watch.app(tracker)]

    async def entries(order: UUID) -> list[tuple[str, str, str, str]]:
        found = (await get(apps[-1], f"/audit?order_id={order}", token=TOKEN)).json()["entries"]
        return [(entry["by"], entry["action"], entry["note"], entry["service"]) for entry in found]

    async def all_there() -> bool:
        return bool(await entries(approved) and await entries(rejected) and await stands(apps[-1], declined))

    await eventually(all_there)
    decided = (
        [("grace", "approved", "I spoke to them", "payment")],
        [("grace", "rejected", "too much", "payment")],
    )
    assert (await entries(approved), await entries(rejected), await entries(declined)) == (*decided, [])
    await watch.stop(tracker)
    await watch.rebuild()
    apps.append(watch.app(await watch.start(tokens=TOKENS)))
    assert (await entries(approved), await entries(rejected)) == decided


async def stands(app: FastAPI, order: UUID) -> bool:
    return bool((await get(app, f"/sagas/{order}")).json().get("state") == "COMPENSATING")


@asynccontextmanager
async def saying(by_order: dict[str, dict[str, Any]]) -> AsyncIterator[str]:
    """A service that tells why some orders wait, and of the others nothing; its URL."""

    async def causes(request: web.Request) -> web.Response:
        asked = request.query.getall("order_id", [])
        assert len(asked) <= MOST_ASKED
        known = {one: [by_order[one]] for one in asked if one in by_order}
        return web.json_response({"orders": known, "service": []})

    app = web.Application()
    app.add_routes([web.get("/causes", causes)])
    async with serving(app) as url:
        yield url


async def test_sagas_are_counted_and_found_by_the_cause_of_their_wait(watch: Watch) -> None:
    slow = [uuid4() for _ in range(2 * MOST_ASKED)]
    poisoned, given_up, over, unasked = uuid4(), uuid4(), uuid4(), uuid4()
    asked_at = NOW.isoformat()
    timeout = {"kind": "call", "what": "authorise", "party": "provider", "error": "provider_timeout"}
    failing = {"kind": "message", "what": "inventory.stock_reserved.v1", "error": "CheckViolation: wrong"}
    known = {str(one): {**timeout, "since": asked_at} for one in (*slow, over)}
    known[str(poisoned)] = {**failing, "since": asked_at}
    async with saying(known) as url:
        tracker = await watch.start(
            tokens=TOKENS,
            service_urls={"payment": url},
            cause_orders=MOST_ASKED,
            cause_after_seconds=0.0,
            cause_watch_seconds=0.05,
            board_late_seconds=0.1,
            board_fresh_seconds=0.05,
        )
        app = watch.app(tracker)
        for order in (*slow, poisoned, given_up, over):
            await watch.say(*envelopes("created reserved", order))
        await watch.say(*envelopes("created", unasked))
        exchange = await watch.channel.get_exchange(DEAD_LETTER_EXCHANGE)
        dead = encode(envelopes("created reserved", given_up)[1])
        dead.headers = {**dead.headers, **reason_of("CheckViolation")}
        await exchange.publish(dead, "payment")

        async def found(cause: str, **more: str) -> set[UUID]:
            query = urlencode({"cause": cause, "limit": 500, **more})
            return {UUID(saga["order_id"]) for saga in (await get(app, f"/sagas?{query}")).json()["sagas"]}

        words = "provider did not answer in time"

        async def all_known() -> bool:
            return (
                await found(words) == {*slow, over}
                and await found("CheckViolation: wrong") == {poisoned}
                and await found("dead letter: CheckViolation") == {given_up}
            )

        await eventually(all_known)
        assert await found("call", waiting_for="payment") == {*slow, over}
        assert await found("call", waiting_for="inventory") == set()
        assert await found("message") == {poisoned}
        assert await found("dead_letter") == {given_up}
        assert await found("nothing of the kind") == set()
        # What was known of a wait that is over does not count.
        await watch.say(envelopes(PATHS["completed"], over)[2])

        async def moved() -> bool:
            return await found(words) == set(slow)

        await eventually(moved)

        async def counted() -> dict[tuple[str, str | None], int] | None:
            rows = (await tracker.board.going_on.get())["waits"]
            counts = {(row["service"], row["cause"]): row["sagas"] for row in rows}
            return counts if counts.get(("payment", words)) == len(slow) and len(counts) == 5 else None

        assert await eventually(counted) == {
            ("payment", words): len(slow),
            ("payment", "CheckViolation: wrong"): 1,
            ("payment", "dead letter: CheckViolation"): 1,
            ("fulfillment", None): 1,
            ("inventory", None): 1,
        }
        page = await get(app, "/", token=None)
        assert f"waiting_for=payment&amp;cause={quote_plus(words)}&amp;sort=oldest" in page.text


async def test_the_cause_of_a_saga_that_somebody_has_open_is_renewed_behind(watch: Watch) -> None:
    order = uuid4()
    cause = {"kind": "call", "what": "authorise", "party": "provider", "since": NOW.isoformat()}
    known = {str(order): {**cause, "error": "provider_timeout"}}
    async with saying(known) as url:
        tracker = await watch.start(
            service_urls={"payment": url},
            cause_after_seconds=0.0,
            cause_watch_seconds=0.05,
            # Longer than the test: no look asks again.
            cause_cache_seconds=600,
        )
        app = watch.app(tracker)
        await watch.say(*envelopes("created reserved", order))

        async def shows(error: str) -> bool:
            waits = (await get(app, f"/sagas/{order}")).json().get("waits", ())
            return any(wait["cause"] and wait["cause"]["error"] == error for wait in waits)

        await eventually(lambda: shows("provider did not answer in time"))
        known[str(order)]["error"] = "provider_answered_503"
        await eventually(lambda: shows("provider answered 503"))


@pytest.mark.parametrize(
    ("end", "attempts", "state"),
    [
        ("created reserved withdrawn shipment_cancelled refunded released cancelled", 4, "resolved"),
        # Its order still waits for the service.
        ("created reserved", 4, "open"),
        # What was refused at once may be a forgery.
        ("created reserved withdrawn shipment_cancelled refunded released cancelled", 1, "open"),
    ],
)
async def test_a_letter_is_resolved_when_its_order_has_ended_without_it(
    watch: Watch, end: str, attempts: int, state: str
) -> None:
    app = watch.app(await watch.start(close_cases_seconds=0.1, tokens=TOKENS))
    order = uuid4()
    facts = envelopes(end, order)
    dead = encode(facts[1])
    why = reason_of("CheckViolation") | {"dead_letter_attempts": attempts}
    dead.headers = {**dead.headers, **why}
    exchange = await watch.channel.get_exchange(DEAD_LETTER_EXCHANGE)
    await exchange.publish(dead, "payment")
    await watch.say(*facts)

    async def named() -> dict[str, Any] | None:
        saga = (await get(app, f"/sagas/{order}")).json()
        letters = saga.get("dead_letters") or []
        return saga if len(saga.get("facts", ())) == len(facts) and letters else None

    saga = await eventually(named)
    if state == "resolved":

        async def resolved() -> bool:
            (letter,) = (await get(app, f"/dead-letters?order_id={order}")).json()["dead_letters"]
            return bool(letter["state"] == state)

        await eventually(resolved)
        (entry,) = (await get(app, f"/audit?order_id={order}", token=TOKEN)).json()["entries"]
        assert entry["action"] == "resolved"
        assert "its order ended without it: CANCELLED" in entry["note"]
    else:
        await asyncio.sleep(0.5)
        saga = (await get(app, f"/sagas/{order}")).json()
        assert saga["dead_letters"][0]["state"] == "open"
    if end == "created reserved":
        (wait,) = saga["waits"]
        assert wait["cause"]["kind"] == "dead_letter"
        assert f"POST /dead-letters/{saga['dead_letters'][0]['letter_id']}/replay" in wait["act"]
