"""What fulfillment_svc counts on, of every adapter to a carrier: its promises, and each fault."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from events.decision import Outcome
from events.outbound.dispatcher import CallFailed
from fulfillment_svc.shipment import (
    PREPARES,
    Booked,
    BookingRefused,
    Calls,
    CancelRefused,
    CancelShipment,
    Dispatched,
    DispatchRefused,
    DispatchShipment,
    Prepared,
    RefundPending,
)
from tests.gateways.conformance.carriers import Shipping
from tests.gateways.conformance.conftest import NewShipping, carrier_gateway
from tests.gateways.conformance.faulty import Fault, Faulty
from tests.gateways.http_server import Server, listening
from tests.gateways.world import make_certificate
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess, new_sandbox


async def status(client: Client, shipping: Shipping) -> str | None:
    """Of the one shipment that the ledger has of an order."""
    after: int | None = 0
    while after is not None:
        _, page = await client.get(f"/carrier/shipments?after={after}&limit=1000")
        for shipment in page["shipments"]:
            if shipment["reference"] == str(shipping.order_id):
                return str(shipment["status"])
        after = page["next_after"]
    return None


async def labels(client: Client, shipping: Shipping) -> int:
    """How many were sold for an order, by EasyPost's own books: the ledger has one shipment at most."""
    before, found = "", 0
    while True:
        headers = {"Authorization": "Bearer EZTK_books"}
        path = f"/v2/shipments?page_size=100{before}"
        async with client.session.get(path, headers=headers) as answer:
            page: dict[str, Any] = await answer.json()
        found += [one["reference"] for one in page["shipments"]].count(str(shipping.order_id))
        if not page["has_more"]:
            return found
        before = f"&before_id={page['shipments'][-1]['id']}"


async def test_it_books_and_dispatches(ship: NewShipping, client: Client) -> None:
    shipping = ship()
    booked = await shipping.book()
    assert isinstance(booked, Booked)
    assert booked.shipment_id.startswith("shp_")
    assert await status(client, shipping) == "booked"
    assert await shipping.gateway.look_up(shipping.booking) == booked
    assert await shipping.gateway.perform(shipping.call(DispatchShipment)) == Dispatched()
    assert await status(client, shipping) == "dispatched"


@pytest.mark.parametrize("operation", ["book", "cancel", "dispatch"])
async def test_however_often_it_is_asked_it_counts_once(
    ship: NewShipping, client: Client, operation: str
) -> None:
    shipping = ship()
    call, expected = await begun(shipping, operation)
    outcomes = await asyncio.gather(*(shipping.carry_out(call) for _ in range(8)))
    assert {type(outcome) for outcome, _ in outcomes} != {type(None)}
    assert await status(client, shipping) == expected
    if shipping.carrier in PREPARES:
        assert await labels(client, shipping) == 1


async def test_a_booking_asked_for_again_is_the_same(ship: NewShipping) -> None:
    shipping = ship()
    first = await shipping.book()
    assert await shipping.gateway.perform(shipping.booking) == first
    assert await shipping.gateway.look_up(shipping.booking) == first


@pytest.mark.parametrize("customer", ["cust_refused_1", "cust_unknown_1"])
async def test_what_nobody_can_bring_there_is_a_reason(
    ship: NewShipping, client: Client, customer: str
) -> None:
    shipping = ship(customer)
    refused = await shipping.book()
    assert isinstance(refused, BookingRefused)
    assert refused.reason in ("address_not_served", "no_rates", "unknown_customer")
    assert await status(client, shipping) is None


async def test_a_cancelled_booking_cannot_be_dispatched(ship: NewShipping, client: Client) -> None:
    shipping = await ship().booked()
    outcome = await shipping.gateway.perform(shipping.call(CancelShipment))
    assert await status(client, shipping) == "cancelled"
    refused = await shipping.gateway.perform(shipping.call(DispatchShipment))
    assert refused == DispatchRefused("cancelled")
    assert await shipping.is_let_go(outcome)
    assert await status(client, shipping) == "cancelled"


async def test_a_cancellation_again_and_in_another_round_cancels_once(ship: NewShipping) -> None:
    shipping = await ship().booked()
    for number in (1, 1, 2):
        outcome = await shipping.gateway.perform(shipping.call(CancelShipment, number))
        assert await shipping.is_let_go(outcome)


async def test_what_was_dispatched_cannot_be_cancelled(ship: NewShipping, client: Client) -> None:
    shipping = await ship().booked()
    await shipping.gateway.perform(shipping.call(DispatchShipment))
    cancel = shipping.call(CancelShipment)
    assert await shipping.gateway.perform(cancel) == CancelRefused("dispatched")
    assert await shipping.gateway.look_up(cancel) == CancelRefused("dispatched")
    assert await status(client, shipping) == "dispatched"


async def test_what_was_dispatched_before_is_dispatched(ship: NewShipping) -> None:
    shipping = await ship().booked()
    for number in (1, 1, 2):
        assert await shipping.gateway.perform(shipping.call(DispatchShipment, number)) == Dispatched()


async def test_nothing_booked_is_nothing_to_dispatch(ship: NewShipping) -> None:
    shipping = ship()
    await shipping.prepare()
    refused = await shipping.gateway.perform(shipping.call(DispatchShipment))
    assert refused == DispatchRefused("not_booked")


async def test_a_cancellation_of_nothing_ends_well(ship: NewShipping, client: Client) -> None:
    """Whoever lost the answer to a booking can make sure that nothing is brought, or paid for."""
    shipping = ship()
    await shipping.prepare()
    outcome = await shipping.gateway.perform(shipping.call(CancelShipment))
    assert await shipping.is_let_go(outcome)
    assert await status(client, shipping) in (None, "closed")


OPERATIONS = ["prepare", "book", "cancel", "dispatch"]


async def begun(shipping: Shipping, operation: str) -> tuple[Calls, str | None]:
    """Each operation: what it is asked of, and how the ledger has the shipment then."""
    match operation:
        case "prepare":
            return shipping.preparation, None
        case "book":
            await shipping.prepare()
            return shipping.booking, "booked"
        case "cancel":
            await shipping.booked()
            return shipping.call(CancelShipment), "cancelled"
        case _:
            await shipping.booked()
            return shipping.call(DispatchShipment), "dispatched"


def is_done(operation: str, outcome: Outcome | None) -> bool:
    match operation:
        case "prepare":
            return isinstance(outcome, Prepared)
        case "book":
            return isinstance(outcome, Booked)
        case "cancel":
            return not isinstance(outcome, CancelRefused | None)
        case _:
            return outcome == Dispatched()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("fault", Fault)
async def test_whatever_goes_wrong_it_is_done_once_and_known(
    ship: NewShipping, between: Faulty, client: Client, fault: Fault, operation: str
) -> None:
    shipping = ship()
    if shipping.carrier not in PREPARES and (operation == "prepare" or fault is Fault.IN_USE):
        # Nothing is prepared there, and what is under way under a key is waited for.
        return
    call, expected = await begun(shipping, operation)
    between.meets(fault)
    outcome, failures = await shipping.carry_out(call)
    assert is_done(operation, outcome), (outcome, failures)
    assert failures[0].maybe_done == (fault is not Fault.LIMITED)
    assert failures[0].wait_seconds == (3 if fault is Fault.LIMITED else 0)
    assert await status(client, shipping) == expected
    if operation == "cancel":
        assert await shipping.is_let_go(outcome)
    if operation == "book" and shipping.carrier in PREPARES:
        assert await labels(client, shipping) == 1


@pytest.mark.parametrize("operation", ["book", "cancel", "dispatch"])
async def test_an_error_whatever_is_asked_is_never_taken_for_the_work(
    ship: NewShipping, between: Faulty, client: Client, operation: str
) -> None:
    """However often it is asked: nobody says that it was done, and nobody that it was refused."""
    shipping = ship()
    call, _ = await begun(shipping, operation)
    before = await status(client, shipping)
    between.saves_before = True
    outcome, failures = await shipping.carry_out(call)
    between.saves_before = False
    assert outcome is None
    assert {failure.maybe_done for failure in failures} == {True}
    assert await status(client, shipping) == before


async def test_a_booking_whose_outcome_nobody_learned_can_be_cancelled(
    ship: NewShipping, between: Faulty, client: Client
) -> None:
    shipping = ship()
    await shipping.prepare()
    between.meets(Fault.LOST_AFTER)
    with pytest.raises(CallFailed):
        await shipping.gateway.perform(shipping.booking)
    outcome = await shipping.gateway.perform(shipping.call(CancelShipment))
    assert await shipping.is_let_go(outcome)
    assert await status(client, shipping) == "cancelled"


async def test_a_look_up_that_is_not_answered_leaves_it_unknown(ship: NewShipping, client: Client) -> None:
    shipping = await ship().booked()
    await client.faults(target="carrier", fail_rate=1)
    with pytest.raises(CallFailed):
        await shipping.gateway.look_up(shipping.booking)


async def test_a_directory_away_has_booked_nothing(ship: NewShipping, client: Client) -> None:
    shipping = ship()
    await client.faults(target="directory", fail_rate=1)
    with pytest.raises(CallFailed) as failed:
        await (
            shipping.gateway.perform(shipping.preparation)
            if shipping.carrier in PREPARES
            else shipping.gateway.perform(shipping.booking)
        )
    assert (failed.value.reason, failed.value.maybe_done) == ("directory_answered_503", False)
    assert await status(client, shipping) is None


async def test_a_party_that_is_away_did_nothing(
    sandbox: SandboxProcess, carrier: str, tmp_path: Path
) -> None:
    gateway = carrier_gateway(sandbox, new_sandbox(tmp_path).url)
    try:
        shipping = Shipping(gateway, carrier, carrier_shipment="shp_1")
        with pytest.raises(CallFailed) as failure:
            await gateway.perform(shipping.call(CancelShipment))
        assert not failure.value.maybe_done
    finally:
        await gateway.close()


async def test_a_certificate_that_nobody_vouches_for_is_no_party(
    sandbox: SandboxProcess, carrier: str, tmp_path: Path
) -> None:
    _, tls = await make_certificate(tmp_path)
    server = Server()
    server.port = new_sandbox(tmp_path).http_port
    async with listening(server, tls):
        gateway = carrier_gateway(sandbox, f"https://localhost:{server.port}")
        try:
            shipping = Shipping(gateway, carrier, carrier_shipment="shp_1")
            with pytest.raises(CallFailed) as failure:
                await gateway.perform(shipping.call(CancelShipment))
            assert not failure.value.maybe_done
        finally:
            await gateway.close()
    assert server.asked == []


@pytest.mark.parametrize("fault", [None, *Fault])
async def test_nobody_is_named_in_a_failure_or_a_log(
    ship: NewShipping,
    between: Faulty,
    client: Client,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    fault: Fault | None,
) -> None:
    """Whatever the package logs, and at whatever level."""
    caplog.set_level(logging.DEBUG)
    _, known = await client.get("/directory/customers/cust_1")
    private = (known["name"], known["address"]["street"], known["address"]["postcode"])
    shipping = ship()
    if fault is not None:
        between.meets(fault)
    first = shipping.preparation if shipping.carrier in PREPARES else shipping.booking
    outcome, failures = await shipping.carry_out(first)
    printed = capfd.readouterr()
    for text in (repr(outcome), *map(repr, failures), caplog.text, printed.out, printed.err):
        assert [word for word in private if word in text] == []
        assert "EZTK_conformance" not in text


async def test_a_refund_that_is_pending_says_so_and_is_let_go_of(
    ship: NewShipping, carrier: str, client: Client
) -> None:
    shipping = await ship().booked()
    outcome = await shipping.gateway.perform(shipping.call(CancelShipment))
    assert isinstance(outcome, RefundPending) == (carrier in PREPARES)
    assert await status(client, shipping) == "cancelled"
