"""One subscriber never gets one fact: each pair of them, with a tracker that sends it once more, and without.

With it, the order ends as it would have ended. Without it, what can still be undone is undone, and the rest
waits for a person, who sends the fact once more; nothing is left behind while the saga says that it is over.
"""

from dataclasses import dataclass

import pytest

from compose.system import SERVICES
from events.decision import Command
from events.facts import Fact
from events.facts.fulfillment import ShipmentCancelled
from events.facts.inventory import StockRejected
from events.facts.order import OrderCreated, OrderWithdrawn
from events.facts.saga import ApprovalExpired, RetryRequested, SagaTimedOut, Settled
from events.service import name_of
from inventory_svc.decide import Stock
from tests.world.explore import OVERDUE, End, explore
from tests.world.lost import LossyStage
from tests.world.plays import (
    ABOVE_LIMIT,
    ADA,
    NO_PEARS,
    PLENTY,
    approval_expired,
    cancelled,
    posted,
    published,
    timed_out,
)
from tests.world.stage import Stage
from tests.world.test_every_order import letters

PUBLISHED, LATE, CANCELLED = published(ADA), timed_out(ADA), cancelled(ADA)


@dataclass(frozen=True)
class Play:
    """`service` never gets `kind`; a person acts `acts` times on what failed for good in it."""

    service: str
    kind: type[Fact]
    happenings: tuple[Fact | Command, ...] = (PUBLISHED,)
    stock: tuple[Stock, ...] = PLENTY
    acts: int = 0

    @property
    def acts_on(self) -> tuple[str, ...]:
        return (self.service,) if self.acts else ()

    def ends(self, *, tells_again: bool) -> set[End]:
        stage = LossyStage(
            ADA,
            stock=self.stock,
            acts_on=self.acts_on,
            service=self.service,
            kind=self.kind,
            tells_again=tells_again,
        )
        return self._explored(stage)

    def undisturbed(self) -> set[End]:
        return self._explored(Stage(ADA, stock=self.stock, acts_on=self.acts_on))

    def _explored(self, stage: Stage) -> set[End]:
        found = explore(stage, stage.start(*self.happenings, acts=self.acts))
        print(f"{self}: {found.worlds} worlds, {found.moves} moves")
        return {order for orders in found.ends for order in orders if order.payment != "held"}

    def __str__(self) -> str:
        more = f", {len(self.happenings) - 1} more happenings" if len(self.happenings) > 1 else ""
        return f"{self.service} never gets {self.kind.wire_name}{more}"


def play_of(service: str, kind: type[Fact]) -> Play:
    """In which this fact is published, one way or another."""
    if kind in (RetryRequested, Settled):
        return Play(service, kind, acts=1)
    if kind is ApprovalExpired:
        return Play(service, kind, (published(ADA, ABOVE_LIMIT), approval_expired(ADA)))
    if kind is StockRejected:
        return Play(service, kind, stock=NO_PEARS)
    late = kind in (ShipmentCancelled, OrderWithdrawn, SagaTimedOut)
    return Play(service, kind, (PUBLISHED, LATE) if late else (PUBLISHED,))


MORE_PLAYS = [
    Play("order", OrderCreated, (PUBLISHED, LATE)),
    Play("order", OrderCreated, (PUBLISHED, CANCELLED)),
    Play("order", OrderCreated, (PUBLISHED, CANCELLED, LATE), NO_PEARS),
    Play("order", OrderCreated, (published(ADA, ABOVE_LIMIT), approval_expired(ADA))),
    Play("inventory", OrderCreated, (posted(ADA), CANCELLED)),
]
PLAYS = [play_of(one.name, kind) for one in SERVICES for kind in one.subscribes_to] + MORE_PLAYS

# What is lost twice, and no withdrawal can replace it: where the order stands until a person has sent it.
STUCK = """
order        saga.timed_out                  placed     reserved  captured       cancel_failed
order        saga.timed_out                  placed     reserved  refund_failed  -
order        saga.timed_out                  placed     reserved  refund_failed  rejected
order        inventory.stock_rejected        withdrawn  rejected  fenced         fenced
order        inventory.stock_released        withdrawn  released  declined       fenced
order        inventory.stock_released        withdrawn  released  refunded       rejected
inventory    payment.declined                placed     reserved  declined       -
inventory    payment.refunded                placed     reserved  refunded       rejected
inventory    order.confirmed                 confirmed  reserved  captured       dispatch_failed
inventory    order.confirmed                 confirmed  reserved  captured       dispatched
payment      fulfillment.shipment_rejected   placed     reserved  captured       rejected
payment      fulfillment.shipment_cancelled  withdrawn  reserved  captured       cancelled
payment      fulfillment.shipment_cancelled  withdrawn  reserved  captured       fenced
payment      saga.retry_requested            placed     reserved  refund_failed  -
payment      saga.retry_requested            placed     reserved  refund_failed  rejected
payment      saga.settled                    placed     reserved  refund_failed  -
payment      saga.settled                    placed     reserved  refund_failed  rejected
fulfillment  order.withdrawn                 withdrawn  reserved  captured       scheduled
fulfillment  order.withdrawn                 withdrawn  reserved  refund_failed  -
fulfillment  order.confirmed                 confirmed  sold      captured       scheduled
fulfillment  saga.retry_requested            confirmed  sold      captured       dispatch_failed
fulfillment  saga.retry_requested            placed     reserved  captured       cancel_failed
fulfillment  saga.settled                    confirmed  sold      captured       dispatch_failed
fulfillment  saga.settled                    placed     reserved  captured       cancel_failed
notification order.confirmed                 confirmed  sold      captured       dispatch_failed
notification order.confirmed                 confirmed  sold      captured       dispatched
notification order.cancelled                 cancelled  released  declined       -
notification order.cancelled                 cancelled  released  refunded       rejected
notification saga.retry_requested            cancelled  released  declined       -
notification saga.retry_requested            cancelled  released  refunded       rejected
notification saga.retry_requested            confirmed  sold      captured       dispatched
notification saga.settled                    cancelled  released  declined       -
notification saga.settled                    cancelled  released  refunded       rejected
notification saga.settled                    confirmed  sold      captured       dispatched
"""


def standing(end: End) -> tuple[str, ...]:
    return end.order, end.inventory, end.payment, end.fulfillment


def known_as(end: End) -> tuple[str, ...]:
    """As ENDS has it; while a person sees to a failure, order_svc need not know of the order yet."""
    if end.order == "-":
        return ("placed", *standing(end)[1:], "NEEDS_MANUAL")
    return (*standing(end), end.verdict)


def stuck(play: Play) -> set[tuple[str, ...]]:
    lines = [line.split() for line in STUCK.splitlines() if line]
    pair = (play.service, name_of(play.kind))
    return {tuple(statuses) for service, fact, *statuses in lines if (service, fact) == pair}


@pytest.mark.parametrize("play", PLAYS, ids=str)
def test_sent_again_it_ends_as_it_would_have_ended(play: Play) -> None:
    ends = play.ends(tells_again=True)
    assert ends
    assert OVERDUE not in {end.verdict for end in ends}
    undisturbed = set(map(known_as, play.undisturbed()))
    assert set(map(known_as, ends)) <= undisturbed
    if play not in MORE_PLAYS:  # which are withdrawn before the fact is sent once more
        assert {verdict for *_, verdict in map(known_as, ends)} == {verdict for *_, verdict in undisturbed}


@pytest.mark.parametrize("play", PLAYS, ids=str)
def test_never_sent_it_is_undone_or_waits_for_a_person(play: Play) -> None:
    ends = play.ends(tells_again=False)
    assert {standing(end) for end in ends if end.verdict == OVERDUE} == stuck(play)
    over = {known_as(end) for end in ends if end.verdict != OVERDUE}
    assert over
    assert over <= letters().keys()


def test_every_pair_is_played() -> None:
    """Derived from the types: a fact that a service begins to subscribe to is played here, too."""
    assert {(play.service, play.kind) for play in PLAYS} == {
        (one.name, kind) for one in SERVICES for kind in one.subscribes_to
    }
