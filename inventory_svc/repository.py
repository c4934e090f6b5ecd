"""One row per SKU, one per order. A popular SKU is locked once per batch, always in the order of SKUs."""

from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    MetaData,
    Table,
    Text,
    Uuid,
    any_,
    func,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB

from events.facts.order import OrderCreated
from events.runtime.input import Input
from events.storage.database import Connection
from events.storage.repository import OrderRepository, OrderUnitOfWork
from events.storage.round_trip import RoundTrip, Rows, prepared
from events.storage.sql import array_of, as_arrays, update_rows
from inventory_svc.decide import Reservation, Shelf, Stock

metadata = MetaData()

stock = Table(
    "stock",
    metadata,
    Column("sku", Text, primary_key=True),
    Column("available", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False, server_default="0"),
    Column("sold", BigInteger, nullable=False, server_default="0"),
    Column("stocked", BigInteger, nullable=False),
    CheckConstraint("available >= 0", name="available_not_negative"),
    CheckConstraint("reserved >= 0", name="reserved_not_negative"),
    CheckConstraint("sold >= 0", name="sold_not_negative"),
    CheckConstraint("available + reserved + sold = stocked", name="every_unit_is_somewhere"),
)

reservations = Table(
    "reservations",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("status", Text, nullable=False),
    Column("units", JSONB, nullable=False),
    Column("content", BigInteger),
    CheckConstraint("status IN ('reserved', 'rejected', 'released', 'sold', 'fenced')", name="known_status"),
    # A row changes a few times, soon: with room for that in its page, its index does not.
    postgresql_with={"fillfactor": 60},
)

RESERVATIONS = OrderRepository(
    reservations,
    Reservation,
    final=("sold", "rejected", "released", "fenced"),
    units=reservations.c.units,
)

_OF_STOCK = ("sku", "available", "reserved", "sold")
_of_stock = attrgetter(*_OF_STOCK)
_STOCK_COLUMNS = [stock.c[name] for name in _OF_STOCK]
_concerned = union_all(
    select(func.unnest(array_of("skus", stock.c.sku))),
    select(func.jsonb_object_keys(reservations.c.units)).where(
        reservations.c.order_id == array_of("order_ids", reservations.c.order_id).any_()
    ),
)
# An array, for which PostgreSQL always uses the index: else it would read the whole table, of every SKU.
_LOCK_STOCK = prepared(
    select(*_STOCK_COLUMNS)
    .where(stock.c.sku == any_(func.array(_concerned.scalar_subquery())))
    .order_by(stock.c.sku)
    .with_for_update()
)
_UPDATE_STOCK = prepared(update_rows(stock, stock.c.sku, _STOCK_COLUMNS[1:]))


class ShelfUnitOfWork:
    """The reservations and the stock that one batch works on."""

    def __init__(self, reservations: OrderUnitOfWork[Reservation], loading: Rows) -> None:
        self._reservations = reservations
        self._loading = loading

    @cached_property
    def _loaded(self) -> dict[str, Stock]:
        return {row[0]: Stock(*row) for row in self._loading.rows}

    @cached_property
    def _now(self) -> dict[str, Stock]:
        return dict(self._loaded)

    def state_of(self, item: Input) -> Shelf:
        """Its reservation and its own SKUs alone: `decide` copies them, and a batch may have thousands."""
        held = self._reservations.state_of(item)
        skus = {line.sku for line in item.payload.lines} if isinstance(item.payload, OrderCreated) else set()
        if held is not None:
            skus |= held.units.keys()
        return Shelf(held, {sku: self._now[sku] for sku in skus if sku in self._now})

    def keep(self, item: Input, state: Shelf) -> None:
        self._reservations.keep(item, state.reservation)
        self._now.update(state.stock)

    def save(self, trip: RoundTrip) -> None:
        self._reservations.save(trip)
        moved = [now for sku, now in self._now.items() if now is not self._loaded[sku]]
        if moved:
            trip.add(_UPDATE_STOCK, **as_arrays(_STOCK_COLUMNS, map(_of_stock, moved)))


class ShelfRepository:
    """Reservations before stock, each in the order of its key: no two batches can deadlock."""

    table = reservations

    def load(self, trip: RoundTrip, inputs: Sequence[Input]) -> ShelfUnitOfWork:
        reservations = RESERVATIONS.load(trip, inputs)
        skus = {
            line.sku
            for item in inputs
            if isinstance(item.payload, OrderCreated)
            for line in item.payload.lines
        }
        order_ids: list[UUID] = [item.order_id for item in inputs]
        return ShelfUnitOfWork(reservations, trip.add(_LOCK_STOCK, skus=list(skus), order_ids=order_ids))

    async def read_many(
        self, connection: Connection, order_ids: Sequence[UUID]
    ) -> dict[UUID, dict[str, Any]]:
        """What may be shown of these orders' reservations."""
        return await RESERVATIONS.read_many(connection, order_ids)

    async def forget(self, connection: Connection, order_ids: Sequence[UUID]) -> list[UUID]:
        """Of what is sold, the units stay with the tombstone: stock is counted by them."""
        return await RESERVATIONS.forget(connection, order_ids)


SHELVES = ShelfRepository()
