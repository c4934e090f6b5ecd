"""loyalty_svc: a confirmed order brings its points once."""

from uuid import UUID

from events.decision import Decision
from events.facts.order import OrderConfirmed
from loyalty_svc.decide import Grant, decide
from loyalty_svc.facts import PointsGranted

ORDER = UUID(int=1)
CONFIRMED = OrderConfirmed(order_id=ORDER, customer="cust_ada", amount_minor=2_450, currency="EUR")
GRANTED = Grant(ORDER, "granted", 24)


def test_a_confirmed_order_brings_points() -> None:
    fact = PointsGranted(order_id=ORDER, customer="cust_ada", points=24)
    assert decide(None, CONFIRMED) == Decision(GRANTED, (fact,))


def test_once() -> None:
    assert decide(GRANTED, CONFIRMED) == Decision(GRANTED)
