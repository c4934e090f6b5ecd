"""What loyalty makes of each fact.

order.confirmed -> one point for every 100 minor units -> points_granted
"""

from dataclasses import dataclass
from typing import Literal, Never, assert_never
from uuid import UUID

from events.decision import Decision
from events.facts.order import OrderConfirmed
from loyalty_svc.facts import PointsGranted

NAME = "loyalty"
MINOR_UNITS_A_POINT = 100

Subscribes = OrderConfirmed
Publishes = PointsGranted


@dataclass(frozen=True, slots=True)
class Grant:
    """What one order brought its customer."""

    order_id: UUID
    status: Literal["granted"]
    points: int


def decide(grant: Grant | None, message: Subscribes) -> Decision[Grant | None, Publishes, Never]:
    match message:
        case OrderConfirmed():
            return give(grant, message)
        case _:
            assert_never(message)


def give(grant: Grant | None, confirmed: OrderConfirmed) -> Decision[Grant | None, Publishes, Never]:
    if grant is not None:
        return Decision(grant)
    points = confirmed.amount_minor // MINOR_UNITS_A_POINT
    granted = PointsGranted(order_id=confirmed.order_id, customer=confirmed.customer, points=points)
    return Decision(Grant(confirmed.order_id, "granted", points), (granted,))
