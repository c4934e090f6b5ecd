"""How a service's states are kept: one row per order, loaded with a lock, saved in bulk."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from psycopg import errors
from pydantic import TypeAdapter
from sqlalchemy import Table, select

from events.runtime.database import Connection
from events.runtime.sql import array_of, as_arrays, compiled, insert_rows, update_rows
from events.runtime.told import Told

StateT = TypeVar("StateT")

# As much of a state as anybody may be told: neither personal data nor a payment token.
TOLD = ("status", "amount_minor", "currency", "ending", "settled_by")


class Workspace(Protocol):
    """The states one batch works on: read and replaced in memory, then saved together."""

    def state_of(self, item: Told) -> Any:
        """What `decide` is given for this fact, outcome or command."""

    def keep(self, item: Told, state: Any) -> None:
        """Replace it by what `decide` answered."""

    async def save(self, connection: Connection) -> None:
        """Write what changed. New rows in the order of their key: so no two batches can deadlock."""


class Store(Protocol):
    """Where a service keeps its states."""

    async def load(self, connection: Connection, told: Sequence[Told]) -> Workspace:
        """Lock, in a fixed order, and read the states of the orders these facts and commands are about."""

    async def read_many(
        self, connection: Connection, order_ids: Sequence[UUID]
    ) -> dict[UUID, dict[str, Any]]:
        """What may be told of these orders' states, without a lock; nothing of an order nobody knows."""


class AppearedMeanwhile(Exception):
    """A row this batch meant to insert exists by now: try the batch again from the start."""


def appeared_meanwhile(error: errors.UniqueViolation) -> bool:
    """Whether another instance was first with a new row, as opposed to some other constraint."""
    return error.diag.constraint_name == f"{error.diag.table_name}_pkey"


class OrderStates(Generic[StateT]):
    """A table whose columns are the fields of a state dataclass, keyed by `order_id`."""

    def __init__(self, table: Table, state: type[StateT]) -> None:
        names = [field.name for field in fields(state)]  # type: ignore[arg-type]
        self._columns = [table.c[name] for name in names]
        self._adapter: TypeAdapter[StateT] = TypeAdapter(state)
        key = table.c.order_id
        found = select(*self._columns).where(key == array_of("order_ids", key).any_())
        self._lock = compiled(found.order_by(key).with_for_update())
        self._read = compiled(found)
        told = [table.c[name] for name in TOLD if name in table.c]
        self._tell = compiled(select(key, *told).where(key == array_of("order_ids", key).any_()))
        self._insert = compiled(insert_rows(table, self._columns))
        self._update = compiled(update_rows(table, key, self._columns[1:]))

    async def load(self, connection: Connection, told: Sequence[Told]) -> "OrderWorkspace[StateT]":
        order_ids = sorted({item.order_id for item in told})
        cursor = await connection.execute(self._lock, {"order_ids": order_ids})
        return OrderWorkspace(self, await self._parse(cursor))

    async def read(self, connection: Connection, order_id: UUID) -> StateT | None:
        """One order's state, without a lock."""
        cursor = await connection.execute(self._read, {"order_ids": [order_id]})
        return (await self._parse(cursor)).get(order_id)

    async def read_many(
        self, connection: Connection, order_ids: Sequence[UUID]
    ) -> dict[UUID, dict[str, Any]]:
        """Those fields of these orders' states that are in TOLD, without a lock."""
        cursor = await connection.execute(self._tell, {"order_ids": list(order_ids)})
        return {row.pop("order_id"): row for row in await cursor.fetchall()}

    async def _parse(self, cursor: Any) -> dict[UUID, StateT]:
        return {row["order_id"]: self._adapter.validate_python(row) for row in await cursor.fetchall()}

    async def insert(self, connection: Connection, states: Iterable[StateT]) -> None:
        await connection.execute(self._insert, self._arrays(states))

    async def update(self, connection: Connection, states: Iterable[StateT]) -> None:
        await connection.execute(self._update, self._arrays(states))

    def _arrays(self, states: Iterable[StateT]) -> dict[str, list[Any]]:
        return as_arrays(self._columns, (self._adapter.dump_python(state) for state in states))


class OrderWorkspace(Generic[StateT]):
    """The states of one batch's orders."""

    def __init__(self, store: OrderStates[StateT], loaded: dict[UUID, StateT]) -> None:
        self._store = store
        self._loaded = loaded
        self._now: dict[UUID, StateT] = dict(loaded)

    def state_of(self, item: Told) -> StateT | None:
        return self._now.get(item.order_id)

    def keep(self, item: Told, state: StateT | None) -> None:
        if state is not None:
            self._now[item.order_id] = state

    async def save(self, connection: Connection) -> None:
        new = [self._now[order_id] for order_id in sorted(self._now.keys() - self._loaded.keys())]
        changed = [self._now[i] for i, state in self._loaded.items() if self._now[i] is not state]
        if new:
            await self._store.insert(connection, new)
        if changed:
            await self._store.update(connection, changed)
