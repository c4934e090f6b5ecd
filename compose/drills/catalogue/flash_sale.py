"""10 units, 2,000 buyers at once."""

import asyncio
from collections.abc import Mapping
from uuid import UUID

from compose.demo.shop import Item
from compose.drills.load import Kind
from compose.drills.stage import Drill, Problems, Stage
from saga_tracker.consistency.snapshot import Books

UNITS = 10
BUYERS = 2_000
PRICE_MINOR = 4_900
# Most are cancelled for want of stock: `ten_are_lucky` counts who is not.
BUYER = Kind("COMPLETED", customer="cust_buyer", contested=True)
ORDERS_PER_SECOND = 5.0


def sku_of(stage: Stage) -> str:
    return f"{stage.run_name}-bargain"


async def strike(stage: Stage) -> None:
    await stage.shop.stock(sku_of(stage), UNITS)
    with stage.broken(f"{BUYERS} buyers of {UNITS} units"):
        async with asyncio.TaskGroup() as group:
            for _ in range(BUYERS):
                group.create_task(stage.load.place(BUYER, Item(sku_of(stage), 1, PRICE_MINOR)))


async def ten_are_lucky(stage: Stage, books: Mapping[UUID, Books]) -> Problems:
    """Every unit was set aside for somebody, and sold, and none to two."""
    reservations = [
        book.reservation for book in books.values() if sku_of(stage) in (book.reservation.units or {})
    ]
    sold = sum(row.status == "sold" for row in reservations)
    released = sum(row.status == "released" for row in reservations)
    problems = []
    if sold > UNITS:
        problems.append(f"{sold} units sold of {UNITS}")
    if sold + released < UNITS:
        problems.append(f"only {sold + released} of {UNITS} units were ever set aside")
    if sold < UNITS:
        problems.append(f"only {sold} of {UNITS} units sold")
    return problems


DRILL = Drill(
    "flash-sale",
    f"{UNITS} units, {BUYERS:,} buyers at once",
    strike,
    verify=ten_are_lucky,
    orders_per_second=ORDERS_PER_SECOND,
)
