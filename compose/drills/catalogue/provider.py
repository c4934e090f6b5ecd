"""The payment provider is away, slow, loses its answers, limits requests, or knows later how things end."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import aiohttp
import psycopg

from compose.drills.load import KINDS, Kind
from compose.drills.outcome import Target
from compose.drills.rig import PROVIDER_VARIABLE, Deed
from compose.drills.stage import Drill, Problems, Stage, killed, misbehaving
from compose.local.provision import SANDBOX
from compose.system import TRACKER
from compose.waiting import seen_in_time
from saga_tracker.consistency.snapshot import Books, Ledger

# The payment provider does nothing that it is asked, and says so.

DOWN_SECONDS = 20.0


async def provider_down(stage: Stage) -> None:
    with stage.broken("provider down"):
        async with misbehaving(stage.rig.where, "provider", fail_rate=1.0):
            await asyncio.sleep(DOWN_SECONDS)


PROVIDER_DOWN = Drill(
    "provider-down", f"the payment provider is down for {DOWN_SECONDS:.0f} s", provider_down
)


# The payment provider answers late: first within the patience of one attempt, then beyond it.

# Below and above the timeout of one attempt.
LATENCIES_SECONDS = (1.5, 6.0)
EACH_LATENCY_SECONDS = 10.0


async def slow_provider(stage: Stage) -> None:
    for latency_seconds in LATENCIES_SECONDS:
        with stage.broken(f"provider takes {latency_seconds} s"):
            async with misbehaving(stage.rig.where, "provider", latency_seconds=latency_seconds):
                await asyncio.sleep(EACH_LATENCY_SECONDS)


SLOW_PROVIDER = Drill("slow-provider", "the payment provider answers late, and too late", slow_provider)


# The payment provider charges and loses half of its answers, and refuses some requests besides.

LOSE_ANSWER_RATE = 0.5
FAIL_RATE = 0.1
FAULT_SECONDS = 20.0
SEEDS = 1_000_000


async def lose_answers(stage: Stage) -> None:
    with stage.broken("provider charges and loses answers"):
        async with misbehaving(
            stage.rig.where,
            "provider",
            lose_answer_rate=LOSE_ANSWER_RATE,
            fail_rate=FAIL_RATE,
            seed=stage.random.randrange(SEEDS),
        ):
            await asyncio.sleep(FAULT_SECONDS)


LOST_ANSWERS = Drill(
    "lost-answers", f"the provider charges and loses answers for {FAULT_SECONDS:.0f} s", lose_answers
)


# The payment provider takes no more than so much, and says when to come again.

LIMITED_RATE = 0.3


async def limit_rates(stage: Stage) -> None:
    with stage.broken("provider answers 429"):
        async with misbehaving(
            stage.rig.where,
            "provider",
            rate_limit_rate=LIMITED_RATE,
            seed=stage.random.randrange(SEEDS),
        ):
            await asyncio.sleep(FAULT_SECONDS)


PROVIDER_LIMITS = Drill(
    "provider-limits",
    f"the payment provider answers {LIMITED_RATE:.0%} of all requests with 429 for {FAULT_SECONDS:.0f} s",
    limit_rates,
)


# From here on with Stripe, whatever else is set: what ends later, or otherwise than it seemed.

BEGUN_WITH_STRIPE: Mapping[str, str] = {PROVIDER_VARIABLE: "stripe"}
# A customer whom no carrier serves: what was paid goes back.
NOT_SERVED = "cust_refused"
REVERSED = Kind("NEEDS_MANUAL", "pm_card_refundFail", NOT_SERVED)
DISPUTED = Kind("COMPLETED", "pm_card_createDispute")
PENDING_AND_BACK = Kind("CANCELLED", "pm_card_pendingRefund", NOT_SERVED)
PENDING_AND_FAILED = Kind("CANCELLED", "pm_sandbox_pendingRefundFails", NOT_SERVED)
STRIPE_KINDS = (
    Kind("COMPLETED", "pm_card_visa"),
    Kind("COMPLETED", "pm_sandbox_processing"),
    Kind("CANCELLED", "pm_sandbox_processingDeclined"),
    Kind("CANCELLED", "pm_card_authenticationRequired"),
    Kind("COMPLETED", "tok_lost"),
    REVERSED,
    DISPUTED,
    PENDING_AND_BACK,
    PENDING_AND_FAILED,
)
RESTS_WITHIN_SECONDS = 600.0
POLL_SECONDS = 0.5


async def stripe_books(stage: Stage) -> dict[str, Any]:
    """What the sandbox's door like Stripe's has in its books."""
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.get(f"{stage.rig.where.http(SANDBOX)}/stripe/books") as response,
    ):
        books: dict[str, Any] = await response.json()
        return books


async def nothing_due_at_stripe(stage: Stage) -> None:
    """Whatever was pending there has ended, and every event was taken."""

    def still_to_come(books: dict[str, Any]) -> int:
        return int(books["due"] + books["undelivered"])

    books = await seen_in_time(
        lambda: stripe_books(stage),
        lambda books: still_to_come(books) == 0,
        RESTS_WITHIN_SECONDS,
        poll_seconds=POLL_SECONDS,
    )
    assert still_to_come(books) == 0, f"Stripe's door is not through: {books}"
    # What a webhook ended is asked for once more, whenever that was due.
    left = await seen_in_time(
        lambda: calls_left(stage), lambda left: left == 0, RESTS_WITHIN_SECONDS, poll_seconds=POLL_SECONDS
    )
    assert left == 0, f"payment still has {left} calls to make"


async def calls_left(stage: Stage) -> int:
    """Of payment, to the provider."""
    url = stage.rig.where.database_url("payment")
    async with await psycopg.AsyncConnection.connect(url) as connection:
        row = await (await connection.execute("SELECT count(*) FROM calls")).fetchone()
        return int(row[0]) if row else 0


async def facts_of(stage: Stage, *names: str) -> dict[UUID, list[str]]:
    """Of these facts those that the tracker read of each order of the load, the earliest first."""
    query = (
        "SELECT order_id, regexp_replace(wire_name, '\\.v[0-9]+$', '') FROM saga_facts"
        " WHERE order_id = ANY(%s) ORDER BY stream_offset"
    )
    found: dict[UUID, list[str]] = {}
    url = stage.rig.where.database_url(TRACKER)
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute(query, [list(stage.load.accepted_as)])
        async for order_id, name in cursor:
            if name in names:
                found.setdefault(order_id, []).append(name)
    return found


# Stripe's events are held back, and come all at once, each of them twice and in no order.

WEBHOOKS_LATE_SECONDS = 15.0


async def hold_webhooks_back(stage: Stage) -> None:
    with stage.broken(f"webhooks {WEBHOOKS_LATE_SECONDS:.0f} s late"):
        async with misbehaving(stage.rig.where, "provider", webhook_delay_seconds=WEBHOOKS_LATE_SECONDS):
            await asyncio.sleep(FAULT_SECONDS)


async def late_facts_are_known(stage: Stage, books: Mapping[UUID, Books]) -> Problems:
    """A dispute, and a refund that failed after all, can be known by their events alone."""
    facts = await facts_of(stage, "payment.disputed", "payment.refund_reversed")
    problems = []
    for kind, fact in ((DISPUTED, "payment.disputed"), (REVERSED, "payment.refund_reversed")):
        orders = [order_id for order_id, one in stage.load.accepted_as.items() if one == kind]
        # One that was late was cancelled before it was charged.
        charged = [order_id for order_id in orders if _book(books, order_id).captures]
        known = [order_id for order_id in charged if facts.get(order_id, []).count(fact) == 1]
        stage.notes.append(f"{fact}: {len(known)} of {len(charged)} orders")
        problems += [f"order {one}: {fact} was not published once" for one in set(charged) - set(known)]
    return problems


WEBHOOKS_LATE = Drill(
    "webhooks-late",
    f"Stripe's webhooks come {WEBHOOKS_LATE_SECONDS:.0f} s late, twice and out of order",
    hold_webhooks_back,
    kinds=STRIPE_KINDS,
    settings={"payment": BEGUN_WITH_STRIPE},
    rested=nothing_due_at_stripe,
    verify=late_facts_are_known,
)


# Refunds are pending for long, and some fail in the end, while payment dies and comes back.

PENDING_DELAY_SECONDS = 12.0
DEAD_SECONDS = 5.0
REFUND_KINDS = (
    Kind("COMPLETED", "pm_card_visa"),
    Kind("COMPLETED", "tok_flaky"),
    Kind("CANCELLED", "pm_card_visa", NOT_SERVED),
    Kind("CANCELLED", "tok_refund_refused", NOT_SERVED),
    PENDING_AND_BACK,
    PENDING_AND_FAILED,
)


async def have_refunds_pend(stage: Stage) -> None:
    with stage.broken(f"refunds pend {PENDING_DELAY_SECONDS:.0f} s longer"):
        async with misbehaving(stage.rig.where, "provider", pending_delay_seconds=PENDING_DELAY_SECONDS):
            await asyncio.sleep(FAULT_SECONDS / 2)
            with stage.broken("payment dead"):
                async with killed(stage.rig, "payment"):
                    await asyncio.sleep(DEAD_SECONDS)
            await asyncio.sleep(FAULT_SECONDS / 2)


async def nothing_is_refunded_on_pending(stage: Stage, books: Mapping[UUID, Books]) -> Problems:
    """Each that was pending says so first, and then how the money went back, which the ledger has."""
    pending, refunded = "payment.refund_pending", "payment.refunded"
    facts = await facts_of(stage, pending, refunded)
    ways, problems = {PENDING_AND_BACK: "refunded", PENDING_AND_FAILED: "credited"}, []
    seen = 0
    for order_id, kind in stage.load.accepted_as.items():
        if kind in ways and (money := _book(books, order_id)).captures:
            seen += 1
            if facts.get(order_id) != [pending, refunded] or not money.times(ways[kind]):
                problems.append(f"order {order_id}: {facts.get(order_id)}, and the provider has {money}")
    stage.notes.append(f"{seen} orders whose refund was pending")
    return problems if seen else [*problems, "no refund was pending at all"]


def _book(books: Mapping[UUID, Books], order_id: UUID) -> Ledger:
    return books.get(order_id, Books()).money


PENDING_REFUNDS = Drill(
    "pending-refunds",
    "Stripe's refunds pend, and some fail, while payment is killed",
    have_refunds_pend,
    (Deed("kill", "payment"),),
    kinds=REFUND_KINDS,
    settings={"payment": BEGUN_WITH_STRIPE},
    rested=nothing_due_at_stripe,
    verify=nothing_is_refunded_on_pending,
)


# Everything at once, for so many orders, to count what nobody may find: a second charge, or a refund lost.

ORDERS = 20_000
RATES = {"fail_rate": 0.02, "lose_answer_rate": 0.04, "rate_limit_rate": 0.03, "saved_error_rate": 0.004}
LATE_SECONDS = 5.0
# As fast as the slowest machine would take them.
FEWEST_PER_SECOND = 4.0
COSTLY = Target(
    kept=0.9,
    manual=ORDERS // 100,
    ended_within_seconds=900.0,
    why=(
        "Stripe answers an error that it saved under a key for a day. What was not done before it cannot be "
        "done under that key: a charge is declined, and an undo is for a person, minutes later. So is the "
        "refund of an order that was late, and whose charge is disputed meanwhile."
    ),
)


# What is saved as an error is given up within a minute or two.
BRIEF = {
    "MURMURATION_CALL_ATTEMPTS": "12",
    "MURMURATION_UNDO_ATTEMPTS": "12",
    "MURMURATION_UNDO_BACKOFF_CAP_SECONDS": "5",
}


def charging_once(orders: int, **brief: str) -> Drill:
    """The drill with so many orders, and with these settings of payment's besides."""

    async def strike(stage: Stage) -> None:
        with stage.broken("Stripe fails in every way"):
            async with misbehaving(
                stage.rig.where,
                "provider",
                seed=stage.random.randrange(SEEDS),
                webhook_delay_seconds=LATE_SECONDS,
                **RATES,
            ):
                await stage.load.accepted(orders)

    return Drill(
        "charged-once",
        f"{orders:,} orders, with every fault of Stripe's at once",
        strike,
        kinds=tuple(replace(kind, undo_may_fail=True) for kind in (*KINDS, *STRIPE_KINDS)),
        settings={"payment": {**BEGUN_WITH_STRIPE, **brief}},
        rested=nothing_due_at_stripe,
        verify=nobody_is_charged_twice,
        target=COSTLY,
        limit_seconds=60.0 + orders / FEWEST_PER_SECOND,
    )


async def nobody_is_charged_twice(stage: Stage, books: Mapping[UUID, Books]) -> Problems:
    """By the ledger, and by what its constraints refused, which Stripe would have done."""
    door = await stripe_books(stage)
    ledgers = {order_id: _book(books, order_id) for order_id in stage.load.accepted_as}
    kinds = ("authorised", "captured", "voided", "refunded", "credited")
    counts = {kind: sum(money.times(kind) for money in ledgers.values()) for kind in kinds}
    twice = [order_id for order_id, money in ledgers.items() if money.moved_too_often]
    lost = lost_refunds(books, ledgers)
    counted = [
        f"{len(ledgers)} orders; movements: {', '.join(f'{n} {kind}' for kind, n in counts.items())}",
        f"{len(twice)} charged or paid back twice, {door['asked_twice']} asked for twice, {len(lost)} lost",
        f"at Stripe: {door['objects']}",
    ]
    stage.notes.extend(counted)
    problems = [f"order {one} was charged or paid back twice" for one in twice]
    problems += [f"order {one}: its money is not back" for one in lost]
    if door["asked_twice"]:
        problems.append(f"{door['asked_twice']} charges or refunds were asked for twice")
    return problems


def lost_refunds(books: Mapping[UUID, Books], ledgers: Mapping[UUID, Ledger]) -> Sequence[UUID]:
    """Of cancelled orders those whose money is not back, and of which no person was informed."""
    return [
        order_id
        for order_id, money in ledgers.items()
        if books.get(order_id, Books()).verdict == "CANCELLED" and not money.money_is_back
    ]


CHARGED_ONCE = charging_once(ORDERS, **BRIEF)
