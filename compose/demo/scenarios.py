"""The orders of the demo: what each shows, how it begins, and how it must end in every service."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from compose.demo.shop import Item, Shop

AUTHORISING_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Act:
    """Something that somebody outside does to an order once a fact was stated."""

    after: str
    told_as: str
    do: Callable[[Shop, UUID], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One order. `statuses` is each service's own word for its end, `none` where it did not hear of it."""

    name: str
    title: str
    point: str
    end: str
    statuses: Mapping[str, str]
    begin: Callable[[Shop, str], Awaitable[UUID]]
    """Places the order; is given what makes SKUs unique to this run."""
    act: Act | None = None


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


async def _in_stock(shop: Shop, run: str) -> UUID:
    apples, pears = f"apple-{run}", f"pear-{run}"
    await shop.stock(apples, 20)
    await shop.stock(pears, 20)
    return await shop.place("cust_ada", "tok_ok", Item(apples, 2, 500), Item(pears, 1, 1_450))


async def _published(shop: Shop, run: str) -> UUID:
    sku = f"plum-{run}"
    await shop.stock(sku, 20)
    return await shop.publish("cust_berta", "tok_ok", Item(sku, 3, 900))


async def _out_of_stock(shop: Shop, run: str) -> UUID:
    sku = f"quince-{run}"
    await shop.stock(sku, 1)
    return await shop.place("cust_carl", "tok_ok", Item(sku, 2, 3_000))


async def _declined(shop: Shop, run: str) -> UUID:
    sku = f"medlar-{run}"
    await shop.stock(sku, 20)
    return await shop.place("cust_dora", "tok_declined", Item(sku, 1, 12_000))


async def _not_served(shop: Shop, run: str) -> UUID:
    sku = f"cherry-{run}"
    await shop.stock(sku, 20)
    return await shop.place("cust_refused_emil", "tok_ok", Item(sku, 5, 2_500))


async def _answer_lost(shop: Shop, run: str) -> UUID:
    sku = f"grape-{run}"
    await shop.stock(sku, 20)
    return await shop.place("cust_frida", "tok_lost", Item(sku, 4, 1_600))


async def _slowly_authorised(shop: Shop, run: str) -> UUID:
    sku = f"fig-{run}"
    await shop.stock(sku, 20)
    return await shop.place("cust_gino", "tok_slow", Item(sku, 6, 4_200))


async def _cancel_while_authorising(shop: Shop, order_id: UUID) -> None:
    await shop.wait_for_payment(order_id, "authorising", AUTHORISING_TIMEOUT_SECONDS)
    await shop.cancel(order_id)


SCENARIOS = (
    Scenario(
        "in_stock",
        "In stock and paid",
        "The way forward: each service hears the fact before its own, and nobody conducts.",
        "COMPLETED",
        _DELIVERED,
        _in_stock,
    ),
    Scenario(
        "published",
        "Published as v1",
        "No POST: order.created.v1 from another program, with plain aio-pika. It is upcast on the way in.",
        "COMPLETED",
        _DELIVERED,
        _published,
    ),
    Scenario(
        "out_of_stock",
        "Out of stock",
        "Two wanted, one there. Nothing was done yet, so nothing is undone.",
        "CANCELLED",
        _statuses("cancelled", "rejected", "none", "none"),
        _out_of_stock,
    ),
    Scenario(
        "declined",
        "Card declined",
        "The chain turns back at payment: inventory releases, then the order is cancelled.",
        "CANCELLED",
        _statuses("cancelled", "released", "declined", "none"),
        _declined,
    ),
    Scenario(
        "not_served",
        "Carrier refuses",
        "Paid already: payment refunds, inventory releases, the order is cancelled.",
        "CANCELLED",
        _statuses("cancelled", "released", "refunded", "rejected"),
        _not_served,
    ),
    Scenario(
        "answer_lost",
        "Answer lost",
        "The provider charges and its answer is lost. Payment asks before it tries again: one charge.",
        "COMPLETED",
        _DELIVERED,
        _answer_lost,
    ),
    Scenario(
        "cancelled_midway",
        "Cancelled midway",
        "The customer is faster than a slow provider: the chain runs back from the far end, past a fence.",
        "CANCELLED",
        _statuses("cancelled", "released", "refunded", "fenced"),
        _slowly_authorised,
        Act(
            "inventory.stock_reserved",
            "The customer cancels while the provider is still authorising.",
            _cancel_while_authorising,
        ),
    ),
)
