"""Every HTTP endpoint of the running system: its good answer, and what it says to a bad request."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest

from compose.demo.shop import Item, Refused
from saga_tracker.consistency.snapshot import statuses_of
from saga_tracker.steps import SERVICES
from tests.system.stage import System, until

ABOVE_THE_LIMIT = 1_000_001
UNKNOWN = "00000000-0000-4000-8000-000000000000"
ORDER = {
    "customer": "cust_ada",
    "currency": "EUR",
    "payment_token": "tok_ok",
    "lines": [{"sku": "apple", "quantity": 1, "amount_minor": 100}],
}


def line(**changes: Any) -> dict[str, Any]:
    return {**ORDER, "lines": [{"sku": "apple", "quantity": 1, "amount_minor": 100, **changes}]}


# Method, path, body, and the status and a word of the problem that it gets.
PROBLEMS: dict[str, list[tuple[str, str, Any, int, str]]] = {
    "order": [
        ("POST", "/orders", {**ORDER, "lines": []}, 422, "body.lines"),
        ("POST", "/orders", {**ORDER, "currency": "euro"}, 422, "body.currency"),
        ("POST", "/orders", {**ORDER, "currency": "EUX"}, 422, "body.currency"),
        ("POST", "/orders", {**ORDER, "currency": "XAU"}, 422, "ISO 4217"),
        ("POST", "/orders", {**ORDER, "customer": "a\0"}, 422, "U+0000"),
        ("POST", "/orders", line(quantity="3"), 422, "quantity"),
        ("POST", "/orders", {**ORDER, "customer": ""}, 422, "body.customer"),
        ("POST", "/orders", {**ORDER, "colour": "red"}, 422, "body.colour"),
        ("POST", "/orders", {name: ORDER[name] for name in ORDER if name != "lines"}, 422, "body.lines"),
        ("POST", "/orders", line(quantity=0), 422, "quantity"),
        ("POST", "/orders", line(quantity=1.5), 422, "quantity"),
        ("POST", "/orders", line(amount_minor=-1), 422, "amount_minor"),
        ("POST", "/orders", line(sku="no spaces"), 422, "sku"),
        ("POST", "/orders", "not an order", 422, "body"),
        ("POST", "/orders", {**ORDER, "padding": "x" * 300_000}, 413, "bytes"),
        ("GET", f"/orders/{UNKNOWN}", None, 404, UNKNOWN),
        ("GET", "/orders/17", None, 422, "order_id"),
        ("POST", f"/orders/{UNKNOWN}/cancel", None, 404, UNKNOWN),
        ("DELETE", f"/orders/{UNKNOWN}", None, 405, "Not Allowed"),
        ("GET", "/nowhere", None, 404, "Not Found"),
    ],
    "inventory": [
        ("PUT", "/stock/apple", {"stocked": 1}, 401, "bearer"),
        ("PUT", "/stock/apple", {"stocked": -1}, 422, "stocked"),
        ("PUT", "/stock/apple", {}, 422, "stocked"),
        ("PUT", "/stock/no%20spaces", {"stocked": 1}, 422, "sku"),
        ("GET", "/stock?limit=0", None, 422, "limit"),
        ("GET", "/stock?limit=1_000", None, 422, "limit"),
        ("GET", "/stock?after=%00", None, 422, "U+0000"),
        ("PUT", "/stock/apple", {"stocked": True}, 422, "stocked"),
        ("PUT", "/stock/apple%00", {"stocked": 1}, 422, "U+0000"),
    ],
    "payment": [
        ("GET", f"/payments/{UNKNOWN}", None, 404, UNKNOWN),
        ("GET", "/payments/x", None, 422, "order_id"),
        ("POST", f"/payments/{UNKNOWN}/approve", {"note": "mine"}, 401, "bearer"),
        ("POST", f"/payments/{UNKNOWN}/approve", {"note": "mine", "by": "e"}, 422, "leave out `by`"),
        ("POST", f"/payments/{UNKNOWN}/reject", {"note": "\0"}, 422, "U+0000"),
        ("POST", f"/payments/{UNKNOWN}/reject", {"note": "mine"}, 401, "bearer"),
    ],
    "fulfillment": [
        ("GET", f"/shipments/{UNKNOWN}", None, 404, UNKNOWN),
        ("GET", "/shipments/x", None, 422, "order_id"),
    ],
    "tracker": [
        ("GET", f"/sagas/{UNKNOWN}", None, 404, UNKNOWN),
        ("GET", "/reconciliation?limit=0", None, 422, "limit"),
        ("GET", "/reconciliation?service=godot", None, 422, "service"),
        ("POST", "/reconciliation/run", None, 401, "bearer"),
        ("GET", "/sagas/x", None, 422, "order_id"),
        ("GET", "/sagas?state=LOST", None, 422, "state"),
        ("GET", "/sagas?waiting_for=%00", None, 422, "U+0000"),
        ("GET", "/?cursor=%00", None, 422, "U+0000"),
        ("POST", f"/sagas/{UNKNOWN}/settle", {"note": "\0"}, 422, "U+0000"),
        ("GET", "/sagas?waiting_for=godot", None, 422, "godot"),
        ("GET", "/sagas?cursor=here", None, 422, "cursor"),
        ("GET", "/sagas?limit=100000", None, 422, "limit"),
        ("GET", "/sagas?older_than_seconds=-1", None, 422, "older_than_seconds"),
    ],
}


@pytest.mark.parametrize(
    ("service", "method", "path", "body", "status", "word"),
    [(service, *problem) for service, problems in PROBLEMS.items() for problem in problems],
)
async def test_a_bad_request_gets_a_problem_that_says_why(
    system: System, service: str, method: str, path: str, body: object, status: int, word: str
) -> None:
    url = system.rig.addresses.http(service) + path
    # With a token, unless the problem is that it is missing.
    token = "" if status == 401 else f"Bearer {system.rig.addresses.token}"
    headers = {"Authorization": token}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, url, json=body) as response,
    ):
        problem = await response.json(content_type="application/problem+json")
        text = await response.text()
    assert (response.status, problem["status"]) == (status, status)
    assert problem["title"]
    assert word in text


@pytest.mark.parametrize("service", [*SERVICES, "tracker"])
async def test_every_service_is_alive_ready_and_documented(system: System, service: str) -> None:
    ask = system.shop.ask
    assert (await ask(service, "GET", "/healthz"))["status"] == "alive"
    readiness = await ask(service, "GET", "/readyz")
    assert readiness["status"] == "ready"
    assert readiness["database"] is readiness["broker"] is True
    document = await ask(service, "GET", "/openapi.json")
    assert {"/healthz", "/readyz"} <= document["paths"].keys()
    url = system.rig.addresses.http(service)
    async with aiohttp.ClientSession() as session, session.get(f"{url}/docs") as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("order", ["order.confirmed.v1", "ShipmentScheduled", "order.facts"]),
        ("inventory", ["inventory.stock_reserved.v1", "OrderCreated", "inventory.facts"]),
        ("payment", ["payment.captured.v1", "StockReserved", "payment.facts"]),
        ("fulfillment", ["fulfillment.shipment_scheduled.v1", "PaymentCaptured", "fulfillment.facts"]),
        ("notification", ["notification.customer_notified.v1", "OrderConfirmed", "notification.facts"]),
    ],
)
async def test_asyncapi_tells_what_a_service_subscribes_to_and_publishes(
    system: System, service: str, words: list[str]
) -> None:
    document = await system.shop.ask(service, "GET", "/asyncapi.json")
    assert str(document["asyncapi"]).startswith("3.")
    assert [word for word in [*words, "quorum", "topic"] if word not in str(document)] == []
    broker = urlsplit(system.rig.addresses.broker_url(service))
    assert f":{broker.password}@" not in str(document)
    assert f"{broker.hostname}:{broker.port}" not in str(document)
    assert str(broker.hostname) not in str(document["servers"])


async def test_a_placed_order_is_seen_by_everybody(system: System) -> None:
    sku = await system.new_sku(5)
    order_id = await system.shop.place("cust_hana", "tok_ok", Item(sku, 2, 500), Item(sku, 1, 300))
    await system.settle({order_id: "COMPLETED"})
    ask = system.shop.ask
    order = await ask("order", "GET", f"/orders/{order_id}")
    assert (order["status"], order["amount_minor"], order["customer"]) == ("confirmed", 800, "cust_hana")
    payment = await ask("payment", "GET", f"/payments/{order_id}")
    assert (payment["status"], payment["amount_minor"], payment["currency"]) == ("captured", 800, "EUR")
    shipment = await ask("fulfillment", "GET", f"/shipments/{order_id}")
    assert shipment["status"] == "dispatched"
    assert shipment["shipment_id"]
    stock = await ask("inventory", "PUT", f"/stock/{sku}", body={"stocked": 9})
    assert stock == {"sku": sku, "available": 6, "reserved": 0, "sold": 3, "stocked": 9}
    with pytest.raises(Refused, match="409"):
        await ask("inventory", "PUT", f"/stock/{sku}", body={"stocked": 2})


async def test_a_post_says_where_its_order_is(system: System) -> None:
    url = system.rig.addresses.http("order")
    order = line(sku=await system.new_sku(1))
    headers = {"Idempotency-Key": str(uuid4())}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/orders", json=order, headers=headers) as response,
    ):
        assert response.status == 202
        placed = await response.json()
    assert response.headers["Location"] == f"/orders/{placed['order_id']}"
    assert placed["status"] == "placed"
    await system.settle()


async def test_stock_and_sagas_come_in_pages(system: System) -> None:
    skus = sorted([await system.new_sku(1) for _ in range(3)])
    page = await system.shop.ask("inventory", "GET", f"/stock?limit=2&after={skus[0][:-1]}")
    assert len(page["stock"]) == 2
    assert page["stock"][0]["sku"] == skus[0]
    assert page["next_after"] == page["stock"][-1]["sku"]
    for sku in skus:
        await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 100))
    await system.settle()
    first = await system.shop.ask("tracker", "GET", "/sagas?state=COMPLETED&limit=2")
    rest = await system.shop.ask(
        "tracker", "GET", f"/sagas?state=COMPLETED&limit=2&cursor={first['next_cursor']}"
    )
    seen = [saga["order_id"] for saga in first["sagas"] + rest["sagas"]]
    assert len(set(seen)) == len(seen) >= 3
    stats = await system.shop.ask("tracker", "GET", "/stats")
    assert stats["states"]["COMPLETED"] >= 3
    assert stats["stream"]["lag"] == 0


@pytest.mark.parametrize(
    ("decision", "end", "payment"),
    [("approve", "COMPLETED", "captured"), ("reject", "CANCELLED", "declined")],
)
async def test_a_large_payment_waits_for_a_person(
    system: System, decision: str, end: str, payment: str
) -> None:
    sku = await system.new_sku(1)
    order_id = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, ABOVE_THE_LIMIT))
    await system.shop.wait_for_payment(order_id, "held", 10)
    books = await system.settle({order_id: "AWAITING_APPROVAL"})
    assert statuses_of(books[order_id])["payment"] == "held"

    async def decide(decision: str, token: str) -> Mapping[str, Any]:
        return await system.shop.ask(
            "payment",
            "POST",
            f"/payments/{order_id}/{decision}",
            body={"note": "known customer"},
            headers={"Authorization": f"Bearer {token}"},
        )

    where = system.rig.addresses
    token = where.token
    with pytest.raises(Refused, match="401"):
        await decide(decision, "guessed")
    with pytest.raises(Refused, match="403: this takes the role approver"):
        await decide(decision, where.admin_token)
    assert (await decide(decision, token))["decided_by"] == "local"
    assert (await decide(decision, token))["decided_by"] == "local"
    with pytest.raises(Refused, match="409"):
        await decide("reject" if decision == "approve" else "approve", token)
    books = await system.settle({order_id: end})
    assert statuses_of(books[order_id])["payment"] == payment


async def test_an_order_shows_what_it_waits_for(system: System) -> None:
    sku = await system.new_sku(1)
    order_id = await system.shop.place("cust_ada", "tok_slow", Item(sku, 1, 100))

    async def awaited() -> list[str]:
        saga = await system.shop.saga(order_id)
        return [wait["service"] for wait in saga["waits"]] if saga else []

    async def waits_for_payment() -> bool:
        return await awaited() == ["payment"]

    await until(waits_for_payment)
    listed = await system.shop.ask("tracker", "GET", "/sagas?waiting_for=payment")
    assert str(order_id) in [saga["order_id"] for saga in listed["sagas"]]
    await system.settle({order_id: "COMPLETED"})
