"""Fulfilment's gateway against a real sandbox: every kind of customer, every outcome."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from events.facts.base import Line
from events.outbound.dispatcher import CallFailed, Gateway
from fulfillment_svc.gateway import FulfillmentGateway
from fulfillment_svc.shipment import (
    Booked,
    BookingRefused,
    BookShipment,
    Calls,
    CancelRefused,
    CancelShipment,
    Dispatched,
    DispatchRefused,
    DispatchShipment,
    Unbooked,
)
from tests.gateways.world import carry_out, in_short
from tests.sandbox.conftest import Client

LINES = (Line(sku="kettle", quantity=2, amount_minor=5000), Line(sku="cup", quantity=1, amount_minor=900))


def book(order_id: UUID, customer: str = "cust_1") -> BookShipment:
    return BookShipment(order_id=order_id, customer=customer, lines=LINES)


async def shipment_status(client: Client, order_id: UUID) -> str | None:
    after: int | None = 0
    while after is not None:
        _, page = await client.get(f"/carrier/shipments?after={after}&limit=1000")
        for shipment in page["shipments"]:
            if shipment["reference"] == str(order_id):
                return str(shipment["status"])
        after = page["next_after"]
    return None


def test_it_is_a_gateway_to_the_runtime(fulfillment: FulfillmentGateway) -> None:
    gateway: Gateway[Calls] = fulfillment
    assert gateway is fulfillment


async def test_book_and_dispatch(fulfillment: FulfillmentGateway, client: Client, order_id: UUID) -> None:
    booked = await fulfillment.perform(book(order_id))
    assert isinstance(booked, Booked)
    assert booked.shipment_id.startswith("shp_")
    assert booked.deliver_on > datetime.now(UTC).date()
    assert await fulfillment.perform(book(order_id)) == booked
    assert await fulfillment.look_up(book(order_id)) == booked
    assert await fulfillment.perform(DispatchShipment(order_id=order_id)) == Dispatched()
    assert await shipment_status(client, order_id) == "dispatched"


async def test_what_was_dispatched_cannot_be_cancelled(
    fulfillment: FulfillmentGateway, order_id: UUID
) -> None:
    await fulfillment.perform(book(order_id))
    await fulfillment.perform(DispatchShipment(order_id=order_id))
    cancel = CancelShipment(order_id=order_id)
    assert await fulfillment.perform(cancel) == CancelRefused("dispatched")
    assert await fulfillment.look_up(cancel) == CancelRefused("dispatched")


async def test_a_cancelled_booking_cannot_be_dispatched(
    fulfillment: FulfillmentGateway, client: Client, order_id: UUID
) -> None:
    await fulfillment.perform(book(order_id))
    assert await fulfillment.perform(CancelShipment(order_id=order_id)) == Unbooked()
    assert await fulfillment.perform(DispatchShipment(order_id=order_id)) == DispatchRefused("cancelled")
    assert await shipment_status(client, order_id) == "cancelled"


async def test_a_cancellation_of_nothing_fences_a_late_booking(
    fulfillment: FulfillmentGateway, order_id: UUID
) -> None:
    assert await fulfillment.perform(CancelShipment(order_id=order_id)) == Unbooked()
    assert await fulfillment.perform(book(order_id)) == BookingRefused("reference_closed")


async def test_nothing_booked_is_nothing_to_dispatch(fulfillment: FulfillmentGateway, order_id: UUID) -> None:
    assert await fulfillment.perform(DispatchShipment(order_id=order_id)) == DispatchRefused("not_booked")


async def test_a_refusal_stands_under_its_key_and_the_next_round_has_another(
    fulfillment: FulfillmentGateway, client: Client, order_id: UUID
) -> None:
    first, second = DispatchShipment(order_id=order_id), DispatchShipment(order_id=order_id, round=2)
    assert await fulfillment.perform(first) == DispatchRefused("not_booked")
    await fulfillment.perform(book(order_id))
    assert await fulfillment.perform(first) == DispatchRefused("not_booked")
    assert await fulfillment.look_up(second) is None
    assert await fulfillment.perform(second) == Dispatched()
    assert await fulfillment.look_up(second) == Dispatched()
    assert await shipment_status(client, order_id) == "dispatched"


async def test_what_somebody_else_dispatched_is_dispatched(
    fulfillment: FulfillmentGateway, client: Client, order_id: UUID
) -> None:
    await fulfillment.perform(book(order_id))
    assert (await client.ask("/carrier/dispatches", str(order_id)))[0] == 201
    assert await fulfillment.perform(DispatchShipment(order_id=order_id)) == Dispatched()


@pytest.mark.parametrize(
    ("customer", "reason"),
    [("cust_refused_1", "address_not_served"), ("cust_unknown_1", "unknown_customer")],
)
async def test_bookings_are_refused(
    fulfillment: FulfillmentGateway, order_id: UUID, customer: str, reason: str
) -> None:
    assert await fulfillment.perform(book(order_id, customer)) == BookingRefused(reason)


@pytest.mark.parametrize(
    ("customer", "failures_before"),
    [
        ("cust_carrier_slow_1", [("carrier_timeout", True)]),
        ("cust_carrier_flaky_1", [("carrier_answered_503", True)] * 2),
        ("cust_carrier_lost_1", [("carrier_answer_lost", True)]),
    ],
)
async def test_a_difficult_carrier_books_and_dispatches_once(
    fulfillment: FulfillmentGateway,
    client: Client,
    order_id: UUID,
    customer: str,
    failures_before: list[tuple[str, bool]],
) -> None:
    outcome, failures = await carry_out(fulfillment, book(order_id, customer))
    assert isinstance(outcome, Booked)
    assert in_short(failures) == failures_before
    outcome, failures = await carry_out(fulfillment, DispatchShipment(order_id=order_id))
    assert (outcome, in_short(failures)) == (Dispatched(), failures_before)
    assert await shipment_status(client, order_id) == "dispatched"


async def test_a_failing_carrier_never_books_and_can_be_fenced(
    fulfillment: FulfillmentGateway, client: Client, order_id: UUID
) -> None:
    outcome, failures = await carry_out(fulfillment, book(order_id, "cust_carrier_fails"))
    assert (outcome, in_short(failures)) == (None, [("carrier_answered_500", True)] * 4)
    assert await shipment_status(client, order_id) is None
    assert await fulfillment.perform(CancelShipment(order_id=order_id)) == Unbooked()


async def test_a_directory_away_has_booked_nothing(
    fulfillment: FulfillmentGateway, client: Client, order_id: UUID
) -> None:
    await client.faults(target="directory", fail_rate=1)
    with pytest.raises(CallFailed) as failed:
        await fulfillment.perform(book(order_id))
    assert in_short([failed.value]) == [("directory_answered_503", False)]
    assert await shipment_status(client, order_id) is None


async def test_failures_do_not_tell_who_the_customer_is(
    fulfillment: FulfillmentGateway, client: Client
) -> None:
    _, known = await client.get("/directory/customers/cust_carrier_fails_9")
    _, failures = await carry_out(fulfillment, book(UUID(int=9), "cust_carrier_fails_9"))
    assert failures
    for failure in failures:
        assert not any(word in repr(failure) for word in (known["name"], known["address"]["street"]))
