"""What the tracker tells over HTTP: sagas, trails, figures, pages; and clear answers to bad questions."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI

from events.facts.order import OrderWithdrawn
from events.http.tokens import named
from events.messaging.envelope import encode
from saga_tracker.http import queries
from saga_tracker.projection import State
from tests.tracker.dead_letters import BENS, TOKEN, TOKENS, give_up, sees_dead_letters, unusable
from tests.tracker.facts import BEGAN, PATHS, TRACEPARENT, envelopes
from tests.tracker.watch import Watch, get

NOW = datetime.now(UTC)


@pytest.fixture
async def app(watch: Watch) -> FastAPI:
    """The HTTP side of a running tracker."""
    return watch.app(await watch.start())


async def tell(watch: Watch, *paths: str, began: datetime = BEGAN) -> list[UUID]:
    """An order on each of these paths, once the tracker has seen it: each fact as it was published."""
    seen = await watch.facts_seen()
    orders = [uuid4() for _ in paths]
    facts = [
        fact for path, order in zip(paths, orders, strict=True) for fact in envelopes(path, order, began)
    ]
    await watch.say(*facts)
    await watch.sees_facts(seen + len(facts))
    await watch.read_when_published()
    return orders


async def test_a_saga_says_where_it_stands_and_whom_it_waits_for(watch: Watch, app: FastAPI) -> None:
    (order,) = await tell(watch, "created reserved captured")
    answer = await get(app, f"/sagas/{order}")
    saga = answer.json()
    assert answer.status == 200
    assert (saga["state"], saga["timed_out"], saga["reason"]) == ("PENDING_SHIPMENT", False, None)
    assert saga["since"] == "2026-11-28T06:00:02Z"
    assert saga["started_at"] == "2026-11-28T06:00:00Z"
    assert saga["ended_at"] is None
    assert saga["in_state_seconds"] == pytest.approx(saga["duration_seconds"] - 2)
    assert saga["trace_id"] == TRACEPARENT.split("-")[1]
    (wait,) = saga["waits"]
    assert wait["service"] == "fulfillment"
    assert "fulfillment.shipment_scheduled" in wait["facts"]
    assert (wait["because_of"], wait["because_of_id"]) == (
        "payment.captured",
        str(envelopes("created reserved captured", order)[2].fact_id),
    )


async def test_the_timeline_has_causes_services_and_times(watch: Watch, app: FastAPI) -> None:
    (order,) = await tell(watch, PATHS["declined"])
    saga = (await get(app, f"/sagas/{order}")).json()
    assert saga["duration_seconds"] == 4.0
    shown = [
        (
            fact["name"],
            fact["stated_by"],
            fact["causation"] and fact["causation"]["name"],
            fact["since_start_seconds"],
        )
        for fact in saga["facts"]
    ]
    assert shown == [
        ("order.created", "order", None, 0.0),
        ("inventory.stock_reserved", "inventory", "order.created", 1.0),
        ("payment.declined", "payment", "inventory.stock_reserved", 2.0),
        ("inventory.stock_released", "inventory", "payment.declined", 3.0),
        ("order.cancelled", "order", "inventory.stock_released", 4.0),
        ("notification.customer_notified", "notification", "order.cancelled", 5.0),
    ]
    assert {fact["since_causation_seconds"] for fact in saga["facts"]} == {None, 1.0}


async def test_a_publisher_that_does_not_date_its_order_does_not_date_it_last(
    watch: Watch, app: FastAPI
) -> None:
    (order,) = await tell(watch, "reserved captured")
    created = encode(envelopes("created", order)[0])
    created.timestamp, created.headers = None, {}
    await watch.publish(created, "order.created.v2")
    await watch.sees_facts(3)
    saga = (await get(app, f"/sagas/{order}")).json()
    assert [(fact["name"], fact["since_start_seconds"]) for fact in saga["facts"]] == [
        ("order.created", 0.0),
        ("inventory.stock_reserved", 0.0),
        ("payment.captured", 1.0),
    ]


async def test_a_payment_token_is_nobodys_to_see(watch: Watch, app: FastAPI) -> None:
    (order,) = await tell(watch, PATHS["completed"])
    for path in (f"/sagas/{order}", f"/ui/sagas/{order}"):
        assert "tok_ok" not in (await get(app, path)).text


async def test_an_order_nobody_spoke_of_is_not_found(app: FastAPI) -> None:
    order = uuid4()
    answer = await get(app, f"/sagas/{order}")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == f"no fact of order {order} has been read"


@pytest.mark.parametrize(
    "path",
    [
        "/sagas/seven",
        "/sagas?state=DONE",
        "/sagas?waiting_for=the%20post",
        "/sagas?older_than_seconds=-1",
        "/sagas?older_than_seconds=nan",
        "/sagas?older_than_seconds=1e300",
        "/sagas?limit=0",
        "/sagas?limit=501",
        "/sagas?sort=sideways",
        "/sagas?cursor=x",
        "/sagas?cursor=%FF%FE",
        "/sagas?cursor=MjAyNi0xMS0yMVQxMjowMDowMCBub25l",
        "/sagas?cursor=MjAyNi0xMS0yMVQxMjowMDowMCA2YzdjNzAyNy1kNjZmLTVhOTYtYjg0Ny0zZGE5ZTRlNDMwODA=",
        f"/sagas?cursor={'A' * 201}",
        "/ui/sagas?order_id=seven",
    ],
)
async def test_a_bad_question_gets_a_problem_for_an_answer(app: FastAPI, path: str) -> None:
    answer = await get(app, path)
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["detail"]


async def test_sagas_are_found_by_state_wait_and_age(watch: Watch, app: FastAPI) -> None:
    completed, declined, pending, held = await tell(
        watch, PATHS["completed"], "created reserved declined", "created reserved", "created reserved held"
    )
    (young,) = await tell(watch, "created reserved", began=datetime.now(UTC))

    async def found(query: str) -> set[UUID]:
        return {UUID(saga["order_id"]) for saga in (await get(app, f"/sagas?{query}")).json()["sagas"]}

    assert await found("") == {completed, declined, pending, held, young}
    assert await found("state=COMPLETED") == {completed}
    assert await found("state=PENDING_PAYMENT") == {pending, young}
    assert await found("waiting_for=payment") == {pending, held, young}
    assert await found("waiting_for=inventory.stock_released") == {declined}
    assert await found("waiting_for=payment&state=AWAITING_APPROVAL") == {held}
    assert await found("older_than_seconds=0") >= {pending, held}
    assert young not in await found("older_than_seconds=600")
    assert await found("waiting_for=notification") == set()


async def test_fields_are_masked_or_hidden_from_roles_below(watch: Watch) -> None:
    tracker = await watch.start(
        tokens=f"{TOKENS} {named('vera', 'viewer', 'veras')}",
        masked_fields={"customer": "operator", "sku": "approver"},
        hidden_fields={"currency": "admin"},
    )
    app = watch.app(tracker)
    (order,) = await tell(watch, "created reserved captured")

    async def seen(token: str | None) -> tuple[Any, Any, Any]:
        saga = (await get(app, f"/sagas/{order}", token=token)).json()
        created, captured = saga["facts"][0]["body"], saga["facts"][2]["body"]
        assert created["lines"][0]["quantity"] == 2
        assert captured["customer"] == created["customer"]
        assert all("payment_token" not in fact["body"] for fact in saga["facts"])
        return created["customer"], created["lines"][0]["sku"], created.get("currency")

    masked = "(masked)"
    assert await seen(None) == (masked, masked, None)
    assert await seen("veras") == (masked, masked, None)
    assert await seen(BENS) == ("cust_1", masked, None)
    assert await seen(TOKEN) == ("cust_1", "lamp", "EUR")
    fact_id = (await get(app, f"/sagas/{order}")).json()["facts"][0]["fact_id"]
    for path in (
        f"/ui/sagas/{order}",
        f"/ui/sagas/{order}/facts/{fact_id}",
        "/ui/facts/order.created.v2",
    ):
        for token, sees in (("veras", False), (BENS, True)):
            page = await get(app, path, token=token)
            assert page.status == 200
            assert ("cust_1" in page.text, "lamp" in page.text) == (sees, False)
        assert "lamp" in (await get(app, path, token=TOKEN)).text


@pytest.mark.parametrize(("few", "walked"), [(1_000, 10), (2, 1_000), (2, 3), (2, 8)])
async def test_what_few_and_what_many_have_is_found_alike(
    watch: Watch, app: FastAPI, monkeypatch: pytest.MonkeyPatch, few: int, walked: int
) -> None:
    """By what was looked up first, by walking, and where that finds too little: in pages, from both ends."""
    monkeypatch.setattr(queries, "FEW_ORDERS", few)
    monkeypatch.setattr(queries, "WALKED_SAGAS", walked)
    orders = [
        await tell(watch, *["created reserved"] * 3, began=BEGAN + timedelta(minutes=minute))
        for minute in range(3)
    ]
    await watch.rows(
        "UPDATE saga_facts SET body = jsonb_set(body, '{lines,0,sku}', to_jsonb('chair'::text))"
        " WHERE order_id = ANY(%(ids)s)",
        ids=orders[1],
    )
    everybody = {
        UUID(saga["order_id"]): saga["since"] for saga in (await get(app, "/sagas?limit=500")).json()["sagas"]
    }
    lamps, chairs = {*orders[0], *orders[2]}, set(orders[1])
    for query, wanted in (
        ("sku=lamp", lamps),
        ("sku=chair", chairs),
        ("customer=cust_1", {*lamps, *chairs}),
        ("sku=lamp&customer=cust_1", lamps),
        ("sku=lamp&state=PENDING_PAYMENT", lamps),
        ("sku=lamp&state=COMPLETED", set[UUID]()),
    ):
        for sort in ("newest", "oldest"):
            found: list[UUID] = []
            path = f"/sagas?{query}&sort={sort}&limit=2"
            page = (await get(app, path)).json()
            while page["next_cursor"]:
                found += [UUID(saga["order_id"]) for saga in page["sagas"]]
                page = (await get(app, f"{path}&cursor={page['next_cursor']}")).json()
            found += [UUID(saga["order_id"]) for saga in page["sagas"]]
            in_order = sorted(wanted, key=lambda one: (everybody[one], one), reverse=sort == "newest")
            assert found == in_order, (query, sort)


async def test_sagas_are_found_by_reason_time_what_was_ordered_and_id(watch: Watch, app: FastAPI) -> None:
    completed, declined, pending = await tell(
        watch, PATHS["completed"], "created reserved declined", "created reserved"
    )
    await give_up(watch, unusable(pending))
    await sees_dead_letters(app, 1)

    async def found(query: str) -> set[UUID]:
        return {UUID(saga["order_id"]) for saga in (await get(app, f"/sagas?{query}")).json()["sagas"]}

    assert await found("reason=card_declined") == {declined}
    assert await found("reason=bored") == set()
    assert await found("sku=lamp&state=COMPLETED") == {completed}
    assert await found("sku=chair") == set()
    assert await found("customer=cust_1") == {completed, declined, pending}
    assert await found("customer=cust_2") == set()
    assert await found(f"order={str(pending)[:8]}") == {pending}
    assert await found(f"order={str(pending)[:13]}") == {pending}
    assert await found("has_letter=true") == {pending}
    assert await found("since_from=2999-01-01T00:00Z") == set()
    assert await found("since_to=2999-01-01T00:00Z") == {completed, declined, pending}
    for wrong in ("order=xyzt", "order=ab", "since_from=2026-01-01T00:00", "since_to=soon", "since_to=0.5"):
        assert (await get(app, f"/sagas?{wrong}")).status == 422


async def test_pages_cover_every_saga_once_even_while_others_move(watch: Watch, app: FastAPI) -> None:
    orders = [
        (await tell(watch, "created", began=NOW - timedelta(hours=1, seconds=second // 2)))[0]
        for second in range(9)
    ]
    for sort, first_two in (("newest", (0, 1)), ("oldest", (7, 8))):
        seen: list[str] = []
        query = f"/sagas?limit=2&sort={sort}&state=PENDING_INVENTORY"
        cursor = ""
        while True:
            page = (await get(app, query + cursor)).json()
            seen += [saga["order_id"] for saga in page["sagas"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
            await tell(watch, "created reserved")
        assert sorted(seen) == sorted(map(str, orders))
        assert {seen.index(str(orders[0])), seen.index(str(orders[1]))} == set(first_two)


async def test_stats_count_and_time_what_happens(watch: Watch, app: FastAPI) -> None:
    now = datetime.now(UTC)
    await tell(watch, PATHS["completed"], PATHS["completed"], PATHS["declined"], began=now)
    await tell(watch, PATHS["timed out"], "created reserved held", began=now)
    await watch.publish_junk()
    stats: dict[str, Any] = (await get(app, "/stats")).json()
    assert set(stats["states"]) == {state.value for state in State}
    assert {state: count for state, count in stats["states"].items() if count} == {
        "COMPLETED": 2,
        "CANCELLED": 2,
        "AWAITING_APPROVAL": 1,
    }
    assert stats["timed_out"] == 1
    assert stats["oldest_waiting"]["state"] == "AWAITING_APPROVAL"
    assert sum(minute["sagas"] for minute in stats["started_per_minute"]) == 5
    assert sum(minute["sagas"] for minute in stats["ended_per_minute"]) == 4
    durations = {each["state"]: each for each in stats["durations"]}
    assert durations["COMPLETED"] == {
        "state": "COMPLETED",
        "sagas": 2,
        "p50_seconds": 7.0,
        "p99_seconds": 7.0,
    }
    assert durations["CANCELLED"]["p50_seconds"] == 5.5
    assert stats["stream"]["reading"] is True
    assert stats["stream"]["unreadable"] == 1
    assert stats["stream"]["lag"] == 0
    assert 0 <= stats["stream"]["last_message_seconds_ago"] < 60


async def test_an_empty_view_has_figures_too(app: FastAPI) -> None:
    stats = (await get(app, "/stats")).json()
    assert (sum(stats["states"].values()), stats["oldest_waiting"], stats["durations"]) == (0, None, [])


async def test_the_pages_show_sagas_and_their_timeline(watch: Watch, app: FastAPI) -> None:
    (order,) = await tell(watch, PATHS["timed out"])
    home = await get(app, "/")
    assert home.status == 200
    assert home.headers["content-type"].startswith("text/html")
    assert f"/ui/sagas/{order}" in home.text
    page = await get(app, f"/ui/sagas/{order}")
    assert "CANCELLED" in page.text
    assert "timed out" in page.text
    assert page.text.count("<summary>") == len(PATHS["timed out"].split())
    assert str(order) not in (await get(app, "/?state=COMPLETED")).text
    moved = await get(app, f"/ui/sagas?order_id={order}")
    assert (moved.status, moved.headers["location"]) == (303, f"/ui/sagas/{order}")
    assert (await get(app, f"/ui/sagas/{uuid4()}")).status == 404


async def test_what_facts_say_is_escaped_on_the_pages(watch: Watch, app: FastAPI) -> None:
    (order,) = await tell(watch, "created")
    published = envelopes("created withdrawn", order)[1]
    script = OrderWithdrawn(order_id=order, reason="<script>alert(1)</script>")
    await watch.say(type(published)(published.fact_id, script, "<b>", published.stated_at))
    await watch.sees_facts(2)
    for path in ("/", f"/ui/sagas/{order}"):
        text = (await get(app, path)).text
        assert "<script>" not in text
        assert "<b>&" not in text
        assert "&lt;script&gt;" in text


async def test_readiness_says_how_far_behind_it_is(app: FastAPI) -> None:
    answer = await get(app, "/readyz")
    assert answer.status == 200
    assert answer.json() == {
        "status": "ready",
        "database": True,
        "broker": True,
        "reader": True,
        "publisher": True,
        "deadline_scheduler": True,
        "dead_letters": True,
        "cases": True,
        "reconciler": True,
        "lag_messages": 0,
    }


async def test_without_its_database_it_says_so_and_when_to_come_back(watch: Watch) -> None:
    proxy = await watch.proxy_database()
    tracker = await watch.start(database_url=proxy.url(watch.database_url), database_timeout_seconds=0.5)
    app = watch.app(tracker)
    proxy.cut()
    answer = await get(app, "/stats")
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert (await get(app, "/readyz")).status == 503
    assert (await get(app, "/healthz")).status == 200
