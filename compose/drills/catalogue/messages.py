"""More comes in than usual: everything twice, what nobody can read, and a flash sale."""

import asyncio
from collections.abc import Mapping
from uuid import NAMESPACE_OID, UUID, uuid5

import psycopg

from compose.demo.shop import Item
from compose.drills.load import Kind
from compose.drills.stage import Drill, Problems, Stage
from compose.drills.verbs import everything_twice, put_in_queue
from compose.system import SERVICE_NAMES, TRACKER
from compose.waiting import seen_in_time
from saga_tracker.consistency.snapshot import Books

# Every fact is published twice, under the same id.

TWICE_SECONDS = 12.0
# As many as there must at least have been for the drill to mean anything.
REPEATED = 100


async def publish_twice(stage: Stage) -> None:
    with stage.broken("every fact comes twice"):
        async with everything_twice(stage.rig.where) as repeated:
            await asyncio.sleep(TWICE_SECONDS)
    assert len(repeated) >= REPEATED, f"only {len(repeated)} facts came twice"


EVERYTHING_TWICE = Drill("everything-twice", "every message comes twice", publish_twice)


# Messages that nobody can read, into every service's queue: each a dead letter, nobody behind it delayed.

POISONS = (
    ("not JSON", b"\x00{", "order.created.v2"),
    ("not a fact", b'{"hello": "world"}', "order.created.v2"),
    ("a fact that nobody knows", b"{}", "order.eaten.v1"),
    ("nothing at all", b"", ""),
)
POISON_ROUNDS = 3
BETWEEN_ROUNDS_SECONDS = 2.0
RESOLVED_WITHIN_SECONDS = 20.0
POLL_SECONDS = 0.5


def message_ids(stage: Stage) -> dict[str, str]:
    """The service that each poisonous message is for."""
    return {
        str(uuid5(NAMESPACE_OID, f"{stage.run_name}-{number}-{service}-{name}")): service
        for number in range(POISON_ROUNDS)
        for service in SERVICE_NAMES
        for name, _body, _kind in POISONS
    }


async def poison_every_queue(stage: Stage) -> None:
    ids = iter(message_ids(stage).items())
    with stage.broken("poison in every queue"):
        for _ in range(POISON_ROUNDS):
            for service in SERVICE_NAMES:
                for _name, body, kind in POISONS:
                    message_id, _ = next(ids)
                    await put_in_queue(stage.rig.where, service, body, message_id=message_id, kind=kind)
            await asyncio.sleep(BETWEEN_ROUNDS_SECONDS)


async def each_is_a_dead_letter(stage: Stage, _books: Mapping[UUID, Books]) -> Problems:
    """Of its own service, and with a reason. The tracker may take a moment to collect them."""
    expected = message_ids(stage)

    async def look() -> set[tuple[str, str]]:
        async with await psycopg.AsyncConnection.connect(stage.rig.where.database_url(TRACKER)) as connection:
            cursor = await connection.execute(
                "SELECT message_id, service FROM dead_letters WHERE message_id = ANY(%s) AND reason <> ''",
                [list(expected)],
            )
            return set(expected.items()) - {(row[0], row[1]) for row in await cursor.fetchall()}

    missing = await seen_in_time(
        look, lambda missing: not missing, RESOLVED_WITHIN_SECONDS, poll_seconds=POLL_SECONDS
    )
    return [f"poison {message_id} for {service} is no dead letter" for message_id, service in sorted(missing)]


POISON = Drill("poison", "messages that nobody can read", poison_every_queue, verify=each_is_a_dead_letter)


# 10 units, 2,000 buyers at once.

UNITS = 10
BUYERS = 2_000
PRICE_MINOR = 4_900
# Most are cancelled for want of stock: `ten_are_lucky` counts who is not.
BUYER = Kind("COMPLETED", customer="cust_buyer", contested=True)
FLASH_SALE_ORDERS_PER_SECOND = 5.0


def sku_of(stage: Stage) -> str:
    return f"{stage.run_name}-bargain"


async def sell_in_a_flash(stage: Stage) -> None:
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


FLASH_SALE = Drill(
    "flash-sale",
    f"{UNITS} units, {BUYERS:,} buyers at once",
    sell_in_a_flash,
    verify=ten_are_lucky,
    orders_per_second=FLASH_SALE_ORDERS_PER_SECOND,
)
