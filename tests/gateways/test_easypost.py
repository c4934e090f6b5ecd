"""EasyPost's ways that no other carrier has, and shipments that outlive a change of the carrier."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from events.facts import Fact
from events.facts.fulfillment import ShipmentCancelled, ShipmentDispatched, ShipmentScheduled
from events.outbound.dispatcher import CallFailed, Gateway
from fulfillment_svc.decide import decide
from fulfillment_svc.easypost_api import Api, Page, ShipmentObject
from fulfillment_svc.gateway import FulfillmentSettings, gateways_from
from fulfillment_svc.shipment import (
    EASYPOST,
    SANDBOX,
    Booked,
    BookingRefused,
    Calls,
    CancelRefused,
    CancelShipment,
    Dispatched,
    DispatchRefused,
    DispatchShipment,
    FollowRefund,
    RefundEnded,
    RefundPending,
    RefundRejected,
    Shipment,
    Unbooked,
)
from tests.decide.given import ORDER_CONFIRMED, ORDER_WITHDRAWN, PAYMENT_CAPTURED
from tests.gateways.conformance.carriers import Shipping
from tests.gateways.conformance.conftest import carrier_gateway
from tests.gateways.conformance.faulty import Faulty, faulty
from tests.gateways.world import carry_out, settings_for
from tests.runtime.eventually import eventually
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess
from tests.servers import serving


def answering(handler: Handler) -> AbstractAsyncContextManager[str]:
    """Somebody else's API, with one answer to whatever it is asked."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    return serving(app)


async def play(
    gateway: Gateway[Calls], carrier: str, message: Fact, shipment: Shipment | None = None
) -> tuple[Shipment, list[Fact]]:
    """What fulfilment makes of a fact, all its calls carried out, while shipments are begun with this."""
    waiting: list[Any] = [message]
    published: list[Fact] = []
    while waiting:
        decision = decide(shipment, waiting.pop(), carrier=carrier)
        shipment = decision.state
        published += decision.facts
        for call in decision.calls:
            if not isinstance(call, FollowRefund):
                waiting += [outcome for outcome in [(await carry_out(gateway, call))[0]] if outcome]
    assert shipment is not None
    return shipment, published


@pytest.fixture
async def between(sandbox: SandboxProcess) -> AsyncIterator[Faulty]:
    async with faulty(sandbox.url) as proxy:
        yield proxy


@pytest.fixture
async def gateway(sandbox: SandboxProcess, between: Faulty) -> AsyncIterator[Gateway[Calls]]:
    found = carrier_gateway(sandbox, between.url)
    await found.open()
    yield found
    await found.close()


async def test_an_address_that_cannot_be_found_is_refused_before_a_label_is_bought(
    gateway: Gateway[Calls],
) -> None:
    """EasyPost answers 200 to it."""
    assert await Shipping(gateway, EASYPOST, "cust_undeliverable").book() == BookingRefused(
        "address_not_deliverable"
    )


async def test_the_cheapest_rate_is_bought(gateway: Gateway[Calls]) -> None:
    booked = await Shipping(gateway, EASYPOST).book()
    assert isinstance(booked, Booked)
    # The cheap one takes three days, the dear one a day.
    assert booked.deliver_on == datetime.now(UTC).date() + timedelta(days=3)


@pytest.mark.parametrize(
    ("allowed", "days"),
    [
        ({"easypost_services": ("express",)}, 1),
        ({"easypost_carriers": ("SANDBOX",)}, 3),
        ({"easypost_carriers": ("USPS",)}, None),
    ],
)
async def test_only_what_is_allowed_is_bought(
    sandbox: SandboxProcess, allowed: dict[str, tuple[str, ...]], days: int | None
) -> None:
    settings = settings_for(
        FulfillmentSettings,
        sandbox,
        easypost_key="EZTK1",
        easypost_api=sandbox.url,
        easypost_from="adr_1",
        **allowed,
    )
    found = gateways_from(settings)
    try:
        booked = await Shipping(found, EASYPOST).book()
    finally:
        await found.close()
    if days is None:
        assert booked == BookingRefused("no_rates")
    else:
        assert isinstance(booked, Booked)
        assert booked.deliver_on == datetime.now(UTC).date() + timedelta(days=days)


async def test_a_refund_is_rejected_at_once(gateway: Gateway[Calls]) -> None:
    shipping = await Shipping(gateway, EASYPOST, "cust_refund_rejected").booked()
    cancel = shipping.call(CancelShipment)
    assert await gateway.perform(cancel) == CancelRefused("refund_rejected")
    # It may be asked for again, so nothing is certain before that.
    assert await gateway.look_up(cancel) is None


async def test_a_refund_is_rejected_late_and_granted_when_it_is_asked_for_again(
    gateway: Gateway[Calls],
) -> None:
    shipping = await Shipping(gateway, EASYPOST, "cust_refund_late_rejected").booked()
    assert isinstance(await gateway.perform(shipping.call(CancelShipment)), RefundPending)
    assert await shipping.end_of_refund() == RefundRejected("refund_rejected")
    assert isinstance(await gateway.perform(shipping.call(CancelShipment, 2)), RefundPending)
    assert await shipping.end_of_refund() == RefundEnded()


async def test_a_label_that_costs_nothing_until_it_is_scanned_is_just_let_go_of(
    gateway: Gateway[Calls],
) -> None:
    shipping = await Shipping(gateway, EASYPOST, "cust_refund_not_applicable").booked()
    assert await gateway.perform(shipping.call(CancelShipment)) == Unbooked()


async def test_a_label_that_was_bought_late_is_refunded_when_that_is_seen(gateway: Gateway[Calls]) -> None:
    """Nobody waited for it any more, and the order was let go of without it."""
    shipping = Shipping(gateway, EASYPOST)
    await shipping.prepare()
    outcome = await gateway.perform(shipping.call(CancelShipment))
    assert isinstance(outcome, RefundPending)
    with pytest.raises(CallFailed, match="may_be_bought_late"):
        await gateway.perform(shipping.follow(datetime.now(UTC) + timedelta(minutes=1)))
    await gateway.perform(shipping.booking)
    assert await shipping.end_of_refund() == RefundEnded()
    assert await gateway.perform(shipping.booking) == BookingRefused("cancelled")


async def test_a_form_that_is_made_later_is_waited_for(gateway: Gateway[Calls]) -> None:
    shipping = await Shipping(gateway, EASYPOST, "cust_scan_form_late").booked()
    dispatch = shipping.call(DispatchShipment)
    with pytest.raises(CallFailed, match="scan_form_creating") as failure:
        await gateway.perform(dispatch)
    assert failure.value.maybe_done
    assert await eventually(lambda: gateway.look_up(dispatch)) == Dispatched()


async def test_a_form_that_cannot_be_made_is_a_reason(gateway: Gateway[Calls]) -> None:
    shipping = await Shipping(gateway, EASYPOST, "cust_scan_form_failed").booked()
    refused = await gateway.perform(shipping.call(DispatchShipment))
    assert refused == DispatchRefused("scan_form_failed")


async def test_a_shipment_whose_id_was_lost_is_found_among_others(
    gateway: Gateway[Calls], client: Client
) -> None:
    shipping = Shipping(gateway, EASYPOST)
    await shipping.prepare()
    # More than a page of others since.
    others = [Shipping(gateway, EASYPOST) for _ in range(101)]
    for start in range(0, len(others), 10):
        await asyncio.gather(*(other.prepare() for other in others[start : start + 10]))
    found = await gateway.look_up(shipping.preparation)
    assert getattr(found, "carrier_shipment", None) == shipping.carrier_shipment


def of(fact: Fact, order_id: UUID) -> Fact:
    return fact.model_copy(update={"order_id": order_id})


@pytest.mark.parametrize(("begun_with", "then"), [(EASYPOST, SANDBOX), (SANDBOX, EASYPOST)])
@pytest.mark.parametrize(
    ("message", "kind"), [(ORDER_CONFIRMED, ShipmentDispatched), (ORDER_WITHDRAWN, ShipmentCancelled)]
)
async def test_a_shipment_is_finished_with_the_carrier_that_it_was_begun_with(
    gateway: Gateway[Calls], client: Client, begun_with: str, then: str, message: Fact, kind: type[Fact]
) -> None:
    """The setting changes in the middle."""
    order_id = uuid4()
    begun, published = await play(gateway, begun_with, of(PAYMENT_CAPTURED, order_id))
    assert [type(fact) for fact in published] == [ShipmentScheduled]
    ended, published = await play(gateway, then, of(message, order_id), begun)
    assert [type(fact) for fact in published] == [kind]
    assert (ended.carrier, ended.shipment_id) == (begun_with, begun.shipment_id)
    _, page = await client.get("/carrier/shipments?after=0&limit=1000")
    assert [one["status"] for one in page["shipments"] if one["reference"] == str(order_id)] == [ended.status]


async def test_the_package_asks_once_whatever_a_server_wishes(sandbox: SandboxProcess) -> None:
    """By itself it would ask four times for what is only read, and rest as long as it is asked to."""
    asked: list[str] = []

    async def busy(request: web.Request) -> web.Response:
        asked.append(request.method)
        return web.json_response({"error": {"code": "BUSY"}}, status=503, headers={"Retry-After": "3"})

    async with answering(busy) as url:
        api = Api(settings_for(FulfillmentSettings, sandbox), url, "EZTK1")
        with pytest.raises(CallFailed) as failure:
            await api.ask(ShipmentObject, lambda client: client.shipment.retrieve("shp_1"), changes=False)
        await api.close()
    assert (failure.value.reason, failure.value.wait_seconds) == ("easypost_answered_503", 3)
    assert asked == ["GET"]


@pytest.mark.parametrize(
    "body",
    ["", "null", "[]", '"text"', "{}", '{"id": 1}', '{"id": "x_1"}', '{"shipments": [{"id": "no_1"}]}'],
)
async def test_whatever_is_answered_is_an_answer_or_a_failure(sandbox: SandboxProcess, body: str) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/json")

    async with answering(answer) as url:
        api = Api(settings_for(FulfillmentSettings, sandbox), url, "EZTK1")
        with pytest.raises(CallFailed) as failure:
            await api.ask(Page, lambda client: client.shipment.all(page_size=1))
        await api.close()
    assert (failure.value.reason, failure.value.maybe_done) == ("easypost_answered_nonsense", True)
