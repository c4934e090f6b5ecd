"""The orders of the demo: what each shows, how it begins, and how it must end in every service."""

from collections.abc import Mapping
from uuid import UUID

from compose.demo.play import Act, Scenario, Stage, given_up_after, once
from compose.demo.shop import Item
from events.messaging.topology import RETRY_DELAYS_SECONDS

AUTHORISING_TIMEOUT_SECONDS = 10
ABOVE_THE_LIMIT_MINOR = 1_080_000
_DELAYS = ", ".join(map(str, RETRY_DELAYS_SECONDS[:-1])) + f" and {RETRY_DELAYS_SECONDS[-1]}"


def _statuses(
    order: str, inventory: str, payment: str, fulfillment: str, notification: str = "notified"
) -> Mapping[str, str]:
    return {
        "order": order,
        "inventory": inventory,
        "payment": payment,
        "fulfillment": fulfillment,
        "notification": notification,
    }


_DELIVERED = _statuses("confirmed", "sold", "captured", "dispatched")


async def _in_stock(stage: Stage, run: str) -> UUID:
    apples, pears = f"apple-{run}", f"pear-{run}"
    await stage.shop.stock(apples, 20)
    await stage.shop.stock(pears, 20)
    return await stage.shop.place("cust_ada", "tok_ok", Item(apples, 2, 500), Item(pears, 1, 1_450))


async def _published(stage: Stage, run: str) -> UUID:
    sku = f"plum-{run}"
    await stage.shop.stock(sku, 20)
    return await stage.shop.publish("cust_berta", "tok_ok", Item(sku, 3, 900))


async def _out_of_stock(stage: Stage, run: str) -> UUID:
    sku = f"quince-{run}"
    await stage.shop.stock(sku, 1)
    return await stage.shop.place("cust_carl", "tok_ok", Item(sku, 2, 3_000))


async def _declined(stage: Stage, run: str) -> UUID:
    sku = f"medlar-{run}"
    await stage.shop.stock(sku, 20)
    return await stage.shop.place("cust_dora", "tok_declined", Item(sku, 1, 12_000))


async def _not_served(stage: Stage, run: str) -> UUID:
    sku = f"cherry-{run}"
    await stage.shop.stock(sku, 20)
    return await stage.shop.place("cust_refused_emil", "tok_ok", Item(sku, 5, 2_500))


async def _answer_lost(stage: Stage, run: str) -> UUID:
    sku = f"grape-{run}"
    await stage.shop.stock(sku, 20)
    return await stage.shop.place("cust_frida", "tok_lost", Item(sku, 4, 1_600))


async def _slowly_authorised(stage: Stage, run: str) -> UUID:
    sku = f"fig-{run}"
    await stage.shop.stock(sku, 20)
    return await stage.shop.place("cust_gino", "tok_slow", Item(sku, 6, 4_200))


async def _cancel_while_authorising(stage: Stage, order_id: UUID) -> None:
    await stage.shop.wait_for_payment(order_id, "authorising", AUTHORISING_TIMEOUT_SECONDS)
    await stage.shop.cancel(order_id)


async def _above_the_limit(stage: Stage, run: str) -> UUID:
    sku = f"truffle-{run}"
    await stage.shop.stock(sku, 20)
    return await stage.shop.place("cust_hanna", "tok_ok", Item(sku, 9, ABOVE_THE_LIMIT_MINOR))


async def _approve(stage: Stage, order_id: UUID) -> None:
    await stage.shop.approve(order_id, "a customer of ten years")


async def _never_refunded(stage: Stage, run: str) -> UUID:
    sku = f"peach-{run}"
    await stage.shop.stock(sku, 20)
    return await stage.shop.place("cust_refused_ivan", "tok_undo_refused", Item(sku, 2, 2_800))


async def _settle(stage: Stage, order_id: UUID) -> None:
    await stage.shop.settle(order_id, "paid back by bank transfer")


async def _while_inventory_is_frozen(stage: Stage, run: str) -> UUID:
    sku = f"date-{run}"
    await stage.shop.stock(sku, 20)
    await stage.sabotage.freeze("inventory")
    return await stage.shop.place("cust_jana", "tok_ok", Item(sku, 2, 1_200))


async def _cancel(stage: Stage, order_id: UUID) -> None:
    await stage.shop.cancel(order_id)


async def _thaw_inventory(stage: Stage, _order_id: UUID) -> None:
    await stage.sabotage.thaw("inventory")


async def _ask_payment(stage: Stage, order_id: UUID) -> str:
    payment = await stage.shop.payment(order_id)
    return f"GET /payments/{order_id}: {payment['status'] if payment else 'none'}"


async def _while_payment_is_frozen(stage: Stage, run: str) -> UUID:
    sku = f"olive-{run}"
    await stage.shop.stock(sku, 20)
    await stage.sabotage.freeze("payment")
    return await stage.shop.place("cust_kolja", "tok_ok", Item(sku, 2, 2_200))


async def _thaw_payment(stage: Stage, _order_id: UUID) -> None:
    await stage.sabotage.thaw("payment")


async def _four_lines(stage: Stage, run: str) -> UUID:
    items = [Item(f"{sku}-{run}", 1, 700) for sku in ("basil", "chives", "dill", "sage")]
    for item in items:
        await stage.shop.stock(item.sku, 20)
    await stage.sabotage.constrain_dispatches()
    return await stage.shop.place("cust_lena", "tok_ok", *items)


async def _name_the_trace(stage: Stage, order_id: UUID) -> str | None:
    saga = await stage.shop.saga(order_id)
    return f"trace {saga['trace_url'] or saga['trace_id']}" if saga else None


async def _read_the_dead_letter(stage: Stage, order_id: UUID) -> str:
    dead_letter = (await stage.shop.dead_letters(order_id))[0]
    return f"GET /dead-letters: {dead_letter['service']}, {dead_letter['reason']}: {dead_letter['detail']}"


async def _fix_and_replay(stage: Stage, order_id: UUID) -> None:
    await stage.sabotage.deploy_the_fix()
    for dead_letter in await stage.shop.dead_letters(order_id):
        await stage.shop.replay(dead_letter["letter_id"], "the constraint is gone")


SCENARIOS = (
    Scenario(
        "in_stock",
        "In stock and paid",
        "none",
        "The way forward: each service receives the fact before its own, and nobody conducts.",
        "COMPLETED",
        _DELIVERED,
        _in_stock,
    ),
    Scenario(
        "published",
        "Published as v1",
        "none, published as v1",
        "No POST: order.created.v1 from another program, with plain aio-pika. It is upcast on the way in.",
        "COMPLETED",
        _DELIVERED,
        _published,
    ),
    Scenario(
        "out_of_stock",
        "Out of stock",
        "out of stock",
        "Two wanted, one there. Nothing was done yet, so nothing is undone.",
        "CANCELLED",
        _statuses("cancelled", "rejected", "none", "none"),
        _out_of_stock,
    ),
    Scenario(
        "declined",
        "Card declined",
        "card declined",
        "The chain turns back at payment: inventory releases, then the order is cancelled.",
        "CANCELLED",
        _statuses("cancelled", "released", "declined", "none"),
        _declined,
    ),
    Scenario(
        "not_served",
        "Carrier refuses",
        "carrier refuses",
        "Paid already: payment refunds, inventory releases, the order is cancelled.",
        "CANCELLED",
        _statuses("cancelled", "released", "refunded", "rejected"),
        _not_served,
    ),
    Scenario(
        "answer_lost",
        "Answer lost",
        "answer lost",
        "The provider charges and its answer is lost. Payment asks before it tries again: one charge.",
        "COMPLETED",
        _DELIVERED,
        _answer_lost,
    ),
    Scenario(
        "cancelled_midway",
        "Cancelled midway",
        "cancelled midway",
        "The customer is faster than a slow provider: the chain runs back from the far end, past a fence.",
        "CANCELLED",
        _statuses("cancelled", "released", "refunded", "fenced"),
        _slowly_authorised,
        (
            Act(
                once("inventory.stock_reserved"),
                "The customer cancels while the provider is still authorising.",
                _cancel_while_authorising,
            ),
        ),
    ),
    Scenario(
        "approval",
        "Above the limit",
        "none, held",
        "So much money waits for a person, for seven days if need be; meanwhile it is AWAITING_APPROVAL.",
        "COMPLETED",
        _DELIVERED,
        _above_the_limit,
        (Act(once("payment.held"), "Ada approves: POST /payments/ORDER_ID/approve.", _approve),),
    ),
    Scenario(
        "manual",
        "Money that will not go back",
        "refund refused",
        "The carrier refuses, and the provider takes back neither charge nor credit note.",
        "CANCELLED",
        _statuses("cancelled", "released", "refunded", "rejected"),
        _never_refunded,
        (
            Act(
                given_up_after("payment.refund_failed"),
                "NEEDS_MANUAL: it is a dead letter, until a person acts.",
                _read_the_dead_letter,
            ),
            Act(
                once("payment.refund_failed"),
                "Ada pays the customer back by bank transfer, and says so: POST /sagas/ORDER_ID/settle.",
                _settle,
            ),
        ),
    ),
    Scenario(
        "late_fact",
        "A fact too late",
        "late fact",
        "Inventory is frozen (SIGSTOP) before the order reaches it.",
        "CANCELLED",
        _statuses("cancelled", "released", "fenced", "fenced"),
        _while_inventory_is_frozen,
        (
            Act(once("order.created"), "The customer cancels.", _cancel),
            Act(
                once("payment.refunded"),
                "Two fences stand. Inventory goes on, and first receives that the order was created.",
                _thaw_inventory,
            ),
            Act(
                once("notification.customer_notified"),
                "stock_reserved came after the undo, met payment's fence, and nobody was charged.",
                _ask_payment,
            ),
        ),
        freezes=True,
    ),
    Scenario(
        "timed_out",
        "A service too late",
        "payment frozen",
        "Payment is frozen (SIGSTOP). The tracker has patience for a time (3 s where the demo started the"
        " system; by default 2 min), redrives its step (after 8 s; by default 12), then publishes that it is"
        " too late.",
        "CANCELLED",
        _statuses("cancelled", "released", "refunded", "fenced"),
        _while_payment_is_frozen,
        (
            Act(
                once("saga.timed_out"),
                "It is stuck. Jaeger finds it by error=true and saga.waiting_for=payment:",
                _name_the_trace,
            ),
            Act(
                once("fulfillment.shipment_cancelled"),
                "Payment goes on. It finds the order and its undo, and leaves no charge.",
                _thaw_payment,
            ),
        ),
        freezes=True,
    ),
    Scenario(
        "poison",
        "A poison message",
        "poison message",
        "A migration went wrong: fulfilment's database refuses to dispatch more than three lines.",
        "COMPLETED",
        _DELIVERED,
        _four_lines,
        (
            Act(
                given_up_after("order.confirmed"),
                f"Tried again after {_DELAYS} s, and passed by its neighbours. Now it is a dead letter.",
                _read_the_dead_letter,
            ),
            Act(
                given_up_after("order.confirmed"),
                "The constraint is dropped, and the letter sent again: POST /dead-letters/ID/replay.",
                _fix_and_replay,
            ),
        ),
        head_start="order.confirmed",
    ),
)
