"""All five services' real `decide` on one stage, and every next thing that may happen there.

A fact that was published lies before every service that receives it until that service receives it, in any
order: so whatever outbox, relay, broker and queue may delay is delayed here. With redrives it may be received
once more at any later moment. A call lies there until something comes of it: an answer, or that every attempt
failed, and then the request may never have arrived, or have been carried out, or arrive later. What may
happen at any moment (a cancellation, a timeout, an approval's expiry) lies there from the start; what failed
for good, a person may have tried again, or settle.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from compose.system import SERVICES
from events.decision import Call, CausalityViolated, Command, Decision, GaveUp
from events.facts import Fact
from events.facts.fulfillment import LabelRefundRejected, ShipmentCancelled, ShipmentRejected
from events.facts.payment import (
    PaymentDeclined,
    PaymentHeld,
    PaymentRefunded,
    PaymentRefundPending,
    PaymentRefundReversed,
)
from events.facts.saga import ApprovalExpired, RetryRequested, Settled
from inventory_svc.decide import Shelf, Stock
from notification_svc.decide import Bounced
from order_svc.decide import PlaceOrder
from payment_svc.payment import Approve, Follow, Notified, Reject
from saga_tracker.projection import Saga
from tests.decide.table import Decide
from tests.world.outside import Outside, by_itself, carry_out, leaves_a_trace
from tests.world.world import (
    Again,
    Delivery,
    Inconsistent,
    Known,
    Move,
    Pool,
    Units,
    World,
    fact_of,
    in_words,
    with_state,
)

ROLES = tuple(service.name for service in SERVICES)
_ORDER, _INVENTORY, PAYMENT = ROLES.index("order"), ROLES.index("inventory"), ROLES.index("payment")
_NOTIFICATION, OUTSIDE = ROLES.index("notification"), len(ROLES)
PERSON = "grace"


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

    With `redrives`, whatever a service has received it may receive again, as often as you like, and no inbox
    helps it: as if it were restated under a new id. A `brief` play has fewer ways: every call is answered,
    and customers are told, and at once (nobody waits for that). `situations` collects what the services met:
    who, in what state, received what.
    """

    def __init__(
        self,
        *orders: UUID,
        stock: tuple[Stock, ...],
        redrives: bool = False,
        brief: bool = False,
        acts_on: tuple[str, ...] = ("payment", "fulfillment"),
        bug: Bug | None = None,
    ) -> None:
        self.orders = orders
        self.stock = stock
        self.redrives = redrives
        self.brief = brief
        self.acts_on = acts_on
        self.number = {order_id: number for number, order_id in enumerate(orders)}
        self.services = tuple(
            replace(service, decide=bug.decide) if bug and bug.service == service.name else service
            for service in SERVICES
        )
        subscribers = {kind: _subscribers(kind) for service in SERVICES for kind in service.subscribes_to}
        self.subscribers: Mapping[type, tuple[int, ...]] = subscribers
        self.owner_of_call = {kind: role for role, one in enumerate(SERVICES) for kind in one.calls.values()}
        self.known = Pool().known
        self.situations: list[tuple[str, Any, Any]] = []
        self._to_receive = cache(self._to_receive_first)
        self._react = cache(self._react_first)
        self._answers = cache(self._answers_first)

    def start(self, *happenings: Fact | Command, acts: int = 0, events: int = 0) -> World:
        """A world in which orders POSTed are recorded, and all else is yet to be received.

        A person may act `acts` times on what failed for good; so many `events` say what became of a payment
        by itself.
        """
        nothing = (*(self.known(None) for _ in ROLES), self.known(Outside()))
        world = World(tuple(nothing for _ in self.orders), self.known(self.stock), acts=acts, events=events)
        for happening in happenings:
            if isinstance(happening, PlaceOrder):
                number = self.number[happening.order_id]
                world = self._receive(world, number, _ORDER, self.known(happening))
            elif isinstance(happening, ApprovalExpired):
                world = world._replace(expiring=world.expiring | {self.known(happening)})
            else:
                what = self.known(happening)
                asked = (_NOTIFICATION if isinstance(happening, Bounced) else _ORDER,)
                roles = self.subscribers[type(happening)] if isinstance(happening, Fact) else asked
                lying = {self.known(Delivery(role, what)) for role in roles}
                published = {what} if isinstance(happening, Fact) else set()
                world = world._replace(pending=world.pending | lying, published=world.published | published)
        return world

    def moves(self, world: World) -> Iterator[Move]:
        """Every next thing that may happen, always in the same order."""
        if self.brief and (message := self._message(world)):
            yield message
            return
        for delivery in sorted(world.pending, key=_serial):
            yield self._hand_over(world, delivery)
        for call in sorted(world.calls, key=_serial):
            yield from self._come_of(world, call)
        for request in sorted(world.late, key=_serial):
            yield from self._arrive_late(world, request)
        if self.redrives:
            yield from self._redrive(world)
        yield from self._decide_on_holds(world)
        yield from self._let_expire(world)
        if world.acts:
            yield from self._act_on_failures(world)
        if world.events:
            yield from self._go_on_outside(world)

    def unknown_to_their_owner(self, world: World, sagas: Mapping[UUID, Saga]) -> frozenset[UUID]:
        """Orders that wait for a person, and that order_svc need not know of meanwhile."""
        return frozenset()

    def _message(self, world: World) -> Move | None:
        """What brings a customer the news, if there is any."""
        for delivery in world.pending:
            if delivery.value.role == _NOTIFICATION:
                return self._hand_over(world, delivery)
        for call in world.calls:
            if self.owner_of_call[type(call.value)] == _NOTIFICATION:
                return next(self._come_of(world, call))
        return None

    def _hand_over(self, world: World, known: Known) -> Move:
        role, what = known.value
        rest = world._replace(pending=world.pending - {known})
        return Move((ROLES[role], "receives", what), self._receive(rest, self._number(what), role, what))

    def _redrive(self, world: World) -> Iterator[Move]:
        """A service receives once more what it has received; those without any effect are left out.

        A request to try again is not among them: under another id it is another request.
        """
        effective = [
            lying
            for what in sorted(world.published, key=_serial)
            for lying in self._to_receive(what)
            if lying not in world.pending and not self._is_nothing_to(world, lying)
        ]
        for role, what in (lying.value for lying in effective):
            after = self._receive(world, self._number(what), role, what)
            yield Move((ROLES[role], "hears once more", what), after)

    def _to_receive_first(self, what: Known) -> tuple[Known, ...]:
        """Before whom it lies when it is redriven."""
        if isinstance(what.value, RetryRequested | Again):
            return ()
        return tuple(self.known(Delivery(role, what)) for role in self.subscribers.get(type(what.value), ()))

    def _is_nothing_to(self, world: World, lying: Known) -> bool:
        role, what = lying.value
        state, stock = world.standings[self._number(what)][role], world.stock if role == _INVENTORY else None
        reaction = self._react(role, state, stock, what)
        unmoved = reaction.state is state and reaction.stock is stock
        return unmoved and not reaction.facts and not reaction.calls

    def _decide_on_holds(self, world: World) -> Iterator[Move]:
        for number, standing in enumerate(world.standings):
            payment = standing[PAYMENT].value
            if payment is not None and payment.status == "held":
                for kind in (Approve, Reject):
                    decided = self.known(kind(order_id=payment.order_id, by=PERSON, note="seen"))
                    after = self._receive(world, number, PAYMENT, decided)
                    yield Move(("payment hears", decided), after, may_rest=True)

    def _let_expire(self, world: World) -> Iterator[Move]:
        for expired in sorted(world.expiring, key=_serial):
            held_orders = (
                one.value.order_id for one in world.published if isinstance(one.value, PaymentHeld)
            )
            if expired.value.order_id in held_orders:
                lying = self.known(Delivery(PAYMENT, expired))
                after = world._replace(
                    expiring=world.expiring - {expired},
                    pending=world.pending | {lying},
                    published=world.published | {expired},
                )
                yield Move(("the tracker states", expired), after, may_rest=True)

    def _go_on_outside(self, world: World) -> Iterator[Move]:
        """Something becomes of a payment by itself, and the provider's event says so at some later moment."""
        for number, standing in enumerate(world.standings):
            payment = standing[PAYMENT].value
            if payment is None or payment.provider_payment is None:
                continue
            for what, outside, about in by_itself(standing[OUTSIDE].value):
                event = Notified(
                    order_id=payment.order_id,
                    event_id=UUID(int=world.events),
                    provider_payment=payment.provider_payment,
                    about=about,
                )
                lying = self.known(Delivery(PAYMENT, self.known(event)))
                after = world._replace(
                    standings=with_state(world.standings, number, OUTSIDE, self.known(outside)),
                    pending=world.pending | {lying},
                    events=world.events - 1,
                )
                yield Move((what, "of", payment.order_id.int), after, may_rest=True)

    def _act_on_failures(self, world: World) -> Iterator[Move]:
        """A person answers a failure, each once: it is to be tried again, or they settled it outside."""
        for failed in sorted(world.published, key=_serial):
            fact = fact_of(failed)
            if not fact.case or fact.owner not in self.acts_on:
                continue
            role = ROLES.index(fact.owner)
            answers = [
                self.known(
                    kind(order_id=fact.order_id, service=fact.owner, by=PERSON, note=str(failed.serial))
                )
                for kind in (RetryRequested, Settled)
                if role in self.subscribers[kind]
            ]
            if world.published.isdisjoint(answers):
                for answer in answers:
                    after = self._ask_of(world, role, answer)
                    yield Move(("a person states", answer), after, may_rest=True)

    def _ask_of(self, world: World, role: int, answer: Known) -> World:
        """It lies before the service that it names. The others receive it at once: it is nothing to them."""
        number = self._number(answer)
        for other in self.subscribers[type(answer.value)]:
            if other != role:
                world = self._receive(world, number, other, answer)
        return world._replace(
            pending=world.pending | {self.known(Delivery(role, answer))},
            published=world.published | {answer},
            acts=world.acts - 1,
        )

    def _come_of(self, world: World, known: Known) -> Iterator[Move]:
        """A call is answered, or given up: then for sure, or not knowing."""
        call: Call = known.value
        number, role = self.number[call.order_id], self.owner_of_call[type(call)]
        rest = world._replace(calls=world.calls - {known})
        answers = self._answers(known, world.standings[number][OUTSIDE])
        for outside, outcome in answers:
            after = self._receive(
                rest._replace(standings=with_state(rest.standings, number, OUTSIDE, outside)),
                number,
                role,
                outcome,
            )
            yield Move((known, "is answered:", outcome), after)
        # About an event it is asked for weeks.
        looks_once = isinstance(call, Follow) and call.once
        for maybe_done in () if answers and (self.brief or looks_once) else (False, True):
            outcome = self.known(GaveUp(call, "timeout", maybe_done))
            after = self._receive(rest, number, role, outcome)
            yield Move((outcome, "(and it never arrives)"), after)
            if maybe_done and leaves_a_trace(call):
                yield Move((outcome, "(and it is on its way)"), after._replace(late=after.late | {known}))

    def _arrive_late(self, world: World, known: Known) -> Iterator[Move]:
        number = self.number[known.value.order_id]
        rest = world._replace(late=world.late - {known})
        for outside, outcome in self._answers(known, world.standings[number][OUTSIDE]):
            after = rest._replace(standings=with_state(rest.standings, number, OUTSIDE, outside))
            yield Move((known, "arrives late, with nobody to answer:", outcome), after)

    def _receive(self, world: World, number: int, role: int, message: Known) -> World:
        standing = world.standings[number]
        reaction = self._react(role, standing[role], world.stock if role == _INVENTORY else None, message)
        stood = with_state(world.standings, number, role, reaction.state)
        stock = world.stock if reaction.stock is None else reaction.stock
        if not reaction.facts and not reaction.calls:
            return world._replace(standings=stood, stock=stock)
        again = {call for call in reaction.calls & world.asked if not _only_looks(call.value)}
        if again and not isinstance(message.value, RetryRequested):
            raise Inconsistent(f"{ROLES[role]} hears {in_words(message)}, and asks the same twice")
        return world._replace(
            standings=stood,
            stock=stock,
            pending=world.pending | reaction.deliveries,
            calls=world.calls | reaction.calls,
            published=world.published.union(
                self._published(world, role, fact, message) for fact in reaction.facts
            ),
            asked=world.asked | reaction.calls,
        )

    def _published(self, world: World, role: int, fact: Known, message: Known) -> Known:
        """The fact as one of its own: what was tried again may fail again, or be undone after all."""
        if fact not in world.published:
            return fact
        retries = sum(
            _asks_to_retry(published.value, fact.value.order_id, ROLES[role]) for published in world.published
        )
        pending = isinstance(fact.value, PaymentRefundPending)
        repeated = fact.value.case or pending or _undoes_once_more(world, fact.value)
        times = [self.known(Again(fact, time)) for time in range(2, retries + 2)] if repeated else []
        for again in times:
            if again not in world.published:
                return again
        raise Inconsistent(f"{ROLES[role]} hears {in_words(message)}, and states the same twice")

    def _number(self, what: Known) -> int:
        return self.number[what.value.order_id]

    def _react_first(self, role: int, state: Known, stock: Known | None, message: Known) -> Reaction:
        before = state.value
        self.situations.append((ROLES[role], before, message.value))
        if stock is not None:
            before = Shelf(before, {one.sku: one for one in stock.value})
        try:
            decision: Decision[Any, Any, Any] = self.services[role].decide(before, message.value)
        except CausalityViolated as error:
            raise Inconsistent(f"{ROLES[role]} hears {in_words(message)}: {error}") from error
        after = decision.state
        if isinstance(after, Shelf):
            stock = self.known(tuple(after.stock.values()))
            after = after.reservation and replace(after.reservation, units=Units(after.reservation.units))
        facts = tuple(map(self.known, decision.facts))
        deliveries = frozenset(
            self.known(Delivery(hearer, fact))
            for fact in facts
            for hearer in self.subscribers.get(type(fact.value), ())
        )
        return Reaction(
            self.known(after), stock, facts, deliveries, frozenset(map(self.known, decision.calls))
        )

    def _answers_first(self, call: Known, outside: Known) -> tuple[tuple[Known, Known], ...]:
        return tuple(
            (self.known(after), self.known(outcome))
            for after, outcome in carry_out(call.value, outside.value)
        )


def _subscribers(kind: type[Fact]) -> tuple[int, ...]:
    return tuple(role for role, service in enumerate(SERVICES) if kind in service.subscribes_to)


def _only_looks(call: Call) -> bool:
    """Whoever is notified twice may look twice, and so may who has a refund tried again."""
    return isinstance(call, Follow)


def _serial(known: Known) -> int:
    return known.serial


def _undoes_once_more(world: World, fact: Fact) -> bool:
    """It had been undone for certain, and was not after all: then it is, now."""
    kinds = {type(fact_of(published)) for published in world.published}
    if isinstance(fact, PaymentRefunded | PaymentDeclined):
        return PaymentRefundReversed in kinds
    return LabelRefundRejected in kinds and isinstance(fact, ShipmentCancelled | ShipmentRejected)


def _asks_to_retry(published: Any, order_id: UUID, service: str) -> bool:
    return (
        isinstance(published, RetryRequested)
        and published.order_id == order_id
        and published.service == service
    )
