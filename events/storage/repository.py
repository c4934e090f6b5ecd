"""How a service's states are kept: one row per order, loaded with a lock, saved in bulk."""

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from psycopg import errors
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Column, Table, select

from events.runtime.input import Input
from events.storage.database import Connection
from events.storage.retention import Graveyard
from events.storage.round_trip import RoundTrip, Rows, prepared
from events.storage.sql import array_of, as_arrays, compiled, insert_rows, update_rows

StateT = TypeVar("StateT")

# As much of a state as anybody may see: neither personal data nor a payment token.
COMPARED = ("status", "amount_minor", "currency", "ending", "settled_by", "reversed")


class UnitOfWork(Protocol):
    """The states one batch works on: loaded by one round trip, replaced in memory, saved by the next."""

    def state_of(self, item: Input) -> Any:
        """What `decide` is given for this fact, outcome or command."""

    def keep(self, item: Input, state: Any) -> None:
        """Replace it by what `decide` answered."""

    def save(self, trip: RoundTrip) -> None:
        """Have what changed written. New rows in the order of their key: so no two batches can deadlock."""


class Repository(Protocol):
    """Where a service keeps its states. `table` has a row an order, by `order_id`, with its `status`."""

    table: Table

    def load(self, trip: RoundTrip, inputs: Sequence[Input]) -> UnitOfWork:
        """Have the states of the orders these are about locked, in a fixed order, and read.

        They are there once the round trip is over.
        """

    async def read_many(
        self, connection: Connection, order_ids: Sequence[UUID]
    ) -> dict[UUID, dict[str, Any]]:
        """What may be shown of these orders' states, without a lock; nothing of an order nobody knows."""

    async def forget(self, connection: Connection, order_ids: Sequence[UUID]) -> list[UUID]:
        """Delete the states of these orders that are final, and keep tombstones; says whom it forgot."""


class StateNotUnderstood(Exception):
    """Another release wrote this state in a way that is unknown here: it is for its replicas."""


class AppearedMeanwhile(Exception):
    """A row this batch meant to insert exists by now: try the batch again from the start."""


def appeared_meanwhile(error: errors.UniqueViolation) -> bool:
    """Whether another instance was first with a new row, as opposed to some other constraint."""
    return error.diag.constraint_name == f"{error.diag.table_name}_pkey"


class OrderRepository(Generic[StateT]):
    """A table whose columns are the fields of a state dataclass, keyed by `order_id`."""

    def __init__(
        self,
        table: Table,
        state: type[StateT],
        *,
        final: Sequence[str] = (),
        units: Column[Any] | None = None,
    ) -> None:
        """In a `final` status the service is done with an order that ended. `units`: see Graveyard."""
        self.table = table
        self._graveyard = Graveyard(table, final, units)
        self._names = [field.name for field in fields(state)]  # type: ignore[arg-type]
        self._columns = [table.c[name] for name in self._names]
        self._row_of = attrgetter(*self._names)
        self._adapter: TypeAdapter[StateT] = TypeAdapter(state)
        key = table.c.order_id
        found = select(*self._columns).where(key == array_of("order_ids", key).any_())
        self._lock = prepared(found.order_by(key).with_for_update())
        self._read = compiled(found)
        columns = [table.c[name] for name in COMPARED if name in table.c]
        self._read_compared = compiled(select(key, *columns).where(key == array_of("order_ids", key).any_()))
        self._insert = prepared(insert_rows(table, self._columns))
        self._update = prepared(update_rows(table, key, self._columns[1:]))

    def load(self, trip: RoundTrip, inputs: Sequence[Input]) -> "OrderUnitOfWork[StateT]":
        order_ids = list({item.order_id for item in inputs})
        return OrderUnitOfWork(self, trip.add(self._lock, order_ids=order_ids))

    def parse(self, result: Rows) -> dict[UUID, StateT]:
        """The states that were loaded, by order. Raises StateNotUnderstood."""
        found = (dict(zip(self._names, row, strict=True)) for row in result.rows)
        return {row["order_id"]: self._understood(row) for row in found}

    async def read(self, connection: Connection, order_id: UUID) -> StateT | None:
        """One order's state, without a lock. Raises StateNotUnderstood."""
        cursor = await connection.execute(self._read, {"order_ids": [order_id]})
        row = await cursor.fetchone()
        return None if row is None else self._understood(row)

    async def read_many(
        self, connection: Connection, order_ids: Sequence[UUID]
    ) -> dict[UUID, dict[str, Any]]:
        """Those fields of these orders' states that are in COMPARED, without a lock."""
        cursor = await connection.execute(self._read_compared, {"order_ids": list(order_ids)})
        return {row.pop("order_id"): row for row in await cursor.fetchall()}

    def _understood(self, row: dict[str, Any]) -> StateT:
        try:
            return self._adapter.validate_python(row)
        except ValidationError as error:
            # Which fields, and not what is in them: not everybody may see that.
            fields_at = sorted({str(problem["loc"][0]) for problem in error.errors() if problem["loc"]})
            raise StateNotUnderstood(f"another release wrote {', '.join(fields_at)}") from None

    async def forget(self, connection: Connection, order_ids: Sequence[UUID]) -> list[UUID]:
        """Delete the states of these orders that are final, and keep tombstones; says whom it forgot."""
        return await self._graveyard.bury(connection, order_ids)

    def insert(self, trip: RoundTrip, states: Sequence[StateT]) -> None:
        """Have new rows written."""
        trip.add(self._insert, **as_arrays(self._columns, map(self._row_of, states)))

    def update(self, trip: RoundTrip, states: Sequence[StateT]) -> None:
        """Have rows that exist replaced."""
        trip.add(self._update, **as_arrays(self._columns, map(self._row_of, states)))


class OrderUnitOfWork(Generic[StateT]):
    """The states of one batch's orders."""

    def __init__(self, repository: OrderRepository[StateT], loading: Rows) -> None:
        self._repository = repository
        self._loading = loading

    @cached_property
    def _loaded(self) -> dict[UUID, StateT]:
        return self._repository.parse(self._loading)

    @cached_property
    def _now(self) -> dict[UUID, StateT]:
        return dict(self._loaded)

    def state_of(self, item: Input) -> StateT | None:
        return self._now.get(item.order_id)

    def keep(self, item: Input, state: StateT | None) -> None:
        if state is not None:
            self._now[item.order_id] = state

    def save(self, trip: RoundTrip) -> None:
        new = [self._now[order_id] for order_id in sorted(self._now.keys() - self._loaded.keys())]
        changed = [self._now[i] for i, state in self._loaded.items() if self._now[i] is not state]
        if new:
            self._repository.insert(trip, new)
        if changed:
            self._repository.update(trip, changed)
