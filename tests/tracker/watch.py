"""A tracker with a database and a vhost of its own, where nobody else speaks; and what a test does to it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, LiteralString
from uuid import UUID

import aio_pika
import psycopg
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from fastapi import FastAPI
from psycopg.rows import dict_row

from compose.drills.local_rig import Proxy, proxy_to
from compose.system import SERVICES
from events.facts import Fact
from events.http.application import create_app
from events.messaging import topology
from events.messaging.envelope import Envelope, encode
from events.service import EXCHANGE, REDRIVE_EXCHANGE, STREAM
from saga_tracker.reading.rebuild import Rebuilt, rebuild
from saga_tracker.service import ROUTERS, Tracker
from saga_tracker.settings import RebuildSettings, TrackerSettings
from tests.runtime.eventually import eventually
from tests.servers import Servers

FIVE = ("order", "inventory", "payment", "fulfillment", "notification")
# Short, so that tests are. Everything else is as in production unless a test says otherwise.
QUICK: dict[str, Any] = {
    "reconnect_seconds": 0.1,
    "lag_probe_seconds": 0.2,
    "stream_answer_seconds": 2.0,
    "connect_timeout_seconds": 2.0,
    "auth": "open",
    # Nobody is late, unless a test is about that.
    "step_deadline_seconds": dict.fromkeys(FIVE, 3_600),
    "saga_deadline_seconds": 3_600,
    "approval_deadline_seconds": 100 * 365 * 86_400,
}
DEAD_LETTERS = {
    service.dead_letter_queue: [
        (exchange, key)
        for exchange, key, queue in topology.bindings(SERVICES)
        if queue == service.dead_letter_queue
    ]
    for service in SERVICES
}
VIEW = ("sagas", "saga_facts", "unreadable_messages")


# But for when each was read: a rebuild reads it anew.
_UNREADABLE: LiteralString = (
    "SELECT stream_offset, reason, detail, message_id, wire_name, stated_by"
    " FROM unreadable_messages ORDER BY stream_offset"
)


class Watch:
    """What a test of the tracker plays on."""

    def __init__(self, broker_url: str, database_url: str) -> None:
        self.broker_url = broker_url
        self.database_url = database_url
        self.closing = AsyncExitStack()
        self.channel: AbstractChannel
        self._facts: AbstractExchange
        self._trackers: list[Tracker] = []

    async def set(self) -> None:
        """Declare the exchanges, the stream and the dead-letter queues, and get ready to publish."""
        await topology.declare([], self.broker_url)
        await self.join()
        for name, keys in DEAD_LETTERS.items():
            # Not replicated, unlike the real ones: that takes much longer to declare.
            queue = await self.channel.declare_queue(name, durable=True)
            for exchange, key in keys:
                await queue.bind(exchange, key)

    async def join(self) -> None:
        """Get ready to publish, where somebody else has declared everything."""
        connection = await self.closing.enter_async_context(await aio_pika.connect(self.broker_url))
        self.channel = await connection.channel()
        self._facts = await self.channel.get_exchange(EXCHANGE)

    async def strike(self) -> None:
        """Stop everything this test started."""
        for tracker in list(self._trackers):
            await self.stop(tracker)
        await self.closing.aclose()

    # ---- the tracker

    def settings(self, **changes: Any) -> TrackerSettings:
        return TrackerSettings(**self._given(changes))

    async def begin(self, **changes: Any) -> Tracker:
        """A tracker that is started, ready or not."""
        tracker = Tracker(self.settings(**changes))
        self._trackers.append(tracker)
        await tracker.start()
        return tracker

    async def start(self, **changes: Any) -> Tracker:
        """A tracker that is ready."""
        tracker = await self.begin(**changes)
        await eventually(lambda: is_ready(tracker), why="the tracker gets ready")
        return tracker

    async def stop(self, tracker: Tracker) -> None:
        self._trackers.remove(tracker)
        await tracker.stop()

    async def rebuild(self, *, forget_missing: bool = False, **changes: Any) -> Rebuilt:
        settings = RebuildSettings(**self._given(changes))
        return await rebuild(settings, forget_missing=forget_missing)

    def app(self, tracker: Tracker) -> FastAPI:
        """Its HTTP side; the tracker is started and stopped apart from it."""
        return create_app("tracker", "", tracker.settings, tracker, ROUTERS)

    def _given(self, changes: dict[str, Any]) -> dict[str, Any]:
        urls = {"broker_url": self.broker_url, "database_url": self.database_url, "http_port": 0}
        return {**urls, **QUICK, **changes}

    # ---- the broker

    async def say(self, *envelopes: Envelope) -> None:
        """Publish facts one after the other, as services do."""
        for envelope in envelopes:
            await self.publish(encode(envelope), envelope.fact.wire_name)

    async def say_at_once(self, envelopes: Iterable[Envelope]) -> None:
        """Publish many, all in flight together."""
        await asyncio.gather(*(self.say(envelope) for envelope in envelopes))

    async def publish(self, message: aio_pika.Message, routing_key: str) -> None:
        await self._facts.publish(message, routing_key)

    async def publish_junk(self) -> None:
        """Something nobody can read, once the tracker has seen it."""
        await self.publish(aio_pika.Message(b"?"), "order.created.v2")

        async def recorded() -> bool:
            return bool(await self.rows("SELECT FROM unreadable_messages"))

        await eventually(recorded)

    async def receive_redrives(self, *services: str) -> AbstractQueue:
        """A queue of what is sent to these services alone, or to any of the five."""
        queue = await self.channel.declare_queue(exclusive=True)
        for service in services or FIVE:
            await queue.bind(REDRIVE_EXCHANGE, routing_key=service)
        return queue

    async def receive(self, kind: type[Fact]) -> AbstractQueue:
        """A queue of the facts of a kind that are published from now on."""
        queue = await self.channel.declare_queue(exclusive=True)
        await queue.bind(EXCHANGE, routing_key=kind.wire_name)
        return queue

    async def make_stream_anew(self) -> None:
        """As after the loss of a broker: a stream of the same name that begins at its beginning."""
        await self.channel.queue_delete(STREAM)
        await topology.declare([], self.broker_url)

    async def proxy_broker(self) -> Proxy:
        return await self.closing.enter_async_context(proxy_to(self.broker_url))

    async def proxy_database(self) -> Proxy:
        return await self.closing.enter_async_context(proxy_to(self.database_url))

    # ---- the view

    async def rows(self, query: LiteralString, **parameters: Any) -> list[dict[str, Any]]:
        async with await psycopg.AsyncConnection.connect(
            self.database_url, autocommit=True, row_factory=dict_row
        ) as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall() if cursor.description is not None else []

    async def view(self) -> dict[str, list[dict[str, Any]]]:
        """Everything in it."""
        return {
            "sagas": await self._sagas(),
            "saga_facts": await self.rows("SELECT * FROM saga_facts ORDER BY order_id, fact_id"),
            "unreadable": await self.rows(_UNREADABLE),
            "position": await self.rows("SELECT stream_offset, message_id FROM stream_position"),
        }

    async def _sagas(self) -> list[dict[str, Any]]:
        """But for when it is looked at them next: that also depends on how long the broker was away."""
        rows = await self.rows("SELECT * FROM sagas ORDER BY order_id")
        return [{name: value for name, value in row.items() if name != "due_at"} for row in rows]

    async def read_when_published(self, order_id: UUID | None = None) -> None:
        """Have the view as if every fact, or those of an order, had been read when it was published."""
        await self.rows(
            "UPDATE saga_facts SET read_at = stated_at"
            " WHERE dated AND (%(id)s::uuid IS NULL OR order_id = %(id)s)",
            id=order_id,
        )
        await self.rebuild()

    async def state_of(self, order_id: UUID) -> str | None:
        found = await self.rows("SELECT state FROM sagas WHERE order_id = %(id)s", id=order_id)
        return found[0]["state"] if found else None

    async def facts_seen(self) -> int:
        found = await self.rows("SELECT count(*) AS seen FROM saga_facts")
        return int(found[0]["seen"])

    async def sees_facts(self, count: int) -> None:
        """Wait until so many facts are in the view."""

        async def enough() -> bool:
            return await self.facts_seen() == count

        await eventually(enough, why=f"{count} facts are seen")

    async def sees_order(self, order_id: UUID) -> None:
        """Wait until an order has a saga."""
        await eventually(lambda: self.state_of(order_id), why=f"order {order_id} is seen")


async def is_ready(tracker: Tracker) -> bool:
    parts = await tracker.ready()
    return all(part for part in parts.values() if isinstance(part, bool))


@contextlib.asynccontextmanager
async def new_watch(servers: Servers) -> AsyncIterator[Watch]:
    """A watch of its own for one test."""
    vhost = await asyncio.to_thread(servers.new_vhost)
    watch = Watch(vhost, await servers.new_database("saga_tracker"))
    try:
        await watch.set()
        yield watch
    finally:
        await watch.strike()


class Answer:
    """What an HTTP request was answered."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.text = body.decode()

    def json(self) -> Any:
        return json.loads(self.text)


async def get(app: FastAPI, path: str, *, token: str | None = None) -> Answer:
    """Ask an app as a server would, without one."""
    return await ask(app, "GET", path, token=token)


async def post(app: FastAPI, path: str, body: Any = None, *, token: str | None = None) -> Answer:
    """Have an app do something."""
    return await ask(app, "POST", path, json.dumps(body).encode(), token=token)


async def ask(
    app: FastAPI,
    method: str,
    path: str,
    content: bytes = b"",
    *,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """A request and its answer."""
    path, _, query = path.partition("?")
    status = 0
    answered: dict[str, str] = {}
    body = b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status, answered, body
        if message["type"] == "http.response.start":
            status = message["status"]
            answered = {name.decode(): value.decode() for name, value in message["headers"]}
        body += message.get("body", b"")

    given = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    if content:
        given.append((b"content-type", b"application/json"))
    if token is not None:
        given.append((b"authorization", f"Bearer {token}".encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": given,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    return Answer(status, answered, body)
