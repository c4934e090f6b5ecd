"""Processes are killed, frozen and upgraded; more comes in than usual, and what nobody can read."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import product
from uuid import NAMESPACE_OID, UUID, uuid5

import psycopg

from compose.demo.shop import Item
from compose.drills.load import Kind
from compose.drills.outcome import Target
from compose.drills.rig import POSTGRES, RABBITMQ, REPLICAS, Deed
from compose.drills.stage import (
    Drill,
    Problems,
    Stage,
    Victims,
    all_killed,
    all_stopped,
    everything_twice,
    killed,
    paused,
    put_in_queue,
    stopped,
)
from compose.local.provision import SANDBOX
from compose.system import SERVICE_NAMES, TRACKER
from compose.waiting import seen_in_time
from saga_tracker.consistency.snapshot import Books

# kill -9 of each service, one after the other, two of them for long.

# The last for longer than its step, the redrive and the grace after it take.
SERVICES_AWAY_SECONDS: Mapping[str, float] = {"inventory": 6.0, "payment": 15.0}
AWAY_SOON_SECONDS = (0.0, 2.0)
# Who is away for long comes last: until then there is little to catch up with.
IN_TURN = sorted(SERVICE_NAMES, key=lambda name: SERVICES_AWAY_SECONDS.get(name, 0.0))


def killing_services(
    names: Sequence[str], away_seconds: Mapping[str, float] = SERVICES_AWAY_SECONDS
) -> Drill:
    """The drill for some services. Who is not in `away_seconds` is started again soon."""

    async def strike(stage: Stage) -> None:
        for name in names:
            await stage.caught_up()
            with stage.broken(f"{name} dead"):
                async with killed(stage.rig, name):
                    soon = stage.random.uniform(*AWAY_SOON_SECONDS)
                    await asyncio.sleep(away_seconds.get(name, soon))

    return Drill(
        "kill-services",
        "kill -9 of each service",
        strike,
        tuple(Deed("kill", name) for name in names),
    )


KILL_SERVICES = killing_services(IN_TURN)


# Services are frozen, one after the other, and go on: zombies with stale work, which kept their queues.

# The last for longer than its step, the redrive and the grace after it take.
FROZEN = Victims({"inventory": 6.0, "payment": 15.0}, drawn_seconds=6.0)


def pausing_services(victims: Victims) -> Drill:
    """The drill for some services."""

    async def strike(stage: Stage) -> None:
        for name, seconds in victims.in_turn(stage.random):
            await stage.caught_up()
            with stage.broken(f"{name} frozen"):
                async with paused(stage.rig, name):
                    await asyncio.sleep(seconds)

    return Drill(
        "pause-services",
        f"a service is frozen for up to {victims.longest_seconds:.0f} s, and goes on",
        strike,
        tuple(Deed("pause", name) for name in victims.names),
    )


PAUSE_SERVICES = pausing_services(FROZEN)


# kill -9 of one replica of everything at once: the others carry on, and take over what the dead left.

# First the one half of all processes, then the other. The tracker that acts is in one of the two.
HALVES = tuple(tuple(f"{name}{number}" for name in (*SERVICE_NAMES, TRACKER)) for number in ("", "-2"))
HALF_AWAY_SECONDS = 8.0
BETWEEN_HALVES_SECONDS = 4.0


async def kill_half_of_all(stage: Stage) -> None:
    for number, half in enumerate(HALVES, 1):
        with stage.broken(f"half of all replicas dead ({number})"):
            async with all_killed(stage.rig, half):
                await asyncio.sleep(HALF_AWAY_SECONDS)
        await asyncio.sleep(BETWEEN_HALVES_SECONDS)


KILL_REPLICAS = Drill(
    "kill-replicas",
    "kill -9 of one replica of every service, and of the tracker",
    kill_half_of_all,
    tuple(Deed("kill", name) for half in HALVES for name in half),
)


# The tracker is dead for the whole load: nobody needs it, and afterwards it has seen everything.

TRACKER_AWAY_SECONDS = 15.0


async def kill_tracker(stage: Stage) -> None:
    with stage.broken("tracker dead"):
        async with killed(stage.rig, TRACKER):
            await asyncio.sleep(TRACKER_AWAY_SECONDS)


TRACKER_DOWN = Drill(
    "tracker-down",
    f"the tracker is dead for {TRACKER_AWAY_SECONDS:.0f} s",
    kill_tracker,
    (Deed("kill", TRACKER),),
)


# Payment is dead for five minutes, which is longer than anybody waits for it.

DEAD_SERVICE = "payment"
DEAD_SECONDS = 300.0

DEAD_FOR_LONG = Target(
    kept=0.0,
    why=(
        "Past its patience a service that is down is late, and intake refuses once the oldest open order is "
        "too old: what was accepted before may be cancelled, whole, and none of it may be left to a person."
    ),
)


async def kill_for_long(stage: Stage) -> None:
    with stage.broken(f"{DEAD_SERVICE} dead"):
        async with killed(stage.rig, DEAD_SERVICE):
            await asyncio.sleep(DEAD_SECONDS)


LONG_OUTAGE = Drill(
    "long-outage",
    "payment is dead for five minutes",
    kill_for_long,
    (Deed("kill", DEAD_SERVICE),),
    target=DEAD_FOR_LONG,
    limit_seconds=2 * DEAD_SECONDS,
)


# Everything is restarted in an orderly way, one after the other, as a deployment does.

RESTARTED = (*SERVICE_NAMES, TRACKER, SANDBOX, RABBITMQ, POSTGRES)


async def restart_in_turn(stage: Stage) -> None:
    for name in RESTARTED:
        await stage.caught_up()
        with stage.broken(f"{name} restarts"):
            async with stopped(stage.rig, name):
                pass


ROLLING_RESTART = Drill(
    "rolling-restart",
    "everything is restarted, one after the other",
    restart_in_turn,
    tuple(Deed("stop", name) for name in RESTARTED),
)


# From the release before to this one under load, replica by replica, and back, on this one's schema.
#
# In the order that `docs/production.md` gives: whoever is to learn something new before whoever says it.

UPGRADED = (*SERVICE_NAMES, TRACKER)
# Twelve processes, of which some are starting all the time, on the same CPUs.
UPGRADE_ORDERS_PER_SECOND = 6.0


async def upgrade_and_take_back(stage: Stage) -> None:
    for names, replica in product((SERVICE_NAMES, (TRACKER,)), REPLICAS):
        with stage.broken(f"replica {replica} of {' '.join(names)} is upgraded"):
            await stage.rig.replace(names, replica, "this")
    for names, replica in product(((TRACKER,), SERVICE_NAMES), REPLICAS):
        with stage.broken(f"replica {replica} of {' '.join(names)} is taken back"):
            await stage.rig.replace(names, replica, "before")


ROLLING_UPGRADE = Drill(
    "rolling-upgrade",
    "from the release before to this one and back, replica by replica",
    upgrade_and_take_back,
    tuple(Deed("replace", name) for name in UPGRADED),
    orders_per_second=UPGRADE_ORDERS_PER_SECOND,
)


# Everything is stopped at once in the middle of orders, and started again.

DARK_SECONDS = 5.0


async def stop_everything(stage: Stage) -> None:
    with stage.broken("nothing runs"):
        async with all_stopped(stage.rig):
            await asyncio.sleep(DARK_SECONDS)


FULL_STOP = Drill(
    "full-stop", "the whole stack stops and starts again", stop_everything, (Deed("stop_all", "all"),)
)


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
