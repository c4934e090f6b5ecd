"""inventory_svc: every line is set aside or none is; what was set aside is released or sold, once."""

from dataclasses import replace

from events.facts import Line
from events.facts.base import content_of
from events.facts.order import OrderCreated
from inventory_svc.decide import Reservation, Shelf, Stock, decide
from tests.decide.given import (
    CONTRADICTING,
    ORDER,
    ORDER_CONFIRMED,
    ORDER_CREATED,
    PAYMENT_DECLINED,
    PAYMENT_REFUNDED,
    STOCK_RELEASED,
    STOCK_RESERVED,
    STOCK_SOLD,
    order_created,
    stock_rejected,
    stock_released,
)
from tests.decide.table import Row, every, given, rows

UNITS = {"apple": 2, "pear": 1}


def shelf(status: str | None, *, apples: tuple[int, int, int], pears: tuple[int, int, int]) -> Shelf:
    """The order's reservation in this status, and so many available, reserved and sold units."""
    units = UNITS if status in ("reserved", "released", "sold") else {}
    content = None if status == "fenced" else content_of(ORDER_CREATED)
    reservation = Reservation(ORDER, status, units, content) if status else None  # type: ignore[arg-type]
    return Shelf(reservation, {"apple": Stock("apple", *apples), "pear": Stock("pear", *pears)})


# Other orders have 4 apples reserved and 3 pears sold throughout.
NEW = shelf(None, apples=(9, 4, 0), pears=(5, 0, 3))
RESERVED = shelf("reserved", apples=(7, 6, 0), pears=(4, 1, 3))
SOLD = shelf("sold", apples=(7, 4, 2), pears=(4, 0, 4))
RELEASED = shelf("released", apples=(9, 4, 0), pears=(5, 0, 3))
REJECTED = shelf("rejected", apples=(9, 4, 0), pears=(5, 0, 3))
FENCED = shelf("fenced", apples=(9, 4, 0), pears=(5, 0, 3))

JUST_ENOUGH = shelf(None, apples=(2, 4, 0), pears=(1, 0, 3))
NONE_LEFT = shelf("reserved", apples=(0, 6, 0), pears=(0, 1, 3))
ONE_SHORT = shelf(None, apples=(1, 4, 0), pears=(5, 0, 3))
BOTH_SHORT = shelf(None, apples=(1, 4, 0), pears=(0, 0, 3))
NO_PEARS_KNOWN = replace(NEW, stock={"apple": NEW.stock["apple"]})


def refused(was: Shelf, order: OrderCreated = ORDER_CREATED) -> Shelf:
    return replace(was, reservation=Reservation(ORDER, "rejected", {}, content_of(order)))


def of_older_release(was: Shelf) -> Shelf:
    assert was.reservation is not None
    return replace(was, reservation=replace(was.reservation, content=None))


def of_apples(*quantities: int) -> tuple[Line, ...]:
    return tuple(Line(sku="apple", quantity=quantity, amount_minor=100) for quantity in quantities)


FIVE_AND_FIVE = order_created(lines=of_apples(5, 5))

RESERVING = rows(
    given(NEW).when(ORDER_CREATED).then(RESERVED, STOCK_RESERVED),
    given(JUST_ENOUGH).when(ORDER_CREATED).then(NONE_LEFT, STOCK_RESERVED),
    given(ONE_SHORT).when(ORDER_CREATED).then(refused(ONE_SHORT), stock_rejected("out_of_stock", "apple")),
    given(BOTH_SHORT)
    .when(ORDER_CREATED)
    .then(refused(BOTH_SHORT), stock_rejected("out_of_stock", "apple", "pear")),
    given(NO_PEARS_KNOWN)
    .when(ORDER_CREATED)
    .then(refused(NO_PEARS_KNOWN), stock_rejected("unknown_sku", "pear")),
    # Two lines of one SKU are wanted together: five and five are not had from nine.
    given(NEW).when(FIVE_AND_FIVE).then(refused(NEW, FIVE_AND_FIVE), stock_rejected("out_of_stock", "apple")),
    given(RESERVED, REJECTED, RELEASED, SOLD).when(ORDER_CREATED).nothing(),
    given(RESERVED, REJECTED, RELEASED, SOLD).when(*CONTRADICTING).contradicts(),
    given(of_older_release(RESERVED)).when(*CONTRADICTING).nothing(),
    # The undo overtook the creation: a late creation must not set anything aside.
    given(FENCED).when(ORDER_CREATED).nothing(),
)

RELEASING = rows(
    given(RESERVED).when(PAYMENT_REFUNDED).then(RELEASED, STOCK_RELEASED),
    given(RESERVED).when(PAYMENT_DECLINED).then(RELEASED, stock_released("card_declined")),
    given(NEW).when(PAYMENT_REFUNDED).then(FENCED, STOCK_RELEASED),
    given(NEW).when(PAYMENT_DECLINED).then(FENCED, stock_released("card_declined")),
    given(REJECTED, RELEASED, FENCED).when(PAYMENT_REFUNDED, PAYMENT_DECLINED).nothing(),
    given(SOLD).when(PAYMENT_REFUNDED, PAYMENT_DECLINED).violates_causality(),
)

SELLING = rows(
    given(RESERVED).when(ORDER_CONFIRMED).then(SOLD, STOCK_SOLD),
    given(SOLD).when(ORDER_CONFIRMED).nothing(),
    given(NEW, REJECTED, RELEASED, FENCED).when(ORDER_CONFIRMED).violates_causality(),
)

TABLE = rows(RESERVING, RELEASING, SELLING)


@every(TABLE)
def test_inventory(row: Row) -> None:
    row.check(decide)
