"""order_svc: how an order begins, turns and ends."""

from dataclasses import replace

from events.facts.base import content_of
from order_svc.decide import CancelOrder, Order, PlaceOrder, decide
from tests.decide.given import (
    AMOUNT_MINOR,
    CONTRADICTING,
    CURRENCY,
    CUSTOMER,
    LINES,
    ORDER,
    ORDER_CANCELLED,
    ORDER_CONFIRMED,
    ORDER_CREATED,
    ORDER_WITHDRAWN,
    SAGA_TIMED_OUT,
    SHIPMENT_SCHEDULED,
    STOCK_REJECTED,
    STOCK_RELEASED,
    TOKEN,
    order_cancelled,
    order_withdrawn,
    stock_released,
)
from tests.decide.table import Row, every, given, rows

POST = PlaceOrder(
    order_id=ORDER, customer=CUSTOMER, currency=CURRENCY, payment_token=TOKEN, lines=LINES, fingerprint="f1"
)
CANCEL = CancelOrder(order_id=ORDER)

EARLY_SCHEDULED = Order(ORDER, "early_scheduled")
EARLY_TIMED_OUT = Order(ORDER, "early_timed_out")
EARLY_UNDONE = Order(ORDER, "early_undone", reason="card_declined")
PLACED = Order(
    ORDER,
    "placed",
    customer=CUSTOMER,
    currency=CURRENCY,
    lines=LINES,
    amount_minor=AMOUNT_MINOR,
    content=content_of(ORDER_CREATED),
)
CONFIRMED = replace(PLACED, status="confirmed")
WITHDRAWN = replace(PLACED, status="withdrawn", reason="timed_out")
CANCELLED = replace(PLACED, status="cancelled", reason="timed_out")
TOMBSTONE = Order(ORDER, "withdrawn", customer=CUSTOMER, reason="timed_out")
UNNAMED_TOMBSTONE = Order(ORDER, "withdrawn", reason="customer_cancelled")
ENDED_TOMBSTONE = replace(TOMBSTONE, status="cancelled")
TIMED_OUT_UNNAMED = SAGA_TIMED_OUT.model_copy(update={"customer": None})


def posted(state: Order) -> Order:
    return replace(state, fingerprint="f1")


BEGINNING = rows(
    given(None).when(POST).then(posted(PLACED), ORDER_CREATED),
    given(None).when(ORDER_CREATED).then(PLACED),
    given(PLACED, CONFIRMED, WITHDRAWN, CANCELLED).when(POST, ORDER_CREATED).nothing(),
    given(posted(PLACED)).when(POST, ORDER_CREATED).nothing(),
    given(PLACED, posted(PLACED), CONFIRMED, WITHDRAWN, CANCELLED).when(*CONTRADICTING).contradicts(),
    # A customer's key tells whether it is the same POST; what an older release placed tells nothing.
    given(posted(PLACED)).when(POST.model_copy(update={"lines": LINES[:1]})).nothing(),
    given(replace(PLACED, content=None)).when(*CONTRADICTING).nothing(),
)

TURNING = rows(
    given(PLACED).when(SHIPMENT_SCHEDULED).then(CONFIRMED, ORDER_CONFIRMED),
    given(CONFIRMED, WITHDRAWN, CANCELLED, TOMBSTONE, ENDED_TOMBSTONE).when(SHIPMENT_SCHEDULED).nothing(),
    given(PLACED).when(SAGA_TIMED_OUT).then(WITHDRAWN, ORDER_WITHDRAWN),
    given(PLACED)
    .when(CANCEL)
    .then(replace(WITHDRAWN, reason="customer_cancelled"), order_withdrawn("customer_cancelled")),
    given(None).when(CANCEL).nothing(),
    given(CONFIRMED, WITHDRAWN, CANCELLED).when(SAGA_TIMED_OUT, CANCEL).nothing(),
)

ENDING = rows(
    given(PLACED)
    .when(STOCK_REJECTED)
    .then(replace(CANCELLED, reason="out_of_stock"), order_cancelled("out_of_stock")),
    given(PLACED).when(STOCK_RELEASED).then(CANCELLED, ORDER_CANCELLED),
    # What it was withdrawn for is the reason, whatever the chain says on its way back.
    given(WITHDRAWN).when(STOCK_REJECTED, stock_released("card_declined")).then(CANCELLED, ORDER_CANCELLED),
    given(CONFIRMED, CANCELLED).when(STOCK_REJECTED, STOCK_RELEASED).nothing(),
)

OVERTAKING = rows(
    given(None).when(SHIPMENT_SCHEDULED).then(EARLY_SCHEDULED),
    given(None, EARLY_TIMED_OUT, EARLY_SCHEDULED, EARLY_UNDONE)
    .when(stock_released("card_declined"))
    .then(EARLY_UNDONE),
    given(None, EARLY_TIMED_OUT, EARLY_SCHEDULED, EARLY_UNDONE)
    .when(STOCK_REJECTED)
    .then(replace(EARLY_UNDONE, reason="out_of_stock")),
    # Whichever came first stands: the pivot is decided once.
    given(EARLY_SCHEDULED, EARLY_TIMED_OUT, EARLY_UNDONE).when(SHIPMENT_SCHEDULED).nothing(),
)

# What never began here is withdrawn all the same; then the chain runs back, and the order ends.
NEVER_BEGUN = rows(
    given(None, EARLY_SCHEDULED, EARLY_TIMED_OUT).when(SAGA_TIMED_OUT).then(TOMBSTONE, ORDER_WITHDRAWN),
    given(None, EARLY_SCHEDULED, EARLY_TIMED_OUT)
    .when(TIMED_OUT_UNNAMED)
    .then(replace(TOMBSTONE, customer=None), ORDER_WITHDRAWN),
    given(EARLY_SCHEDULED, EARLY_TIMED_OUT)
    .when(CANCEL)
    .then(UNNAMED_TOMBSTONE, order_withdrawn("customer_cancelled")),
    given(TOMBSTONE, ENDED_TOMBSTONE).when(SAGA_TIMED_OUT, TIMED_OUT_UNNAMED, CANCEL).nothing(),
    given(TOMBSTONE).when(STOCK_RELEASED, STOCK_REJECTED).then(ENDED_TOMBSTONE, ORDER_CANCELLED),
    given(ENDED_TOMBSTONE).when(STOCK_RELEASED, STOCK_REJECTED).nothing(),
    # Whose order it is has to be known for it to end, and may become known later.
    given(UNNAMED_TOMBSTONE).when(SAGA_TIMED_OUT).then(replace(UNNAMED_TOMBSTONE, customer=CUSTOMER)),
    given(UNNAMED_TOMBSTONE)
    .when(stock_released("card_declined"))
    .then(replace(EARLY_UNDONE, reason="customer_cancelled")),
    given(UNNAMED_TOMBSTONE).when(SHIPMENT_SCHEDULED, CANCEL).nothing(),
    given(EARLY_UNDONE)
    .when(SAGA_TIMED_OUT)
    .then(
        replace(EARLY_UNDONE, status="cancelled", customer=CUSTOMER),
        order_cancelled("card_declined"),
    ),
    given(EARLY_UNDONE).when(TIMED_OUT_UNNAMED, CANCEL).nothing(),
    # It comes after all, and changes nothing but what is known.
    given(TOMBSTONE, replace(TOMBSTONE, customer=None)).when(ORDER_CREATED).then(WITHDRAWN),
    given(ENDED_TOMBSTONE).when(ORDER_CREATED).then(CANCELLED),
    given(TOMBSTONE).when(POST).then(posted(WITHDRAWN), ORDER_CREATED),
    given(ENDED_TOMBSTONE).when(POST).then(posted(CANCELLED), ORDER_CREATED),
)

CATCHING_UP = rows(
    given(EARLY_SCHEDULED).when(ORDER_CREATED).then(CONFIRMED, ORDER_CONFIRMED),
    given(EARLY_TIMED_OUT).when(ORDER_CREATED).then(WITHDRAWN, ORDER_WITHDRAWN),
    given(EARLY_UNDONE)
    .when(ORDER_CREATED)
    .then(replace(CANCELLED, reason="card_declined"), order_cancelled("card_declined")),
    given(EARLY_SCHEDULED).when(POST).then(posted(CONFIRMED), ORDER_CREATED, ORDER_CONFIRMED),
    given(EARLY_TIMED_OUT).when(POST).then(posted(WITHDRAWN), ORDER_CREATED, ORDER_WITHDRAWN),
    given(EARLY_UNDONE)
    .when(POST)
    .then(
        posted(replace(CANCELLED, reason="card_declined")), ORDER_CREATED, order_cancelled("card_declined")
    ),
)

TABLE = rows(BEGINNING, TURNING, ENDING, OVERTAKING, NEVER_BEGUN, CATCHING_UP)


@every(TABLE)
def test_order(row: Row) -> None:
    row.check(decide)
