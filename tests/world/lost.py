"""A fact that one subscriber never gets, and a tracker that misses its answer.

Every fact of one kind is lost on its way to one service. Once all else has come to rest, the tracker acts
on whatever it waits for, by its own rules (saga_tracker/deadlines.py): it sends the fact once more, then says
that the saga timed out or that the answer is overdue. What it sends once more arrives, or is lost as well;
what a person sends once more arrives.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from events.decision import Command
from events.facts import Fact
from events.facts.order import OrderCreated
from events.facts.saga import SagaOverdue, SagaRedriven, SagaTimedOut
from saga_tracker.deadlines import Act, Due, Rules, due
from saga_tracker.projection import Saga, SagaFact, project
from saga_tracker.scheduler.redrive import needs_the_beginning
from saga_tracker.steps import STEPS
from tests.decide.given import CUSTOMER
from tests.world import explore
from tests.world.stage import ROLES, Stage
from tests.world.world import Delivery, Known, Move, World, fact_of

_ORDER = ROLES.index("order")
RULES = Rules(dict.fromkeys({step.service for step in STEPS}, 1.0), 1.0, 10.0, 3.0, 1_000.0)


class LossyStage(Stage):
    """Where `service` never gets `kind`, unless the tracker `tells_again`, or a person does."""

    def __init__(
        self, *orders: UUID, service: str, kind: type[Fact], tells_again: bool, **details: Any
    ) -> None:
        super().__init__(*orders, **details)
        self.role, self.kind, self.tells_again = ROLES.index(service), kind, tells_again

    def start(self, *happenings: Fact | Command, acts: int = 0, events: int = 0) -> World:
        return self._lose(super().start(*happenings, acts=acts), found=frozenset())

    def moves(self, world: World) -> Iterator[Move]:
        """All that may happen by itself, without what is lost; only then what the tracker and people do."""
        at_rest = True
        for move in super().moves(world):
            at_rest = at_rest and move.may_rest
            yield move._replace(world=self._lose(move.world, found=world.pending))
        if at_rest:
            for order_id, saga in self._sagas(world).items():
                yield from self._acts_of_the_tracker(world, order_id, saga)
                yield from self._acts_of_a_person(world, saga)

    def unknown_to_their_owner(self, world: World, sagas: Mapping[UUID, Saga]) -> frozenset[UUID]:
        """Where `order.created` is lost: it is missed once it is order_svc's turn, and not before."""
        if self.kind is not OrderCreated or self.role != _ORDER:
            return frozenset()
        return frozenset(
            order_id
            for order_id, saga in sagas.items()
            if any(wait.person for wait in saga.waits)
            and world.standings[self.number[order_id]][_ORDER].value is None
        )

    def _lose(self, world: World, found: frozenset[Known]) -> World:
        lost = {lying for lying in world.pending - found if self._is_lost(lying)}
        return world._replace(pending=world.pending - lost) if lost else world

    def _is_lost(self, lying: Known) -> bool:
        role, what = lying.value
        return role == self.role and type(what.value) is self.kind

    def _sagas(self, world: World) -> dict[UUID, Saga]:
        timelines: dict[UUID, list[SagaFact]] = {order_id: [] for order_id in self.orders}
        for published in world.published:
            timelines[fact_of(published).order_id] += explore.received_by_the_tracker(published)
        return {order_id: project(timeline) for order_id, timeline in timelines.items() if timeline}

    def _acts_of_the_tracker(self, world: World, order_id: UUID, saga: Saga) -> Iterator[Move]:
        for one in due(saga, RULES, explore.at(explore.MAX_SERIAL)):
            if one.act is Act.EXPIRE_APPROVAL:
                continue
            fact = self.known(_fact(order_id, one))
            after = world._replace(published=world.published | {fact})
            if one.act is Act.TIME_OUT:
                lying = {self.known(Delivery(_ORDER, fact))}
                after = self._lose(after._replace(pending=after.pending | lying), found=world.pending)
            elif one.act is Act.REDRIVE and self.tells_again:
                after = self._received_again(after, one.wait.service, one.wait.because_of_id)
            yield Move(("the tracker states", fact), after)

    def _acts_of_a_person(self, world: World, saga: Saga) -> Iterator[Move]:
        for wait in saga.waits:
            if wait.overdue_at is not None:
                after = self._received_again(world, wait.service, wait.because_of_id)
                if after is not world:
                    yield Move(("a person sends", wait.because_of, "once more"), after, may_rest=True)

    def _received_again(self, world: World, service: str, fact_id: UUID) -> World:
        """What was lost now lies before the service; what it has received already, its inbox knows."""
        (what,) = (published for published in world.published if published.serial == fact_id.int)
        wanted = {what}
        if needs_the_beginning(fact_of(what).wire_name, service):
            wanted |= {one for one in world.published if isinstance(one.value, OrderCreated)}
        role = ROLES.index(service)
        lying = {self.known(Delivery(role, one)) for one in wanted}
        again = {one for one in lying if self._is_lost(one)}
        return world._replace(pending=world.pending | again) if again else world


def _fact(order_id: UUID, one: Due) -> Fact:
    """As the tracker publishes it."""
    wait = one.wait
    match one.act:
        case Act.REDRIVE:
            return SagaRedriven(order_id=order_id, service=wait.service, redriven_id=wait.because_of_id)
        case Act.TIME_OUT:
            return SagaTimedOut(order_id=order_id, waiting_for=wait.facts[0], customer=CUSTOMER)
        case _:
            return SagaOverdue(
                order_id=order_id,
                service=wait.service,
                because_of_id=wait.because_of_id,
                waiting_for=wait.facts[0],
            )
