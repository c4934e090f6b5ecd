"""Reads the books that saga_tracker/consistency judges: every service's own database, the provider's ledger,
the carrier's books, the tracker's view; and what is on its way between them.

It only ever reads. No two databases can be read at one instant, so effects are read before their causes:
what a snapshot shows of one order may be cut off in the middle, but is never impossible.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, LiteralString, Self, TypeVar
from uuid import UUID

import aio_pika
import aiohttp
import psycopg
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPError
from psycopg import sql
from psycopg.rows import AsyncRowFactory, args_row, dict_row, scalar_row, tuple_row

from compose.local.commands import RigError
from compose.local.provision import ADMIN_USER, SANDBOX
from compose.rig import Whereabouts
from compose.system import SERVICE_NAMES, SERVICES, TRACKER
from events.messaging.topology import RETRY_DELAYS_SECONDS, retry_exchange
from saga_tracker.consistency.snapshot import Backlog, Movement, SeenSaga, ServiceState, Snapshot, StockRow

# Effects before their causes, which are before them in the chain.
SERVICES_READ = tuple(reversed(SERVICES))
# What of a service's own row is read, as far as it has it.
STATE_FIELDS = tuple(field.name for field in fields(ServiceState))
# Rows fetched at a time, and entries asked of the sandbox at a time.
CURSOR_ROWS = 5_000
PAGE_ENTRIES = 1_000
TIMEOUT_SECONDS = 10
# Where messages wait: for a service, or to be tried again by one.
QUEUES = (
    *(service.queue for service in SERVICES),
    *(retry_exchange(attempt) for attempt in range(1, len(RETRY_DELAYS_SECONDS) + 1)),
)
BROKER_AWAY = (AMQPError, OSError, TimeoutError, RuntimeError)

RowT = TypeVar("RowT")
Connection = psycopg.AsyncConnection[Any]

_BACKLOG = "SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM calls)"
_MOVING = "SELECT order_id FROM outbox UNION SELECT order_id FROM calls"
_TRACKER_BACKLOG = "SELECT (SELECT count(*) FROM outbox), 0"
_TRACKER_MOVING = "SELECT DISTINCT order_id FROM outbox"
_FORGOTTEN = "SELECT order_id FROM tombstones"
_SOLD_BEFORE = "SELECT units FROM tombstones WHERE units IS NOT NULL"
_STOCK = "SELECT sku, stocked, available, reserved, sold FROM stock"
_SAGAS = "SELECT order_id, state FROM sagas"
_READ_UP_TO = "SELECT stream_offset FROM stream_position"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the books are: database URLs by service, the sandbox's base URL, and the broker's."""

    databases: Mapping[str, str]
    sandbox_url: str
    broker_url: str


@dataclass(frozen=True, slots=True)
class Activity:
    """What is on its way: orders with facts to publish or calls to make, and messages ready in the queues.

    `read_up_to` is how far the tracker has read the stream of all facts; None without a tracker.
    """

    moving: frozenset[UUID]
    queued: int
    read_up_to: int | None

    @property
    def quiet(self) -> bool:
        """Nothing waits in an outbox, a table of calls or a queue."""
        return not self.moving and not self.queued


def sources_of(where: Whereabouts) -> Sources:
    """The books of one rig."""
    databases = {name: where.database_url(name) for name in where.database_passwords}
    return Sources(databases, where.http(SANDBOX), where.broker_url(ADMIN_USER))


class Reader:
    """Reads books over connections of its own, for as long as its context lasts.

    Entering it and every method raise RigError when one of the books cannot be read.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._stack = AsyncExitStack()
        self._databases: dict[str, Connection] = {}
        self._http: aiohttp.ClientSession | None = None
        self._broker: AbstractConnection | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for name, url in self._sources.databases.items():
                self._databases[name] = await stack.enter_async_context(await _connect(name, url))
            self._broker = await stack.enter_async_context(await _connect_broker(self._sources.broker_url))
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            self._http = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def snapshot(self) -> Snapshot:
        """All books, each as it was at one instant of its own."""
        backlogs: list[Backlog] = []
        forgotten: set[UUID] = set()
        sagas = await self._sagas(backlogs, forgotten)
        carrier = {
            order_id: entry["status"]
            async for order_id, entry in self._entries("/carrier/shipments", "shipments")
        }
        ledger: dict[UUID, list[Movement]] = {}
        async for order_id, entry in self._entries("/provider/ledger", "entries"):
            movement = Movement(entry["kind"], entry["amount_minor"], entry["currency"])
            ledger.setdefault(order_id, []).append(movement)
        states: dict[str, dict[UUID, ServiceState]] = {}
        stock: tuple[StockRow, ...] = ()
        sold_before: tuple[Mapping[str, int], ...] = ()
        for service in SERVICES_READ:
            name, table = service.name, service.repository.table
            known = [column for column in STATE_FIELDS if column in table.c]
            query = sql.SQL("SELECT {} FROM {}").format(
                sql.SQL(", ").join(map(sql.Identifier, ("order_id", *known))), sql.Identifier(table.name)
            )
            async with self._service(name, backlogs) as books:
                if name == "inventory":
                    stock = tuple([row async for row in _rows(books, args_row(StockRow), _STOCK)])
                elif name == "order":
                    forgotten.update([row async for row in _rows(books, scalar_row, _FORGOTTEN)])
                states[name] = {
                    row.pop("order_id"): ServiceState(**row) async for row in _rows(books, dict_row, query)
                }
                if name == "inventory":
                    sold_before = tuple([row async for row in _rows(books, scalar_row, _SOLD_BEFORE)])
        return Snapshot(
            states=states,
            ledger=ledger,
            carrier=carrier,
            sagas=sagas,
            stock=stock,
            backlogs=tuple(backlogs),
            forgotten=frozenset(forgotten),
            sold_before=sold_before,
        )

    async def activity(self) -> Activity:
        """What is on its way right now."""
        moving: set[UUID] = set()
        for name in SERVICE_NAMES:
            async with self._transaction(name) as connection:
                moving.update([row async for row in _rows(connection, scalar_row, _MOVING)])
        if TRACKER in self._databases:
            async with self._transaction(TRACKER) as connection:
                moving.update([row async for row in _rows(connection, scalar_row, _TRACKER_MOVING)])
        queued = await self._queued()
        return Activity(frozenset(moving), queued, await self._read_up_to())

    async def _read_up_to(self) -> int | None:
        if TRACKER not in self._databases:
            return None
        async with self._transaction(TRACKER) as connection:
            found: list[int] = [row async for row in _rows(connection, scalar_row, _READ_UP_TO)]
        return found[0]

    async def _sagas(self, backlogs: list[Backlog], forgotten: set[UUID]) -> dict[UUID, SeenSaga] | None:
        if TRACKER not in self._databases:
            return None
        async with self._service(TRACKER, backlogs, _TRACKER_BACKLOG) as books:
            forgotten.update([row async for row in _rows(books, scalar_row, _FORGOTTEN)])
            return {order_id: SeenSaga(state) async for order_id, state in _rows(books, tuple_row, _SAGAS)}

    @asynccontextmanager
    async def _service(
        self, name: str, backlogs: list[Backlog], backlog: LiteralString = _BACKLOG
    ) -> AsyncIterator[Connection]:
        """One transaction on a service's books, of which the backlog is always read."""
        async with self._transaction(name) as connection:
            yield connection
            async for outbox, calls in _rows(connection, tuple_row, backlog):
                backlogs.append(Backlog(name, outbox, calls))

    @asynccontextmanager
    async def _transaction(self, name: str) -> AsyncIterator[Connection]:
        connection = self._databases[name]
        try:
            async with connection.transaction():
                yield connection
        except psycopg.Error as error:
            raise RigError(f"cannot read the database of {name}: {str(error).strip()}") from error

    async def _queued(self) -> int:
        """How many messages are ready in the queues. Those being worked on are not counted."""
        assert self._broker is not None, "not entered"
        ready = 0
        try:
            async with self._broker.channel() as channel:
                for name in QUEUES:
                    queue = await channel.declare_queue(name, passive=True)
                    ready += queue.declaration_result.message_count or 0
        except BROKER_AWAY as error:
            raise RigError(f"cannot read the broker's queues: {error}") from error
        return ready

    async def _entries(self, path: str, name: str) -> AsyncIterator[tuple[UUID, dict[str, Any]]]:
        """Every entry of a paged list of the sandbox, with the order it is about."""
        assert self._http is not None, "not entered"
        after: int | None = 0
        while after is not None:
            query = {"after": str(after), "limit": str(PAGE_ENTRIES)}
            try:
                async with self._http.get(self._sources.sandbox_url + path, params=query) as response:
                    response.raise_for_status()
                    page = await response.json()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise RigError(f"cannot read {path} of the sandbox: {error!r}") from error
            for entry in page[name]:
                # Whoever tried the sandbox by hand used references of their own.
                if (order_id := _order_id(entry["reference"])) is not None:
                    yield order_id, entry
            after = page["next_after"]


async def _rows(
    connection: Connection, rows_as: AsyncRowFactory[RowT], query: LiteralString | sql.Composed
) -> AsyncIterator[RowT]:
    """Every row of a query, through a cursor on the server: what comes over the wire at once is bounded."""
    async with connection.cursor(name="books", row_factory=rows_as) as cursor:
        cursor.itersize = CURSOR_ROWS
        await cursor.execute(query)
        async for row in cursor:
            yield row


def _order_id(reference: str) -> UUID | None:
    try:
        return UUID(reference)
    except ValueError:
        return None


async def _connect(name: str, url: str) -> Connection:
    """A connection that sees each of its transactions at one instant, and cannot write."""
    try:
        connection = await psycopg.AsyncConnection.connect(
            url, connect_timeout=TIMEOUT_SECONDS, application_name="check", autocommit=True
        )
    except psycopg.OperationalError as error:
        raise RigError(f"cannot read the database of {name}: {str(error).strip()}") from error
    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)
    return connection


async def _connect_broker(url: str) -> AbstractConnection:
    try:
        return await aio_pika.connect(url, timeout=TIMEOUT_SECONDS)
    except BROKER_AWAY as error:
        raise RigError(f"cannot reach the broker: {error}") from error
