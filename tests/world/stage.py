"""All five services' real `decide` on one stage, and every next thing that may happen there.

A fact that was stated lies before every service that hears it until that service hears it, in any order: so
whatever outbox, relay, broker and queue may delay is delayed here. A call lies there until something comes of
it: an answer, or that every attempt failed, and then the request may never have arrived, or have been carried
out, or arrive later. What may happen at any moment (a cancellation, a timeout) lies there from the start.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from compose.system import SERVICES
from events.decision import Call, CausalityViolated, Command, Decision, GaveUp, Outcome
from events.facts import Fact
from inventory_svc.decide import Shelf, Stock
from order_svc.decide import PlaceOrder
from payment_svc.decide import Approve, Reject
from tests.decide.table import Decide
from tests.world.outside import Outside, carry_out, leaves_a_trace

ROLES = tuple(service.name for service in SERVICES)
_ORDER, _INVENTORY, _PAYMENT = ROLES.index("order"), ROLES.index("inventory"), ROLES.index("payment")
_NOTIFICATION, _OUTSIDE = ROLES.index("notification"), len(ROLES)


class Inconsistent(Exception):
    """What must never happen has happened."""


class Known:
    """One value, interned: equal values are the same object, so comparing and hashing are quick."""

    __slots__ = ("serial", "value")

    def __init__(self, value: Any, serial: int) -> None:
        self.value, self.serial = value, serial


class Units(dict[str, int]):
    """A reservation's units, hashable."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


class Delivery(NamedTuple):
    """Something a service is yet to hear. `copy` tells redeliveries of the same thing apart."""

    role: int
    what: Known
    copy: int


Standings = tuple[tuple[Known, ...], ...]


class World(NamedTuple):
    """Everything that can still make a difference."""

    standings: Standings
    """Per order its state in every service, by ROLES, and then what the outside world holds of it."""
    stock: Known
    pending: frozenset[Known]
    calls: frozenset[Known] = frozenset()
    late: frozenset[Known] = frozenset()
    """Requests that were given up on and are still on their way."""
    inbox: frozenset[Known] = frozenset()
    """Heard already, and lying there a second time."""
    redeliveries: int = 0
    """How many may still happen."""
    stated: frozenset[Known] = frozenset()
    asked: frozenset[Known] = frozenset()


class Move(NamedTuple):
    """One thing that may happen next, in words, and the world it leads to."""

    what: tuple[Any, ...]
    world: World

    def __str__(self) -> str:
        return " ".join(map(_in_words, self.what))


class Reaction(NamedTuple):
    state: Known
    stock: Known | None
    facts: tuple[Known, ...]
    deliveries: frozenset[Known]
    calls: frozenset[Known]


@dataclass(frozen=True, slots=True)
class Bug:
    """A `decide` that differs from the real one, planted to see it caught."""

    service: str
    decide: Decide


class Stage:
    """Where worlds move.

    With `inbox` off a redelivery is heard again, as if restated under a new id. A `brief` play has fewer
    ways: every call is answered, and customers are told, and at once (nobody waits for that).
    `situations` collects what the services met: who, in what state, heard what.
    """

    def __init__(
        self,
        *orders: UUID,
        stock: tuple[Stock, ...],
        inbox: bool = True,
        brief: bool = False,
        bug: Bug | None = None,
    ) -> None:
        self.orders = orders
        self.stock = stock
        self.brief = brief
        self.number = {order_id: number for number, order_id in enumerate(orders)}
        self.inbox = inbox
        self.services = tuple(
            replace(service, decide=bug.decide) if bug and bug.service == service.name else service
            for service in SERVICES
        )
        hearers = {kind: _hearers(kind) for service in SERVICES for kind in service.hears}
        self.hearers: Mapping[type, tuple[int, ...]] = hearers
        self.caller = {kind: role for role, one in enumerate(SERVICES) for kind in one.calls.values()}
        self._pool: dict[Hashable, Known] = {}
        self.situations: list[tuple[str, Any, Any]] = []
        self._react = cache(self._react_first)
        self._answers = cache(self._answers_first)

    def start(self, *happenings: Fact | Command, redeliveries: int = 0) -> World:
        """A world in which orders POSTed are recorded, and all else is yet to be heard."""
        nothing = (*(self.known(None) for _ in ROLES), self.known(Outside()))
        world = World(tuple(nothing for _ in self.orders), self.known(self.stock), frozenset())
        for happening in happenings:
            if isinstance(happening, PlaceOrder):
                number = self.number[happening.order_id]
                world = self._hear(world, number, _ORDER, self.known(happening))
            else:
                what = self.known(happening)
                roles = self.hearers[type(happening)] if isinstance(happening, Fact) else (_ORDER,)
                lying = {self.known(Delivery(role, what, copy=0)) for role in roles}
                stated = {what} if isinstance(happening, Fact) else set()
                world = world._replace(pending=world.pending | lying, stated=world.stated | stated)
        return world._replace(redeliveries=redeliveries)

    def known(self, value: Hashable) -> Known:
        found = self._pool.get(value)
        if found is None:
            found = self._pool[value] = Known(value, len(self._pool))
        return found

    def moves(self, world: World) -> Iterator[Move]:
        """Every next thing that may happen, always in the same order. None: the world is at rest."""
        if self.brief and (message := self._message(world)):
            yield message
            return
        for delivery in sorted(world.pending, key=_serial):
            yield from self._deliver(world, delivery)
        for call in sorted(world.calls, key=_serial):
            yield from self._come_of(world, call)
        for request in sorted(world.late, key=_serial):
            yield from self._arrive_late(world, request)
        for number, standing in enumerate(world.standings):
            payment = standing[_PAYMENT].value
            if payment is not None and payment.status == "held":
                for kind in (Approve, Reject):
                    settled = self.known(kind(order_id=payment.order_id, by="grace", note="seen"))
                    yield Move(("payment hears", settled), self._hear(world, number, _PAYMENT, settled))

    def _message(self, world: World) -> Move | None:
        """What brings a customer the news, if there is any."""
        for delivery in world.pending:
            if delivery.value.role == _NOTIFICATION:
                return self._hand_over(world, delivery)
        for call in world.calls:
            if self.caller[type(call.value)] == _NOTIFICATION:
                return next(self._come_of(world, call))
        return None

    def _deliver(self, world: World, known: Known) -> Iterator[Move]:
        """A service hears it now, or is to get it once more, whenever."""
        role, what, copy = known.value
        if any(twin.value.copy < copy for twin in _twins(world, known)):
            return  # as good as its twin
        yield self._hand_over(world, known)
        if world.redeliveries:
            again = self.known(Delivery(role, what, copy=world.redeliveries))
            twice = world._replace(pending=world.pending | {again}, redeliveries=world.redeliveries - 1)
            yield Move((ROLES[role], "will get twice", what), twice)

    def _hand_over(self, world: World, known: Known) -> Move:
        role, what, _ = known.value
        rest = world._replace(pending=world.pending - {known})
        if self.inbox:
            row = self.known((role, what))
            rest = rest._replace(inbox=rest.inbox | {row} if _twins(world, known) else rest.inbox - {row})
            if row in world.inbox:
                return Move((ROLES[role], "has had", what), rest)
        number = self.number[what.value.order_id]
        return Move((ROLES[role], "hears", what), self._hear(rest, number, role, what))

    def _come_of(self, world: World, known: Known) -> Iterator[Move]:
        """A call is answered, or given up: then for sure, or not knowing."""
        call: Call = known.value
        number, role = self.number[call.order_id], self.caller[type(call)]
        rest = world._replace(calls=world.calls - {known})
        for outside, outcome in self._answers(known, world.standings[number][_OUTSIDE]):
            after = self._hear(
                rest._replace(standings=_with(rest.standings, number, _OUTSIDE, outside)),
                number,
                role,
                outcome,
            )
            yield Move((known, "is answered:", outcome), after)
        for maybe_done in () if self.brief else (False, True):
            outcome = self.known(GaveUp(call, "timeout", maybe_done))
            after = self._hear(rest, number, role, outcome)
            yield Move((outcome, "(and it never arrives)"), after)
            if maybe_done and leaves_a_trace(call):
                yield Move((outcome, "(and it is on its way)"), after._replace(late=after.late | {known}))

    def _arrive_late(self, world: World, known: Known) -> Iterator[Move]:
        number = self.number[known.value.order_id]
        rest = world._replace(late=world.late - {known})
        for outside, outcome in self._answers(known, world.standings[number][_OUTSIDE]):
            after = rest._replace(standings=_with(rest.standings, number, _OUTSIDE, outside))
            yield Move((known, "arrives late, with nobody to answer:", outcome), after)

    def _hear(self, world: World, number: int, role: int, heard: Known) -> World:
        standing = world.standings[number]
        reaction = self._react(role, standing[role], world.stock if role == _INVENTORY else None, heard)
        if not world.stated.isdisjoint(reaction.facts) or not world.asked.isdisjoint(reaction.calls):
            raise Inconsistent(f"{ROLES[role]} hears {_in_words(heard)}, and states or asks the same twice")
        stood = _with(world.standings, number, role, reaction.state)
        stock = world.stock if reaction.stock is None else reaction.stock
        if not reaction.facts and not reaction.calls:
            return world._replace(standings=stood, stock=stock)
        return world._replace(
            standings=stood,
            stock=stock,
            pending=world.pending | reaction.deliveries,
            calls=world.calls | reaction.calls,
            stated=world.stated.union(reaction.facts),
            asked=world.asked | reaction.calls,
        )

    def _react_first(self, role: int, state: Known, stock: Known | None, heard: Known) -> Reaction:
        before = state.value
        self.situations.append((ROLES[role], before, heard.value))
        if stock is not None:
            before = Shelf(before, {one.sku: one for one in stock.value})
        try:
            decision: Decision[Any, Any, Any] = self.services[role].decide(before, heard.value)
        except CausalityViolated as error:
            raise Inconsistent(f"{ROLES[role]} hears {_in_words(heard)}: {error}") from error
        after = decision.state
        if isinstance(after, Shelf):
            stock = self.known(tuple(after.stock.values()))
            after = after.reservation and replace(after.reservation, units=Units(after.reservation.units))
        facts = tuple(map(self.known, decision.facts))
        deliveries = frozenset(
            self.known(Delivery(hearer, fact, copy=0))
            for fact in facts
            for hearer in self.hearers.get(type(fact.value), ())
        )
        return Reaction(
            self.known(after), stock, facts, deliveries, frozenset(map(self.known, decision.calls))
        )

    def _answers_first(self, call: Known, outside: Known) -> tuple[tuple[Known, Known], ...]:
        return tuple(
            (self.known(after), self.known(outcome))
            for after, outcome in carry_out(call.value, outside.value)
        )


def _with(standings: Standings, number: int, role: int, state: Known) -> Standings:
    """The same, but for one order's state in one service."""
    standing = standings[number]
    if standing[role] is state:
        return standings
    changed = (*standing[:role], state, *standing[role + 1 :])
    return (*standings[:number], changed, *standings[number + 1 :])


def _twins(world: World, known: Known) -> list[Known]:
    """Redeliveries of the same thing to the same service."""
    role, what, _ = known.value
    return [
        twin
        for twin in world.pending
        if twin is not known and twin.value.what is what and twin.value.role == role
    ]


def _hearers(kind: type[Fact]) -> tuple[int, ...]:
    return tuple(role for role, service in enumerate(SERVICES) if kind in service.hears)


def _serial(known: Known) -> int:
    return known.serial


def _in_words(part: Any) -> str:
    match part:
        case Known():
            return _in_words(part.value)
        case Fact():
            return f"{part.wire_name.rpartition('.')[0]} of {part.order_id.int}"
        case Call():
            return f"{part.name} of {part.order_id.int}"
        case GaveUp(call, _, maybe_done):
            return f"{_in_words(call)} is given up, {'maybe' if maybe_done else 'not'} done"
        case Command() | Outcome():
            return type(part).__name__
        case _:
            return str(part)
