"""Every order in which things may happen: each world visited once, and its books checked."""

import gc
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, NamedTuple
from uuid import UUID, uuid5

from events.facts.saga import RetryRequested, SagaOverdue, SagaRedriven, Settled
from events.service import name_of
from saga_tracker.consistency.rules import differences, violations
from saga_tracker.consistency.snapshot import (
    Awaited,
    Books,
    Movement,
    SeenSaga,
    ServiceState,
    Snapshot,
    StockRow,
    books_by_order,
)
from saga_tracker.projection import Saga, SagaFact, State, project
from saga_tracker.steps import SERVICES
from tests.world.stage import OUTSIDE, PAYMENT, ROLES, Stage
from tests.world.world import Inconsistent, Known, Move, World, fact_of

CameFrom = dict[World, tuple[World, tuple[Any, ...]] | None]

MAX_SERIAL = 10_000_000
STATE_FIELDS = tuple(each.name for each in fields(ServiceState))
BEGAN_AT = datetime(2026, 11, 28, 6, tzinfo=UTC).timestamp()
OVERDUE = "OVERDUE"
# What people act upon, be it by reading on.
SPOKEN_OF = (State.COMPLETED, State.CANCELLED, State.NEEDS_MANUAL)


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


def explore(stage: Stage, *starts: World, watching: bool = False, reconciling: bool = False) -> Exploration:
    """Visit every world that can come of these. Raises Inconsistent, with the story that led there.

    When `watching`, what the tracker says is looked at in every world, and not only in those at rest. When
    `reconciling`, the services are also compared with the tracker's view where all is at rest.
    """
    gc.disable()  # there are no cycles to collect, and looking for them takes a third of the time
    try:
        return _explore(stage, starts, Auditor(stage, watching=watching, reconciling=reconciling))
    finally:
        gc.enable()


def _explore(stage: Stage, starts: tuple[World, ...], auditor: "Auditor") -> Exploration:
    came_from: CameFrom = dict.fromkeys(starts)
    to_visit = deque(starts)  # breadth first, so that the story of a violation is a shortest one
    found = Exploration()
    while to_visit:
        world = to_visit.popleft()
        at_rest = True
        try:
            for move in stage.moves(world):
                at_rest = at_rest and move.may_rest
                found.moves += 1
                if move.world not in came_from:
                    came_from[move.world] = (world, move.what)
                    to_visit.append(move.world)
            auditor.check(world, at_rest=at_rest)
        except Inconsistent as error:
            raise Inconsistent("\n".join([f"{error}, after:", *story(world, came_from)])) from error
        if at_rest and not is_parked(ends := ends_of(stage, world)):
            found.ends.add(ends)
    found.worlds = len(came_from)
    return found


def story(world: World, came_from: CameFrom) -> list[str]:
    """What happened, one line each, until this world."""
    lines: list[str] = []
    while (step := came_from[world]) is not None:
        lines.append(f"  {Move(step[1], world)}")
        world = step[0]
    return lines[::-1]


def is_parked(ends: tuple[End, ...]) -> bool:
    """Whether an order waits to be approved: that is in order, and no end."""
    return any(end.verdict == "AWAITING_APPROVAL" for end in ends)


def ends_of(stage: Stage, world: World) -> tuple[End, ...]:
    books = books_by_order(snapshot(stage, world))
    ends = []
    for order_id, standing in zip(stage.orders, world.standings, strict=True):
        statuses = map(status_of, standing[: len(ROLES)])
        verdict = OVERDUE if _is_overdue(order_id, world) else books[order_id].verdict
        ends.append(End._make([*statuses, verdict]))
    return tuple(ends)


def _is_overdue(order_id: UUID, world: World) -> bool:
    """Whether a person has been called for an answer that is still missing."""
    if not any(isinstance(published.value, SagaOverdue) for published in world.published):
        return False
    timeline = [
        fact
        for published in world.published
        if fact_of(published).order_id == order_id
        for fact in received_by_the_tracker(published)
    ]
    return bool(overdue_orders({order_id: project(timeline)}))


def overdue_orders(sagas: Mapping[UUID, Saga]) -> frozenset[UUID]:
    """Those for which a person has been called, as a service owes an answer: it may stand anywhere."""
    return frozenset(
        order_id
        for order_id, saga in sagas.items()
        if saga.state is State.NEEDS_MANUAL and any(wait.overdue_at for wait in saga.waits)
    )


def status_of(state: Known) -> str:
    """With a star where a person says so, and not the outside world."""
    if state.value is None:
        return "-"
    status: str = state.value.status
    return f"{status}*" if getattr(state.value, "settled_by", None) else status


class Auditor:
    """Checks the books of worlds; equal books once."""

    def __init__(self, stage: Stage, *, watching: bool = False, reconciling: bool = False) -> None:
        self.stage = stage
        self.watching = watching
        self.reconciling = reconciling
        self._found_well: set[object] = set()
        self._received = cache(received_by_the_tracker)
        self._received_late = cache(partial(received_late, stage))

    def _tracked(self, world: World, receive: Callable[[Known], tuple[SagaFact, ...]]) -> dict[UUID, Saga]:
        """What the tracker makes of all the facts that were published."""
        timelines: dict[UUID, list[SagaFact]] = {order_id: [] for order_id in self.stage.orders}
        for published in world.published:
            timelines[fact_of(published).order_id] += receive(published)
        return {order_id: project(timeline) for order_id, timeline in timelines.items()}

    def check(self, world: World, *, at_rest: bool) -> None:
        """Raises Inconsistent with every violation there is."""
        published = world.published if at_rest or self.watching else None
        books = (at_rest, world.standings, world.stock, published)
        if books in self._found_well:
            return
        read = snapshot(self.stage, world)
        found: list[object] = []
        if at_rest:
            sagas = self._tracked(world, self._received)
            read = replace(read, sagas={order_id: seen(saga) for order_id, saga in sagas.items()})
            excused = overdue_orders(sagas) | self.stage.unknown_to_their_owner(world, sagas)
            found += violations(read, still_moving=excused)
            if self.reconciling:
                for order_id in read.sagas or ():
                    found += differences(order_id, read.of(order_id)) if order_id not in excused else ()
            found += disputes_ignored(self.stage, world)
            found += waits_in_vain(sagas)
            found += lateness_that_stays(sagas, self._tracked(world, self._received_late))
        else:
            found += violations(read, still_moving=frozenset(self.stage.orders))
            if self.watching:
                found += too_soon(self._tracked(world, self._received), books_by_order(read))
        if found:
            raise Inconsistent("; ".join(map(str, found)))
        self._found_well.add(books)


def snapshot(stage: Stage, world: World) -> Snapshot:
    """The books of a world, as they would be read from its databases."""
    parts = [
        {
            order_id: standing[part].value
            for order_id, standing in zip(stage.orders, world.standings, strict=True)
        }
        for part in range(len(world.standings[0]))
    ]
    services, outside = dict(zip(ROLES, parts, strict=False)), parts[-1]
    stocked = {stock.sku: stock.available + stock.reserved + stock.sold for stock in stage.stock}
    return Snapshot(
        states={
            service: {order_id: state_of(row) for order_id, row in services[service].items() if row}
            for service in SERVICES
        },
        ledger={
            order_id: [Movement(kind, one.amount_minor, one.currency) for kind in one.movements]
            for order_id, one in outside.items()
            if one.movements
        },
        carrier={order_id: one.parcel for order_id, one in outside.items() if one.parcel != "nothing"},
        stock=tuple(
            StockRow(one.sku, stocked[one.sku], one.available, one.reserved, one.sold)
            for one in world.stock.value
        ),
    )


def state_of(row: Any) -> ServiceState:
    """A service's state of an order, as its table has it."""
    known: dict[str, Any] = {name: getattr(row, name, None) for name in STATE_FIELDS}
    return ServiceState(**known)


def seen(saga: Saga) -> SeenSaga:
    """A saga as reconciliation sees it."""
    waits = (Awaited(wait.service, tuple(wait.facts), wait.because_of) for wait in saga.waits)
    return SeenSaga(saga.state, tuple(waits))


def disputes_ignored(stage: Stage, world: World) -> list[str]:
    """Where a customer's bank takes the money back, and payment does not know of it."""
    return [
        f"order {order_id}: its charge is disputed, and nobody has published it"
        for order_id, standing in zip(stage.orders, world.standings, strict=True)
        if standing[OUTSIDE].value.disputed and not standing[PAYMENT].value.disputed
    ]


def waits_in_vain(sagas: Mapping[UUID, Saga]) -> list[str]:
    """Where the tracker still waits for a service, and has not called a person."""
    return [
        f"order {order_id}: the tracker waits in vain for {wait.service} to state {' or '.join(wait.facts)}"
        for order_id, saga in sagas.items()
        for wait in saga.waits
        if not wait.person and wait.overdue_at is None
    ]


def too_soon(sagas: Mapping[UUID, Saga], books: Mapping[UUID, Books]) -> list[str]:
    """Where the tracker says that all is over, or for a person to see to, and it is not."""
    return [
        f"order {order_id}: {saga.state} by the tracker, {books[order_id].verdict} by the services' books"
        for order_id, saga in sagas.items()
        if saga.state in SPOKEN_OF and saga.state != books[order_id].verdict
    ]


def lateness_that_stays(sagas: Mapping[UUID, Saga], late: Mapping[UUID, Saga]) -> list[str]:
    """Where it still makes a difference at the end that steps were late on the way."""
    return [
        f"order {order_id}: {saga.state}, but {late[order_id].state} had every step been late"
        for order_id, saga in sagas.items()
        if saga.state != late[order_id].state
    ]


def at(serial: int) -> datetime:
    """When the tracker reads what has this number: after every step of the table began to be owed."""
    return datetime.fromtimestamp(BEGAN_AT + serial, UTC)


def received_by_the_tracker(published: Known) -> tuple[SagaFact, ...]:
    fact = fact_of(published)
    about: UUID | None = None
    match fact:
        case RetryRequested() | Settled():
            about = UUID(int=int(fact.note))
        case SagaRedriven():
            about = fact.redriven_id
        case SagaOverdue():
            about = fact.because_of_id
        case _:
            pass
    message = SagaFact(
        fact_id=UUID(int=published.serial),
        name=name_of(type(fact)),
        read_at=at(published.serial),
        reason=getattr(fact, "reason", None),
        ending=getattr(fact, "ending", None),
        service=getattr(fact, "service", None),
        about=about,
    )
    return (message,)


def received_late(stage: Stage, published: Known) -> tuple[SagaFact, ...]:
    """The same where the tracker sent it to everyone again, and called every answer to it overdue.

    Read in the opposite order, too: where an order stands must not depend on that.
    """
    (message,) = received_by_the_tracker(published)
    message = message._replace(read_at=at(MAX_SERIAL - published.serial))
    about_it = [
        SagaFact(
            uuid5(message.fact_id, kind + ROLES[role]),
            kind,
            message.read_at,
            service=ROLES[role],
            about=message.fact_id,
        )
        for role in stage.subscribers.get(type(published.value), ())
        for kind in ("saga.redriven", "saga.overdue")
    ]
    return (message, *about_it)
