"""Everything the rest of the system must know of inventory_svc, and what its process is made of."""

from datetime import UTC, datetime

from events.facts.inventory import StockRejected, StockReleased, StockReserved, StockSold
from events.facts.order import OrderConfirmed, OrderCreated
from events.facts.payment import PaymentDeclined, PaymentRefunded
from events.runtime.definition import ServiceDefinition
from events.service import Step
from inventory_svc import api
from inventory_svc.decide import decide
from inventory_svc.repository import SHELVES

SERVICE = ServiceDefinition(
    name="inventory",
    position=2,
    decide=decide,
    repository=SHELVES,
    routers=(api.router,),
    steps=(
        Step(OrderCreated, (StockReserved, StockRejected)),
        Step(OrderConfirmed, (StockSold,), since=datetime(2026, 11, 28, tzinfo=UTC)),
        Step(PaymentRefunded, (StockReleased, StockRejected)),
        Step(PaymentDeclined, (StockReleased,)),
    ),
    statuses_done=("sold",),
    statuses_undone=("rejected", "released", "fenced"),
    statuses_after={
        StockReserved: ("reserved", "sold"),
        StockRejected: ("rejected",),
        StockReleased: ("released", "fenced"),
        StockSold: ("sold",),
    },
)
