"""Who may place, see and cancel orders: anybody inside, or who has a client's token, of their own alone."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI

from events.http.application import create_app
from events.http.tokens import named
from events.messaging.topology import declare
from events.runtime.service_runtime import ServiceRuntime
from events.runtime.settings import ServiceSettings
from order_svc import api
from order_svc.service import SERVICE
from tests.runtime.eventually import eventually
from tests.runtime.stage import is_ready
from tests.servers import Servers
from tests.tracker.watch import Answer, ask

SHOP, MARKET, OPERATOR, VIEWER = "the-shops", "the-markets", "an-operators", "a-viewers"
TOKENS = " ".join(
    str(named(name, role, token))
    for name, role, token in (
        ("shop", "client", SHOP),
        ("market", "client", MARKET),
        ("olga", "operator", OPERATOR),
        ("vera", "viewer", VIEWER),
    )
)
ORDER = (
    b'{"customer": "cust_ada", "currency": "EUR", "payment_token": "tok_ok", "lines": ['
    b'{"sku": "apple", "quantity": 1, "amount_minor": 500}]}'
)


class Orders:
    """An order_svc that runs, and two ways in: as it is set, and where orders are internal."""

    def __init__(self, host: ServiceRuntime, apps: dict[str, FastAPI]) -> None:
        self._host = host
        self._apps = apps

    async def ask(
        self,
        method: str,
        path: str,
        token: str | None,
        *,
        key: str = "",
        body: bytes = b"",
        whose: str = "clients",
    ) -> Answer:
        headers = {"idempotency-key": key} if key else {}
        return await ask(self._apps[whose], method, path, body, token=token, headers=headers)

    async def place(self, token: str | None, key: str, body: bytes = ORDER, whose: str = "clients") -> Answer:
        return await self.ask("POST", "/orders", token, key=key, body=body, whose=whose)


@pytest.fixture(scope="module")
async def orders(servers: Servers) -> AsyncIterator[Orders]:
    broker_url, database_url = servers.new_vhost(), await servers.new_database("order_svc")
    await declare([SERVICE], broker_url)
    given: dict[str, Any] = {"broker_url": broker_url, "database_url": database_url, "http_port": 0}
    settings = {
        whose: ServiceSettings(**given, tokens=TOKENS, orders=whose, auth="required")
        for whose in ("clients", "internal")
    }
    host = ServiceRuntime(SERVICE, settings["clients"])
    await host.start()
    try:
        await eventually(lambda: is_ready(host))
        yield Orders(
            host,
            {
                whose: create_app("order_svc", "", each, host, [api.router])
                for whose, each in settings.items()
            },
        )
    finally:
        await host.stop()


def id_in(answer: Answer) -> UUID:
    assert answer.status == 202, answer.text
    return UUID(answer.json()["order_id"])


async def test_placing_takes_a_clients_token(orders: Orders) -> None:
    assert (await orders.place(None, str(uuid4()))).status == 401
    assert (await orders.place("guessed", str(uuid4()))).status == 401
    refused = await orders.place(VIEWER, str(uuid4()))
    assert refused.status == 403
    assert refused.json()["detail"] == "this takes the role client; vera is viewer"
    id_in(await orders.place(SHOP, str(uuid4())))
    id_in(await orders.place(OPERATOR, str(uuid4())))


async def test_each_client_has_keys_of_its_own(orders: Orders) -> None:
    key, other = str(uuid4()), ORDER.replace(b"500", b"700")
    first = id_in(await orders.place(SHOP, key))
    assert id_in(await orders.place(SHOP, key)) == first
    assert id_in(await orders.place(MARKET, key, other)) != first
    reused = await orders.place(SHOP, key, other)
    assert reused.status == 422
    assert str(first) not in reused.text


async def test_a_client_sees_and_cancels_its_own_orders_alone(orders: Orders) -> None:
    order_id = id_in(await orders.place(SHOP, str(uuid4())))
    nobody = uuid4()
    for verb, path in (("GET", "/orders/{}"), ("POST", "/orders/{}/cancel")):
        hidden = await orders.ask(verb, path.format(order_id), MARKET)
        unknown = await orders.ask(verb, path.format(nobody), MARKET)
        assert (hidden.status, unknown.status) == (404, 404)
        assert hidden.text.replace(str(order_id), str(nobody)) == unknown.text, "it looks like no order"
        assert (await orders.ask(verb, path.format(order_id), None)).status == 401
    assert (await orders.ask("GET", f"/orders/{order_id}", SHOP)).json()["status"] == "placed"
    for token in (OPERATOR, VIEWER):
        assert (await orders.ask("GET", f"/orders/{order_id}", token)).json()["status"] == "placed"
    assert (await orders.ask("POST", f"/orders/{order_id}/cancel", VIEWER)).status == 403
    assert (await orders.ask("POST", f"/orders/{order_id}/cancel", SHOP)).json()["status"] == "withdrawn"


async def test_an_operator_cancels_anybodys(orders: Orders) -> None:
    order_id = id_in(await orders.place(SHOP, str(uuid4())))
    assert (await orders.ask("POST", f"/orders/{order_id}/cancel", OPERATOR)).status == 202


async def test_where_orders_are_internal_nobody_has_to_say_who_they_are(orders: Orders) -> None:
    key = str(uuid4())
    order_id = id_in(await orders.place(None, key, whose="internal"))
    assert id_in(await orders.place(None, key, whose="internal")) == order_id
    assert (await orders.ask("GET", f"/orders/{order_id}", None, whose="internal")).status == 200
    assert (await orders.ask("GET", f"/orders/{order_id}", SHOP)).status == 404, "it is not the shop's"
    reused = await orders.place(None, key, ORDER.replace(b"500", b"700"), whose="internal")
    assert reused.status == 422
    assert str(order_id) not in reused.text
    assert (await orders.place("guessed", key, whose="internal")).status == 401
    cancelled = await orders.ask("POST", f"/orders/{order_id}/cancel", None, whose="internal")
    assert cancelled.json()["status"] == "withdrawn"
