"""What every service answers about many orders at once."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from prometheus_client.metrics_core import Metric
from pydantic import SecretStr

from events.http.application import MAX_ORDERS, create_app, states_router
from events.runtime.settings import ProcessSettings
from events.storage.database import Database
from events.storage.repository import COMPARED, OrderRepository, Repository
from events.storage.round_trip import RoundTrip
from fulfillment_svc.repository import SHIPMENTS
from fulfillment_svc.shipment import Shipment
from inventory_svc.decide import Reservation
from inventory_svc.repository import RESERVATIONS, SHELVES
from notification_svc.decide import Notice
from notification_svc.repository import NOTICES
from order_svc.decide import Order
from order_svc.repository import ORDERS
from payment_svc.payment import Payment
from payment_svc.repository import PAYMENTS
from tests.servers import Servers
from tests.tracker.watch import get


@dataclass(frozen=True)
class Sample:
    """A service, one state that it has, and what it tells of it."""

    package: str
    repository: Repository
    table: OrderRepository[Any]
    state: Callable[[UUID], Any]
    shown: dict[str, Any]


SERVICES = [
    Sample(
        "order_svc",
        ORDERS,
        ORDERS,
        lambda one: Order(one, "confirmed", "cust_ada", "EUR", amount_minor=500, fingerprint="f"),
        {"status": "confirmed", "amount_minor": 500, "currency": "EUR"},
    ),
    Sample(
        "inventory_svc",
        SHELVES,
        RESERVATIONS,
        lambda one: Reservation(one, "sold", {"apple": 2}),
        {"status": "sold"},
    ),
    Sample(
        "payment_svc",
        PAYMENTS,
        PAYMENTS,
        lambda one: Payment(
            order_id=one,
            status="refunded",
            amount_minor=500,
            currency="EUR",
            customer="cust_ada",
            payment_token="tok_ok",
            settled_by="ada",
        ),
        {
            "status": "refunded",
            "amount_minor": 500,
            "currency": "EUR",
            "settled_by": "ada",
            "reversed": False,
        },
    ),
    Sample(
        "fulfillment_svc",
        SHIPMENTS,
        SHIPMENTS,
        lambda one: Shipment(one, "dispatched", customer="cust_ada", shipment_id="s1"),
        {"status": "dispatched", "settled_by": None, "reversed": False},
    ),
    Sample(
        "notification_svc",
        NOTICES,
        NOTICES,
        lambda one: Notice(one, "notified", "cancelled"),
        {"status": "notified", "ending": "cancelled", "settled_by": None},
    ),
]


class _Open:
    """A database and nothing else of a service."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def start(self) -> None:
        """It is open."""

    async def stop(self) -> None:
        """Whoever opened it closes it."""

    async def ready(self) -> dict[str, Any]:
        return {}

    async def gauges(self) -> list[Metric]:
        return []


@asynccontextmanager
async def app_on(
    database_url: str, repository: Repository, token: SecretStr | None = None
) -> AsyncIterator[tuple[FastAPI, Database]]:
    settings = ProcessSettings(
        broker_url="", database_url=database_url, http_port=0, admin_token=token, auth="open"
    )
    database = Database(settings, "states")
    await database.open()
    try:
        yield create_app("states", "", settings, _Open(database), [states_router(repository)]), database
    finally:
        await database.close()


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.package)
async def test_a_service_tells_what_it_knows_and_nothing_personal(servers: Servers, service: Sample) -> None:
    known, another, unknown = uuid4(), uuid4(), uuid4()
    url = await servers.new_database(service.package)
    async with app_on(url, service.repository) as (app, database):
        async with database.transaction() as connection:
            trip = RoundTrip(connection)
            service.table.insert(trip, [service.state(known), service.state(another)])
            await trip.run()
        answer = await get(app, f"/states?order_id={known}&order_id={unknown}&order_id={another}")
    assert answer.status == 200
    assert answer.json() == {"states": {str(known): service.shown, str(another): service.shown}}
    assert set(service.shown) <= set(COMPARED)
    assert not {"cust_ada", "tok_ok"} & set(answer.text.replace('"', " ").split())


async def test_the_number_of_orders_asked_for_is_bounded(servers: Servers) -> None:
    async with app_on(await servers.new_database("inventory_svc"), SHELVES) as (app, _):
        most = "&".join(f"order_id={uuid4()}" for _ in range(MAX_ORDERS))
        assert (await get(app, f"/states?{most}")).json() == {"states": {}}
        for query in (f"{most}&order_id={uuid4()}", "", "order_id=17"):
            answer = await get(app, f"/states?{query}")
            assert answer.status == 422
            assert "order_id" in answer.json()["errors"][0]["at"]
