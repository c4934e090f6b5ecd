"""Everything the rest of the system must know of order_svc, and what its process is made of."""

from events.facts.fulfillment import ShipmentScheduled
from events.facts.inventory import StockRejected, StockReleased
from events.facts.order import OrderCancelled, OrderConfirmed, OrderCreated, OrderWithdrawn
from events.facts.saga import SagaTimedOut
from events.runtime.definition import ServiceDefinition
from events.service import Step
from order_svc import api
from order_svc.decide import decide
from order_svc.repository import OLDEST, ORDERS

SERVICE = ServiceDefinition(
    name="order",
    position=1,
    decide=decide,
    repository=ORDERS,
    routers=(api.router,),
    oldest=OLDEST,
    steps=(
        # The pivot.
        Step(ShipmentScheduled, (OrderConfirmed,), knowing=OrderCreated),
        # Backwards: its turn is first, which sends the chain off from the far end, and last.
        Step(SagaTimedOut, (OrderWithdrawn, OrderConfirmed), knowing=OrderCreated),
        Step(StockReleased, (OrderCancelled,), knowing=OrderCreated),
        Step(StockRejected, (OrderCancelled,), knowing=OrderCreated),
    ),
    statuses_done=("confirmed",),
    statuses_undone=("cancelled",),
    statuses_after={
        OrderWithdrawn: ("withdrawn", "cancelled"),
        OrderConfirmed: ("confirmed",),
        OrderCancelled: ("cancelled",),
    },
)
