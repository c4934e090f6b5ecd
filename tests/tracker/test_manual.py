"""What a person does about a saga that needs one: each failure answered once, by a retry or a settlement."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest
from aio_pika.abc import AbstractQueue
from fastapi import FastAPI

from events.facts import Fact
from events.facts.saga import RetryRequested, SagaOverdue, Settled
from events.messaging.envelope import Envelope, decode
from events.messaging.retries import original_routing_key
from tests.runtime.eventually import eventually
from tests.tracker.dead_letters import TOKEN, TOKENS, give_up, sees_dead_letters, unusable
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.watch import Answer, Watch, get, post

ANNA = {"note": "called the bank"}
WITHDRAWN = "created reserved captured withdrawn"
UNREFUNDED = f"{WITHDRAWN} shipment_cancelled refund_failed"
UNDISPATCHED = "created reserved captured scheduled confirmed notified dispatch_failed"
FAILURES = [
    pytest.param(UNREFUNDED, "payment", "COMPENSATING", id="refund"),
    pytest.param(f"{WITHDRAWN} cancel_failed", "fulfillment", "COMPENSATING", id="cancellation"),
    pytest.param(UNDISPATCHED, "fulfillment", "COMPLETING", id="dispatch"),
]
QUICK = {"tokens": TOKENS, "sweep_seconds": 0.2, "close_cases_seconds": 0.1}


@pytest.fixture
async def app(watch: Watch) -> FastAPI:
    """The HTTP side of a running tracker."""
    return watch.app(await watch.start(**QUICK))


async def act(app: FastAPI, order: UUID, verb: str) -> Answer:
    return await post(app, f"/sagas/{order}/{verb}", ANNA, token=TOKEN)


async def refused(app: FastAPI, order: UUID, verb: str) -> str:
    answer = await act(app, order, verb)
    assert (answer.status, answer.headers["content-type"]) == (409, "application/problem+json")
    detail: str = answer.json()["detail"]
    return detail


async def stands(app: FastAPI, order: UUID, state: str) -> None:
    async def there() -> bool:
        return bool((await get(app, f"/sagas/{order}")).json()["state"] == state)

    await eventually(there, why=state)


async def received_in(queue: AbstractQueue) -> Envelope:
    message = await eventually(lambda: queue.get(fail=False, no_ack=True))
    assert message is not None
    return decode(message, original_routing_key(message) or message.type)


async def state(watch: Watch, path: str, order: UUID) -> list[Envelope]:
    published = envelopes(path, order)
    await watch.say(*published)
    return published


async def state_next(watch: Watch, after: Envelope, fact: Fact) -> Envelope:
    published = replace(
        after, fact_id=uuid4(), fact=fact, stated_by=fact.owner, stated_at=after.stated_at + timedelta(1)
    )
    await watch.say(published)
    return published


async def dead_letter_becomes(app: FastAPI, order: UUID, state: str) -> dict[str, Any]:
    (dead_letter,) = await sees_dead_letters(app, 1, f"order_id={order}&state={state}")
    return dead_letter


@pytest.mark.parametrize(("path", "service", "then"), FAILURES)
@pytest.mark.parametrize(("verb", "kind"), [("redrive", RetryRequested), ("settle", Settled)])
async def test_a_failure_is_answered_once(
    watch: Watch, app: FastAPI, path: str, service: str, then: str, verb: str, kind: Any
) -> None:
    order = uuid4()
    queue = await watch.receive(kind)
    failed = (await state(watch, path, order))[-1]
    await stands(app, order, "NEEDS_MANUAL")
    answer = await act(app, order, verb)
    assert answer.status == 202
    asked_for = answer.json()["tries_again" if verb == "redrive" else "settled"]
    assert asked_for == [
        {
            "service": service,
            "fact": failed.fact.wire_name.removesuffix(".v1"),
            "fact_id": str(failed.fact_id),
        }
    ]
    published = await received_in(queue)
    assert published.fact == kind(order_id=order, service=service, by="anna", **ANNA)
    action = "retry_requested" if verb == "redrive" else "settled"
    assert (published.fact_id, published.causation_id) == (uuid5(failed.fact_id, action), failed.fact_id)
    await stands(app, order, then)
    for again in ("redrive", "settle"):
        assert then in await refused(app, order, again)
    (entry,) = (await get(app, f"/audit?order_id={order}")).json()["entries"]
    assert (entry["by"], entry["action"], entry["note"]) == ("anna", action, "called the bank")
    assert await queue.get(fail=False) is None


async def test_of_many_who_answer_at_once_one_does(watch: Watch, app: FastAPI) -> None:
    order = uuid4()
    await state(watch, UNREFUNDED, order)
    await stands(app, order, "NEEDS_MANUAL")
    verbs = ["redrive", "settle"] * 5
    answers = await asyncio.gather(*(act(app, order, verb) for verb in verbs))
    assert sorted(answer.status for answer in answers) == [202] + [409] * 9
    assert len((await get(app, f"/audit?order_id={order}")).json()["entries"]) == 1


async def test_a_retry_that_fails_is_a_failure_of_its_own(watch: Watch, app: FastAPI) -> None:
    order = uuid4()
    queue = await watch.receive(RetryRequested)
    failed = (await state(watch, UNREFUNDED, order))[-1]
    await stands(app, order, "NEEDS_MANUAL")
    await dead_letter_becomes(app, order, "open")
    assert (await act(app, order, "redrive")).status == 202
    asked = await received_in(queue)
    await dead_letter_becomes(app, order, "replayed")
    await stands(app, order, "COMPENSATING")
    second = await state_next(watch, asked, failed.fact)
    await stands(app, order, "NEEDS_MANUAL")
    dead_letter = await dead_letter_becomes(app, order, "open")
    assert dead_letter["message_id"] == str(second.fact_id)
    assert (await act(app, order, "redrive")).status == 202
    assert (await received_in(queue)).causation_id == second.fact_id


async def test_a_case_that_was_settled_is_closed_when_its_service_says_so(watch: Watch, app: FastAPI) -> None:
    order = uuid4()
    published = await state(watch, UNREFUNDED, order)
    await stands(app, order, "NEEDS_MANUAL")
    dead_letter = await dead_letter_becomes(app, order, "open")
    assert (await act(app, order, "settle")).status == 202
    answer = await post(app, f"/dead-letters/{dead_letter['letter_id']}/replay", ANNA, token=TOKEN)
    assert answer.status == 409
    assert "answered already" in answer.json()["detail"]
    await dead_letter_becomes(app, order, "open")
    await state_next(watch, published[-1], envelopes("refunded", order)[0].fact)
    await dead_letter_becomes(app, order, "resolved")
    closed, settled = (await get(app, f"/audit?order_id={order}")).json()["entries"]
    assert (closed["by"], closed["action"], settled["by"]) == ("tracker", "resolved", "anna")


async def test_a_letter_that_comes_after_its_case_is_over_is_closed_too(watch: Watch) -> None:
    resolved, retried = uuid4(), uuid4()
    await state(watch, f"{UNREFUNDED} refunded released cancelled", resolved)
    await state(watch, UNREFUNDED, retried)
    # As though somebody had been quicker than the dead letter.
    case = uuid5(retried, "refund_failed")
    await watch.rows(
        "INSERT INTO audit (by, action, order_id, case_id) VALUES ('anna', 'retry_requested', %(o)s, %(c)s)",
        o=retried,
        c=case,
    )
    app = watch.app(await watch.start(**QUICK))
    await dead_letter_becomes(app, resolved, "resolved")
    await dead_letter_becomes(app, retried, "replayed")


async def test_telling_of_the_other_end_does_not_close_the_case_of_this_one(
    watch: Watch, app: FastAPI
) -> None:
    order, other = uuid4(), uuid4()
    await state(watch, "created reserved captured scheduled confirmed not_notified dispatched", order)
    await state(watch, "created confirmed not_notified notified_of_cancellation", other)
    await dead_letter_becomes(app, order, "open")
    await state(watch, "notified", order)
    await dead_letter_becomes(app, order, "resolved")
    await dead_letter_becomes(app, other, "open")


@pytest.mark.parametrize(
    ("path", "late", "again"),
    [
        (PATHS["carrier refuses"], "reversed", "refunded_again"),
        (PATHS["withdrawn at once"], "label_rejected", "cancelled_again"),
        (PATHS["completed"], "came_back", "notified_again"),
    ],
)
async def test_what_fails_after_it_was_done_is_a_case_until_it_is_done_again(
    watch: Watch, app: FastAPI, path: str, late: str, again: str
) -> None:
    order, over = uuid4(), uuid4()
    await state(watch, f"{path} {late} {again}", over)
    await state(watch, f"{path} {late}", order)
    # That one was closed says that the other was looked at too.
    await dead_letter_becomes(app, over, "resolved")
    await dead_letter_becomes(app, order, "open")
    if late != "came_back":
        assert (await act(app, order, "settle")).status == 202
        assert "nothing" in await refused(app, over, "settle")
    await state(watch, again, order)
    await dead_letter_becomes(app, order, "resolved")


async def test_who_is_overdue_is_sent_its_fact_again_as_often_as_asked(watch: Watch, app: FastAPI) -> None:
    order = uuid4()
    queue = await watch.receive_redrives()
    published = await state(watch, f"{WITHDRAWN} shipment_cancelled", order)
    causation = published[-1]
    overdue = SagaOverdue(
        order_id=order, service="payment", because_of_id=causation.fact_id, waiting_for="payment.refunded"
    )
    await state_next(watch, causation, overdue)
    await stands(app, order, "NEEDS_MANUAL")
    assert "redriven, not settled" in await refused(app, order, "settle")
    await queue.purge()
    for _ in range(2):
        answer = await act(app, order, "redrive")
        assert answer.status == 202
        assert answer.json()["tries_again"] == []
        (sent,) = answer.json()["sent_again"]
        assert (sent["service"], sent["fact"]) == ("payment", "fulfillment.shipment_cancelled")
        again = await received_in(queue)
        assert (again.fact_id, again.fact) == (causation.fact_id, causation.fact)
        assert (again.stated_by, again.stated_at) == (causation.stated_by, causation.stated_at)
    actions = [entry["action"] for entry in (await get(app, f"/audit?order_id={order}")).json()["entries"]]
    assert actions == ["sent_again"] * 2


async def test_there_is_nothing_to_do_about_a_saga_that_needs_nobody(watch: Watch, app: FastAPI) -> None:
    completed, contradictory = uuid4(), uuid4()
    await state(watch, "created reserved captured scheduled confirmed sold dispatched notified", completed)
    await state(watch, "created confirmed cancelled", contradictory)
    await stands(app, completed, "COMPLETED")
    await stands(app, contradictory, "NEEDS_MANUAL")
    for verb in ("redrive", "settle"):
        assert "COMPLETED and needs nobody" in await refused(app, completed, verb)
        assert "both order.confirmed and order.cancelled" in await refused(app, contradictory, verb)
        assert (await act(app, uuid4(), verb)).status == 404


async def test_a_rebuild_keeps_the_audit(watch: Watch, app: FastAPI) -> None:
    order = uuid4()
    await state(watch, UNREFUNDED, order)
    await stands(app, order, "NEEDS_MANUAL")
    await act(app, order, "settle")
    await stands(app, order, "COMPENSATING")
    await watch.rebuild()
    assert len((await get(app, f"/audit?order_id={order}")).json()["entries"]) == 1
    assert (await act(app, order, "settle")).status == 409


async def test_the_pages_show_letters_acts_and_what_can_be_done(watch: Watch, app: FastAPI) -> None:
    order = uuid4()
    await state(watch, UNREFUNDED, order)
    await give_up(watch, unusable(order, body=b"secret"), why="<b>")
    await sees_dead_letters(app, 2, f"order_id={order}")
    await stands(app, order, "NEEDS_MANUAL")
    page = (await get(app, f"/ui/sagas/{order}")).text
    assert f"/sagas/{order}/redrive" in page
    assert f"/sagas/{order}/settle" in page
    assert "issue_credit_note: refused" in page
    assert "$TOKEN" in page
    await act(app, order, "settle")
    await stands(app, order, "COMPENSATING")
    page = (await get(app, f"/ui/sagas/{order}")).text
    assert "called the bank" in page
    assert f"/sagas/{order}/settle" not in page
    listed = (await get(app, "/ui/dead-letters?service=payment&state=open")).text
    assert listed.count(f"/ui/sagas/{order}") == 2
    assert "&lt;b&gt;" in listed
    for text in (page, listed):
        assert "secret" not in text
        assert "<b><" not in text
    assert "None." in (await get(app, "/ui/dead-letters?state=discarded")).text
    assert (await get(app, "/ui/dead-letters?state=lost")).status == 422
