"""Every order in which things may happen: each world visited once, and its books checked."""

import gc
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from compose.books import (
    CarrierShipment,
    LedgerEntry,
    NoticeRow,
    OrderRow,
    PaymentRow,
    ReservationRow,
    SagaRow,
    ShipmentRow,
    Snapshot,
    StockRow,
    books_by_order,
)
from compose.invariants import violations
from saga_tracker.projection import HeardFact, Saga, project
from saga_tracker.steps import name_of
from tests.world.stage import ROLES, Inconsistent, Known, Move, Stage, World

CameFrom = dict[World, tuple[World, tuple[Any, ...]] | None]


class End(NamedTuple):
    """Where one order came to rest in every service, and what that makes of it."""

    order: str
    inventory: str
    payment: str
    fulfillment: str
    notification: str
    verdict: str


@dataclass
class Exploration:
    """How many worlds there are, how many moves between them, and how they end, order by order."""

    worlds: int = 0
    moves: int = 0
    ends: set[tuple[End, ...]] = field(default_factory=set)


def explore(stage: Stage, *starts: World) -> Exploration:
    """Visit every world that can come of these. Raises Inconsistent, with the story that led there."""
    gc.disable()  # there are no cycles to collect, and looking for them takes a third of the time
    try:
        return _explore(stage, starts)
    finally:
        gc.enable()


def _explore(stage: Stage, starts: tuple[World, ...]) -> Exploration:
    auditor = Auditor(stage)
    came_from: CameFrom = dict.fromkeys(starts)
    to_visit = deque(starts)  # breadth first, so that the story of a violation is a shortest one
    found = Exploration()
    while to_visit:
        world = to_visit.popleft()
        at_rest = True
        try:
            for move in stage.moves(world):
                at_rest = False
                found.moves += 1
                if move.world not in came_from:
                    came_from[move.world] = (world, move.what)
                    to_visit.append(move.world)
            auditor.check(world, at_rest=at_rest)
        except Inconsistent as error:
            raise Inconsistent("\n".join([f"{error}, after:", *story(world, came_from)])) from error
        if at_rest:
            found.ends.add(ends_of(stage, world))
    found.worlds = len(came_from)
    return found


def story(world: World, came_from: CameFrom) -> list[str]:
    """What happened, one line each, until this world."""
    lines: list[str] = []
    while (step := came_from[world]) is not None:
        lines.append(f"  {Move(step[1], world)}")
        world = step[0]
    return lines[::-1]


def ends_of(stage: Stage, world: World) -> tuple[End, ...]:
    books = books_by_order(snapshot(stage, world))
    ends = []
    for order_id, standing in zip(stage.orders, world.standings, strict=True):
        statuses = [state.value.status if state.value else "-" for state in standing[: len(ROLES)]]
        ends.append(End._make([*statuses, books[order_id].verdict]))
    return tuple(ends)


class Auditor:
    """Checks the books of worlds; equal books once."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._found_well: set[object] = set()

    def check(self, world: World, *, at_rest: bool) -> None:
        """Raises Inconsistent with every violation there is."""
        books = (world.standings, world.stock, world.stated if at_rest else None)
        if books in self._found_well:
            return
        read = snapshot(self.stage, world)
        found: list[object] = []
        if at_rest:
            sagas = tracked(self.stage, world)
            rows = tuple(SagaRow(order_id, saga.state) for order_id, saga in sagas.items())
            found += [*violations(replace(read, sagas=rows)), *waits_in_vain(sagas)]
        else:
            found += violations(read, still_moving=frozenset(self.stage.orders))
        if found:
            raise Inconsistent("; ".join(map(str, found)))
        self._found_well.add(books)


def snapshot(stage: Stage, world: World) -> Snapshot:
    """The books of a world, as they would be read from its databases."""
    orders, reservations, payments, shipments, notices, outside = (
        [
            (order_id, standing[part].value)
            for order_id, standing in zip(stage.orders, world.standings, strict=True)
        ]
        for part in range(len(world.standings[0]))
    )
    stocked = {stock.sku: stock.available + stock.reserved + stock.sold for stock in stage.stock}
    return Snapshot(
        orders=tuple(OrderRow(row.order_id, row.status, row.amount_minor) for _, row in orders if row),
        reservations=tuple(
            ReservationRow(row.order_id, row.status, row.units) for _, row in reservations if row
        ),
        stock=tuple(
            StockRow(one.sku, stocked[one.sku], one.available, one.reserved, one.sold)
            for one in world.stock.value
        ),
        payments=tuple(PaymentRow(row.order_id, row.status, row.amount_minor) for _, row in payments if row),
        shipments=tuple(ShipmentRow(row.order_id, row.status) for _, row in shipments if row),
        notices=tuple(NoticeRow(row.order_id, row.status, row.ending) for _, row in notices if row),
        ledger=tuple(
            LedgerEntry(order_id, kind, one.amount_minor)
            for order_id, one in outside
            for kind in one.movements
        ),
        carrier=tuple(
            CarrierShipment(order_id, one.parcel) for order_id, one in outside if one.parcel != "nothing"
        ),
    )


def tracked(stage: Stage, world: World) -> dict[UUID, Saga]:
    """What the tracker makes of all the facts that were stated."""
    trails: dict[UUID, list[HeardFact]] = {order_id: [] for order_id in stage.orders}
    for stated in world.stated:
        trails[stated.value.order_id].append(heard_by_the_tracker(stated))
    return {order_id: project(trail) for order_id, trail in trails.items()}


def waits_in_vain(sagas: Mapping[UUID, Saga]) -> list[str]:
    """Where the tracker still waits for a service, and not for a person."""
    return [
        f"order {order_id}: the tracker waits in vain for {wait.service} to state {' or '.join(wait.facts)}"
        for order_id, saga in sagas.items()
        for wait in saga.waits
        if not wait.person
    ]


def heard_by_the_tracker(stated: Known) -> HeardFact:
    fact = stated.value
    return HeardFact(
        fact_id=UUID(int=stated.serial),
        name=name_of(type(fact)),
        stated_at=datetime.fromtimestamp(stated.serial, UTC),
        reason=getattr(fact, "reason", None),
        ending=getattr(fact, "ending", None),
    )
