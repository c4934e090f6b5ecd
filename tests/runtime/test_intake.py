"""New orders are refused in time, while those accepted before take too long, and taken again soon after."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, LiteralString
from uuid import uuid4

import aio_pika
import aiohttp
import psycopg
import pytest

from compose.drills.local_rig import Proxy, proxy_to
from events.facts.order import OrderCreated
from events.http.application import create_app
from events.messaging.topology import declare
from events.runtime.process import uvicorn_server
from events.runtime.service_runtime import ServiceRuntime
from events.runtime.settings import ServiceSettings
from events.service import EXCHANGE
from order_svc import api
from order_svc.repository import OLDEST
from order_svc.service import SERVICE
from tests.runtime.eventually import eventually
from tests.runtime.stage import QUICK, is_ready, message
from tests.servers import Servers

Logged = list[MutableMapping[str, Any]]
BODY = {
    "customer": "cust_ada",
    "currency": "EUR",
    "payment_token": "tok_ok",
    "lines": [{"sku": "apple", "quantity": 1, "amount_minor": 500}],
}
FEW = 3


class Orders:
    """A running order_svc whose orders nobody else handles."""

    def __init__(
        self, database_url: str, broker: Proxy, host: ServiceRuntime, url: str, http: aiohttp.ClientSession
    ) -> None:
        self.host = host
        self.broker = broker
        self._database_url = database_url
        self._url = url
        self._http = http

    async def place(self) -> int:
        """The status that a new order is answered with; 503 says why, and when to come back."""
        async with self._http.post(f"{self._url}/orders", json=BODY) as answer:
            if answer.status == 503:
                assert int(answer.headers["Retry-After"]) > 0
                assert "the oldest that is under way was placed" in (await answer.json())["detail"]
            return answer.status

    async def see(self, path: str) -> tuple[int, str]:
        async with self._http.get(f"{self._url}{path}") as answer:
            return answer.status, await answer.text()

    async def execute(self, statement: LiteralString, values: Sequence[Any] = ()) -> None:
        async with await psycopg.AsyncConnection.connect(self._database_url) as connection:
            await connection.execute(statement, values)

    async def enter(self, status: str, placed_seconds_ago: float, count: int = 1) -> None:
        """Orders as they would be found in the table."""
        await self.execute(
            "INSERT INTO orders (order_id, status, lines, amount_minor, placed_at)"
            " SELECT gen_random_uuid(), %s, '[]', 0, now() - make_interval(secs => %s)"
            " FROM generate_series(1, %s)",
            (status, placed_seconds_ago, count),
        )

    async def publish(self, fact: OrderCreated) -> None:
        """As somebody from outside who may."""
        async with (
            await aio_pika.connect(self.host.settings.broker_url) as connection,
            connection.channel() as channel,
        ):
            exchange = await channel.get_exchange(EXCHANGE)
            await exchange.publish(message(fact, uuid4()), fact.wire_name)

    async def oldest_is_below(self, seconds: float) -> bool:
        return await self._oldest_seconds() < seconds

    async def has_looked(self) -> None:
        """Wait until what is in the table now has been judged: the look after the next one has seen it."""
        looks = self.host.database.rows_when_back
        seen = 0

        async def counting(query: bytes, **parameters: Any) -> Any:
            nonlocal seen
            found = await looks(query, **parameters)
            seen += query == OLDEST
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.host.database, "rows_when_back", counting)
            await eventually(lambda: seen >= 2)

    async def _oldest_seconds(self) -> float:
        _, page = await self.see("/metrics")
        (line,) = [
            line for line in page.splitlines() if line.startswith("murmuration_intake_oldest_seconds ")
        ]
        return float(line.split()[1])

    async def is_cut_off(self) -> bool:
        return not (await self.host.ready())["broker"]

    async def is_closed(self) -> bool:
        return "intake" in await self.host.ready()

    async def is_open(self) -> bool:
        return not await self.is_closed()


@pytest.fixture
async def started(servers: Servers) -> AsyncIterator[Any]:
    """Starts an order_svc, given settings."""
    broker_url, database_url = servers.new_vhost(), await servers.new_database("order_svc")
    await declare([SERVICE], broker_url)
    async with AsyncExitStack() as closing:
        broker = await closing.enter_async_context(proxy_to(broker_url))

        async def start(**changes: Any) -> Orders:
            urls = {"broker_url": broker.url(broker_url), "database_url": database_url, "http_port": 0}
            settings = ServiceSettings(
                **{**urls, **QUICK, "intake_few_orders": FEW, "orders": "internal", **changes}
            )
            host = ServiceRuntime(SERVICE, settings)
            server = uvicorn_server(create_app("order_svc", "", settings, host, [api.router]), settings)
            serving = asyncio.create_task(server.serve(), name="serve")

            async def end() -> None:
                server.should_exit = True
                await serving

            closing.push_async_callback(end)
            await eventually(lambda: server.started)
            await eventually(lambda: is_ready(host))
            port = server.servers[0].sockets[0].getsockname()[1]
            http = await closing.enter_async_context(aiohttp.ClientSession())
            return Orders(database_url, broker, host, f"http://127.0.0.1:{port}", http)

        yield start


async def test_it_stays_closed_while_all_that_is_accepted_is_given_up_as_late(started: Any) -> None:
    orders = await started(intake_max_oldest_seconds=20, intake_probe_seconds=60)
    await orders.enter("placed", placed_seconds_ago=60, count=FEW + 1)
    await eventually(orders.is_closed)
    await orders.execute("UPDATE orders SET status = 'cancelled', reason = 'timed_out'")
    await orders.has_looked()
    assert await orders.is_closed()
    # What is let in now and then shows that it goes again.
    await orders.enter("confirmed", placed_seconds_ago=1)
    await eventually(orders.is_open)


async def test_what_its_customers_cancelled_does_not_close_it(started: Any) -> None:
    orders = await started(intake_max_oldest_seconds=20)
    await orders.enter("cancelled", placed_seconds_ago=60, count=FEW + 1)
    await orders.execute("UPDATE orders SET reason = 'cancelled_by_customer'")
    await orders.has_looked()
    assert await orders.is_open()


async def test_it_closes_says_why_and_opens_again_once_they_are_handled(started: Any, logged: Logged) -> None:
    orders = await started(intake_max_oldest_seconds=20, intake_probe_seconds=60)
    assert await orders.place() == 202
    await orders.enter("placed", placed_seconds_ago=30, count=FEW)
    await eventually(orders.is_closed)
    # To see whether it goes again.
    assert await orders.place() == 202
    assert [await orders.place() for _ in range(3)] == [503] * 3
    status, ready = await orders.see("/readyz")
    assert status == 200
    assert "closed: the oldest order was placed 3" in ready
    assert "murmuration_intake_refused_total" in (await orders.see("/metrics"))[1]
    # Those placed within half the bound are still under way: it is open again only below that.
    await orders.execute("UPDATE orders SET placed_at = now() - interval '15 s' WHERE status = 'placed'")
    await eventually(lambda: orders.oldest_is_below(20))
    assert await orders.is_closed()
    await orders.execute("UPDATE orders SET status = 'confirmed'")
    await eventually(orders.is_open)
    assert [await orders.place() for _ in range(3)] == [202] * 3
    assert [line["event"] for line in logged if line["event"].startswith("intake")] == [
        "intake_closed",
        "intake_opened",
    ]


async def test_facts_of_others_are_taken_while_it_is_closed(started: Any) -> None:
    orders = await started(intake_max_oldest_seconds=20)
    await orders.enter("placed", placed_seconds_ago=30, count=FEW + 1)
    await eventually(orders.is_closed)
    order_id = uuid4()
    await orders.publish(OrderCreated.model_validate_json(json.dumps({"order_id": str(order_id), **BODY})))

    async def recorded() -> bool:
        status, _ = await orders.see(f"/orders/{order_id}")
        return bool(status == 200)

    await eventually(recorded)


@pytest.mark.parametrize(
    ("status", "count"), [("placed", FEW), ("withdrawn", 50), ("cancelled", 50), ("confirmed", 50)]
)
async def test_neither_a_few_nor_those_that_ended_close_it(started: Any, status: str, count: int) -> None:
    orders = await started(intake_max_oldest_seconds=20)
    await orders.enter(status, placed_seconds_ago=30, count=count)
    await orders.has_looked()
    assert await orders.is_open()


async def test_neither_do_those_that_others_have_overtaken(started: Any) -> None:
    """As those that wait for a person's approval are."""
    orders = await started(intake_max_oldest_seconds=20)
    await orders.enter("confirmed", placed_seconds_ago=5)
    await orders.enter("placed", placed_seconds_ago=30, count=50)
    await orders.has_looked()
    assert await orders.is_open()
    await orders.execute("UPDATE orders SET status = 'placed'")
    await eventually(orders.is_closed)


async def test_while_it_is_cut_off_from_the_broker_it_takes_what_its_outbox_holds(
    started: Any,
) -> None:
    orders = await started(intake_max_oldest_seconds=20)
    orders.broker.cut()
    await eventually(orders.is_cut_off)
    await orders.enter("placed", placed_seconds_ago=30, count=50)
    await orders.has_looked()
    assert [await orders.place() for _ in range(3)] == [202] * 3
    orders.broker.restore()
    await eventually(orders.is_closed)


async def test_it_can_be_switched_off(started: Any) -> None:
    orders = await started(intake_max_oldest_seconds=0)
    await orders.enter("placed", placed_seconds_ago=300, count=50)
    await orders.has_looked()
    assert [await orders.place() for _ in range(3)] == [202] * 3
