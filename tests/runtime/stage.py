"""One toy service with a database and a vhost of its own, and all that a test does to it and sees of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from io import StringIO
from typing import Any, LiteralString
from uuid import UUID, uuid4

import aio_pika
import psycopg
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from prometheus_client.metrics_core import Metric
from psycopg.rows import dict_row
from sqlalchemy import create_engine, make_url
from sqlalchemy.pool import NullPool

from compose.drills.local_rig import Proxy, proxy_to
from events.facts.base import Fact
from events.http.application import create_app
from events.messaging.envelope import Envelope, encode
from events.messaging.topology import declare, queues, retry_exchange
from events.outbound.dispatcher import Gateway
from events.runtime.process import uvicorn_server
from events.runtime.service_runtime import ServiceRuntime
from events.runtime.settings import ServiceSettings
from events.service import DEAD_LETTER_EXCHANGE, EXCHANGE, STREAM
from events.storage import tables
from tests.runtime.eventually import eventually
from tests.runtime.toy import repository
from tests.runtime.toy.outside import Outside
from tests.runtime.toy.service import TOY
from tests.runtime.toy.service import router as toy_router
from tests.servers import Servers

# Short, so that tests are. Everything else is as in production unless a test says otherwise.
QUICK: dict[str, Any] = {
    "reconnect_seconds": 0.1,
    "sweep_seconds": 0.3,
    "forget_after_seconds": 0.05,
    "call_backoff_seconds": 0.05,
    "call_backoff_cap_seconds": 0.2,
    "call_timeout_seconds": 1.0,
    "stop_grace_seconds": 5.0,
    # A row that is held is how tests hold up a batch.
    "lock_wait_seconds": 60.0,
}
# How long a fact that failed waits before each further attempt.
RETRY_DELAYS_SECONDS = (0.1, 0.2, 0.4)
# Longer than any grace period here.
STOP_SECONDS = 40.0


class Stage:
    """What a test of the runtime plays on."""

    def __init__(
        self,
        broker_url: str,
        database_url: str,
        retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS,
    ) -> None:
        self.broker_url = broker_url
        self.database_url = database_url
        self.retry_delays_seconds = retry_delays_seconds
        self.outside = Outside()
        self.received: list[AbstractIncomingMessage] = []
        self.closing = AsyncExitStack()
        self._channel: AbstractChannel | None = None
        self._facts: aio_pika.abc.AbstractExchange | None = None
        self._ears: aio_pika.abc.AbstractQueue | None = None
        self._hosts: list[ServiceRuntime] = []

    async def set(self) -> None:
        """Create tables, exchanges and queues, and listen to everything the toy states."""
        await asyncio.to_thread(create_schema, self.database_url)
        await declare([TOY], self.broker_url, self.retry_delays_seconds)
        connection = await self.closing.enter_async_context(await aio_pika.connect(self.broker_url))
        self._channel = await connection.channel()
        self._ears = await self._channel.declare_queue(exclusive=True)
        for fact in TOY.publishes:
            await self.listen_to(fact)
        self._facts = await self._channel.get_exchange(EXCHANGE)
        await self._ears.consume(self._overhear, no_ack=True)

    async def strike(self) -> None:
        """Stop everything this test started."""
        for host in list(self._hosts):
            await self.stop(host)
        await eventually(lambda: not reconnecting(), why="nobody goes on connecting")
        await self.closing.aclose()
        # Each is a process of the broker, which would have hundreds of them by the end of a session.
        async with await aio_pika.connect(self.broker_url) as connection, connection.channel() as channel:
            for queue in queues([TOY]):
                await channel.queue_delete(queue)

    # ---- the service

    def settings(self, **changes: Any) -> ServiceSettings:
        given = {
            "broker_url": self.broker_url,
            "database_url": self.database_url,
            "http_port": 0,
            **QUICK,
            **changes,
        }
        return ServiceSettings(**given)

    def host(self, *, outside: Gateway[Any] | None = None, **changes: Any) -> ServiceRuntime:
        """An instance that is not started yet."""
        return ServiceRuntime(
            replace(TOY, gateway=lambda _: outside or self.outside), self.settings(**changes)
        )

    async def start(self, *, outside: Gateway[Any] | None = None, **changes: Any) -> ServiceRuntime:
        """A running instance, ready."""
        host = await self.begin(outside=outside, **changes)
        await eventually(lambda: is_ready(host), why="the toy gets ready")
        return host

    async def begin(self, *, outside: Gateway[Any] | None = None, **changes: Any) -> ServiceRuntime:
        """A started instance, ready or not."""
        host = self.host(outside=outside, **changes)
        self._hosts.append(host)
        await host.start()
        return host

    async def serve(self, host: ServiceRuntime, **changes: Any) -> str:
        """The base URL of an HTTP server for an instance that runs already."""
        app = create_app("toy", "", self.settings(**changes), _AlreadyRunning(host), [toy_router])
        app.state.runtime = host
        server = uvicorn_server(app, self.settings(**changes))
        serving = asyncio.create_task(server.serve(), name="serve")
        await eventually(lambda: server.started)

        async def end() -> None:
            server.should_exit = True
            await serving

        self.closing.push_async_callback(end)
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    async def stop(self, host: ServiceRuntime) -> None:
        """Stop an instance. Fails, saying what hangs, when it does not stop."""
        self._hosts.remove(host)
        stopping = asyncio.create_task(host.stop(), name="stop")
        _, pending = await asyncio.wait([stopping], timeout=STOP_SECONDS)
        if pending:
            raise AssertionError("the toy does not stop:\n" + where_tasks_wait())
        await stopping

    # ---- the broker

    async def proxy_broker(self) -> Proxy:
        return await self.closing.enter_async_context(proxy_to(self.broker_url))

    async def proxy_database(self) -> Proxy:
        return await self.closing.enter_async_context(proxy_to(self.database_url))

    async def say(
        self, *facts: Fact, fact_id: UUID | None = None, causation_id: UUID | None = None
    ) -> list[UUID]:
        """Publish facts, each under a new id, or under this one."""
        ids = [fact_id or uuid4() for _ in facts]
        await self.publish(
            *(message(fact, number, causation_id) for fact, number in zip(facts, ids, strict=True))
        )
        return ids

    async def publish(self, *messages: aio_pika.Message, routing_key: str | None = None) -> None:
        """Publish messages to the toy's queue, in one go."""
        assert self._facts is not None
        await asyncio.gather(*(self._facts.publish(one, routing_key or one.type or "") for one in messages))

    @property
    def channel(self) -> AbstractChannel:
        assert self._channel is not None
        return self._channel

    async def dead_letters(self) -> list[AbstractIncomingMessage]:
        """Take what is in the dead-letter queue."""
        queue = await self.channel.get_queue(TOY.dead_letter_queue, ensure=False)
        found = []
        while (dead_letter := await queue.get(no_ack=True, fail=False)) is not None:
            found.append(dead_letter)
        return found

    async def waiting_in_queue(self, queue: str = TOY.queue) -> int:
        """How many messages are ready: neither delivered nor acknowledged."""
        async with await aio_pika.connect(self.broker_url) as connection, connection.channel() as channel:
            declared = await channel.declare_queue(queue, passive=True)
            return declared.declaration_result.message_count or 0

    async def waiting_in_queue_is(self, number: int) -> bool:
        return await self.waiting_in_queue() == number

    async def dead_letters_are(self, number: int) -> bool:
        return await self.waiting_in_queue(TOY.dead_letter_queue) == number

    async def waiting_to_retry(self) -> list[int]:
        """How many messages each of the retry queues holds."""
        return [
            await self.waiting_in_queue(retry_exchange(attempt))
            for attempt in range(1, len(self.retry_delays_seconds) + 1)
        ]

    async def fail_first(self, times: int) -> None:
        """The database refuses to count up the first so many times, then takes it."""
        await self.rows("CREATE SEQUENCE tries")
        await self.rows(
            "ALTER TABLE tallies ADD CONSTRAINT not_yet CHECK (nextval('tries') > " + str(times) + ")"
        )

    async def take_back(self) -> list[AbstractIncomingMessage]:
        """Take what is left in the toy's own queue, once no instance consumes it."""
        queue = await self.channel.get_queue(TOY.queue, ensure=False)
        found = []
        while (left := await queue.get(no_ack=True, fail=False)) is not None:
            found.append(left)
        return found

    def published(self, *orders: UUID, kind: str = "counted") -> list[str]:
        """The ids of the facts the toy published about these orders, as they came, repetitions included."""
        wanted = {str(order) for order in orders}
        return [
            one.message_id or ""
            for one in self.received
            if one.correlation_id in wanted and one.type == f"toy.{kind}.v1"
        ]

    async def listen_to(self, fact: type[Fact]) -> None:
        assert self._ears is not None
        await self._ears.bind(EXCHANGE, fact.wire_name)

    async def deafen(self, fact: type[Fact]) -> None:
        assert self._ears is not None
        await self._ears.unbind(EXCHANGE, fact.wire_name)

    async def declare_again(self) -> None:
        """Whatever was deleted of the toy's exchanges and queues."""
        await declare([TOY], self.broker_url, self.retry_delays_seconds)

    async def unbind_stream(self) -> None:
        """From now on, a fact that nobody but the stream receives cannot be routed."""
        queue = await self.channel.get_queue(STREAM, ensure=False)
        await queue.unbind(EXCHANGE, "#")

    async def unbind_dead_letters(self) -> None:
        queue = await self.channel.get_queue(TOY.dead_letter_queue, ensure=False)
        await queue.unbind(DEAD_LETTER_EXCHANGE, TOY.name)

    async def bind_dead_letters(self) -> None:
        queue = await self.channel.get_queue(TOY.dead_letter_queue, ensure=False)
        await queue.bind(DEAD_LETTER_EXCHANGE, TOY.name)

    async def _overhear(self, message: AbstractIncomingMessage) -> None:
        self.received.append(message)

    # ---- the database

    async def rows(self, query: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        async with await psycopg.AsyncConnection.connect(
            self.database_url, autocommit=True, row_factory=dict_row
        ) as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall() if cursor.description is not None else []

    async def count_of(self, order_id: UUID) -> int | None:
        """How far an order's count has come."""
        found = await self.rows("SELECT count FROM tallies WHERE order_id = %(id)s", id=order_id)
        return found[0]["count"] if found else None

    async def counts(self, orders: Sequence[UUID]) -> dict[UUID, int]:
        found = await self.rows(
            "SELECT order_id, count FROM tallies WHERE order_id = ANY(%(ids)s)", ids=list(orders)
        )
        return {row["order_id"]: row["count"] for row in found}

    async def size(self, table: LiteralString) -> int:
        found = await self.rows("SELECT count(*) AS size FROM " + table)
        return int(found[0]["size"])

    async def drained(self) -> bool:
        """Whether everything told has been committed, acknowledged and published."""
        return not (await self.size("outbox") or await self.size("calls") or await self.waiting_in_queue())

    @contextlib.asynccontextmanager
    async def holding(self, order_id: UUID) -> AsyncIterator[None]:
        """While inside, a batch that concerns this order waits for its row."""
        async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
            await connection.execute("SELECT FROM tallies WHERE order_id = %s FOR UPDATE", [order_id])
            yield

    @contextlib.asynccontextmanager
    async def locking(self, table: LiteralString) -> AsyncIterator[None]:
        """While inside, nobody else reads or writes this table."""
        async with await psycopg.AsyncConnection.connect(self.database_url) as connection:
            await connection.execute("LOCK TABLE " + table)
            yield

    async def blocked(self) -> bool:
        """Whether some transaction of the toy waits for a lock."""
        found = await self.rows(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(found)


class _AlreadyRunning:
    """What an app's lifespan starts and stops, where the stage does that."""

    def __init__(self, host: ServiceRuntime) -> None:
        self._host = host

    async def start(self) -> None:
        """It runs."""

    async def stop(self) -> None:
        """The stage does."""

    async def ready(self) -> dict[str, Any]:
        return dict(await self._host.ready())

    async def gauges(self) -> list[Metric]:
        return await self._host.gauges()


def reconnecting() -> list[asyncio.Task[Any]]:
    """aio-pika's tasks that connect whenever a connection is lost: one for each that somebody still wants."""
    tasks = asyncio.all_tasks()
    return [task for task in tasks if getattr(task.get_coro(), "__qualname__", "").startswith("RobustConn")]


def where_tasks_wait() -> str:
    """Every task of this process, with its stack."""
    text = StringIO()
    for task in asyncio.all_tasks():
        print(task.get_name(), file=text)
        task.print_stack(file=text)
    return text.getvalue()


def message(fact: Fact, fact_id: UUID, causation_id: UUID | None = None) -> aio_pika.Message:
    """A fact as some other service would publish it."""
    return encode(Envelope(fact_id, fact, "tester", datetime.now(UTC), causation_id=causation_id))


async def is_ready(host: ServiceRuntime) -> bool:
    return all((await host.ready()).values())


def create_schema(database_url: str) -> None:
    """The runtime's tables and the toy's own. (That migrations make the same is a test of its own.)"""
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        tables.metadata.create_all(connection)
        repository.metadata.create_all(connection)


@contextlib.asynccontextmanager
async def new_stage(
    servers: Servers, retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS
) -> AsyncIterator[Stage]:
    """A stage of its own for one test."""
    vhost = await asyncio.to_thread(servers.new_vhost)
    stage = Stage(vhost, await servers.new_database(), retry_delays_seconds)
    try:
        await stage.set()
        yield stage
    finally:
        await stage.strike()
