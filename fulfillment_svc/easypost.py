"""Shipments by EasyPost, on its official package.

    prepare     a Shipment with the order's id as its reference, its address verified: nothing is bought yet
    book        buys the cheapest of its rates that are allowed
    cancel      has its label refunded
    follow      sees how that refund ends
    dispatch    a ScanForm of it: whoever collects the parcels scans that, and accepts them

EasyPost knows no idempotency keys. But a Shipment costs nothing until a label is bought for it, and no second
one is ever sold for the same Shipment: so its id is kept in our own row first, and a label is bought for that
id alone. What became of a request is read off that Shipment; one whose id was in an answer that got lost is
searched for by its reference.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

from events.outbound.dispatcher import CallFailed
from fulfillment_svc.easypost_api import (
    Api,
    Page,
    Rate,
    Rates,
    Refusal,
    ScanForm,
    ShipmentObject,
    day_of,
    says_no,
)
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
    FollowRefund,
    Prepared,
    PrepareShipment,
    Recipient,
    RefundEnded,
    RefundPending,
    RefundRejected,
    Results,
    Unbooked,
)

UNKNOWN_CUSTOMER = "unknown_customer"
NOT_DELIVERABLE, NO_RATES = "address_not_deliverable", "no_rates"
REFUND_REJECTED = "refund_rejected"
PAGE, MAX_PAGES = 100, 10
# Whoever sees one of these has the parcel.
ON_THE_ROAD = frozenset(
    {"in_transit", "out_for_delivery", "delivered", "available_for_pickup", "return_to_sender"}
)


@dataclass(frozen=True, slots=True)
class Choices:
    """What EasyPost leaves to us. `sender`: the id of an Address. No `carriers`, no `services`: any will do.

    `delivery_days`: for a rate that says nothing of them. `late_seconds`: for so long a request for a label
    may be under way that nobody waits for. `scan_forms`: off where a label is all that a carrier needs.
    """

    sender: str
    carriers: Sequence[str] = ()
    services: Sequence[str] = ()
    item_ounces: float = 16.0
    delivery_days: int = 5
    late_seconds: float = 600.0
    scan_forms: bool = True


class EasyPostShipments:
    """The gateway to EasyPost. Every method raises CallFailed when another attempt may help."""

    def __init__(
        self, api: Api, choices: Choices, recipient: Callable[[str], Awaitable[Recipient | None]]
    ) -> None:
        self._api = api
        self._choices = choices
        self._recipient = recipient

    async def open(self) -> None:
        """Nothing is needed before the first call."""

    async def close(self) -> None:
        """Let go of the threads."""
        await self._api.close()

    async def perform(self, call: Calls) -> Results:
        """Do it, unless it is done."""
        match call:
            case PrepareShipment():
                return await self._prepare(call)
            case BookShipment():
                return await self._book(call)
            case CancelShipment():
                return await self._cancel(call)
            case DispatchShipment():
                return await self._dispatch(call)
            case FollowRefund():
                return await self._follow(call)
            case _:
                assert_never(call)

    async def look_up(self, call: Calls) -> Results | None:
        """What became of it, by the Shipment itself; None where it does not show."""
        match call:
            case PrepareShipment():
                found = await self._find(str(call.order_id))
                return None if found is None else _prepared(found)
            case BookShipment():
                return self._booked(await self._read(call))
            case CancelShipment():
                return self._cancelled(await self._read(call))
            case DispatchShipment():
                return self._dispatched(await self._read(call))
            case FollowRefund():
                return None
            case _:
                assert_never(call)

    async def _prepare(self, call: PrepareShipment) -> Results:
        recipient = await self._recipient(call.customer)
        if recipient is None:
            return BookingRefused(UNKNOWN_CUSTOMER)
        items = sum(line.quantity for line in call.lines)
        asked: dict[str, Any] = {
            "reference": str(call.order_id),
            "from_address": {"id": self._choices.sender},
            "to_address": {
                "name": recipient.name,
                "street1": recipient.address.street,
                "city": recipient.address.city,
                "zip": recipient.address.postcode,
                "country": recipient.address.country,
                "verify": True,
            },
            "parcel": {"weight": items * self._choices.item_ounces},
        }
        try:
            created = await self._api.ask(ShipmentObject, lambda client: client.shipment.create(**asked))
        except Refusal as refusal:
            return BookingRefused(says_no(refusal))
        return _prepared(created)

    async def _find(self, reference: str) -> ShipmentObject | None:
        """Among the latest: one that is not found is created once more, and costs nothing."""
        before: dict[str, Any] = {}
        for _ in range(MAX_PAGES):
            page = await self._page(before)
            for shipment in page.shipments:
                if shipment.reference == reference:
                    return shipment
            if not page.has_more or not page.shipments:
                return None
            before = {"before_id": page.shipments[-1].id}
        return None

    async def _page(self, before: dict[str, Any]) -> Page:
        # As text: the package would send False, and the API knows false.
        asked = {"page_size": PAGE, "purchased": "false", **before}
        return await self._api.ask(Page, lambda client: client.shipment.all(**asked), changes=False)

    async def _book(self, call: BookShipment) -> Results:
        shipment_id = _id_of(call)
        shipment = await self._read(call)
        known = self._booked(shipment)
        if known is not None:
            return known
        rate = self._cheapest(shipment.rates) or self._cheapest(await self._rates_anew(shipment_id))
        if rate is None:
            return BookingRefused(NO_RATES)
        try:
            bought = await self._api.ask(
                ShipmentObject, lambda client: client.shipment.buy(shipment_id, rate={"id": rate.id})
            )
        except Refusal as refusal:
            known = self._booked(await self._read(call))
            return known or BookingRefused(says_no(refusal))
        known = self._booked(bought)
        if known is None:
            # Answered well, and what is in the answer says otherwise.
            raise CallFailed("easypost_sold_no_label", maybe_done=True)
        return known

    async def _rates_anew(self, shipment_id: str) -> Sequence[Rate]:
        """One that has none may have been asked for while a carrier was away."""
        answer = await self._api.ask(Rates, lambda client: client.shipment.regenerate_rates(shipment_id))
        return answer.rates

    def _cheapest(self, rates: Sequence[Rate]) -> Rate | None:
        carriers = {name.lower() for name in self._choices.carriers}
        services = {name.lower() for name in self._choices.services}
        allowed = [
            rate
            for rate in rates
            if (not carriers or rate.carrier.lower() in carriers)
            and (not services or rate.service.lower() in services)
        ]
        return min(allowed, key=lambda rate: (rate.rate, rate.id), default=None)

    def _booked(self, shipment: ShipmentObject) -> Results | None:
        if shipment.postage_label is None:
            return None
        if shipment.refund_status not in (None, "rejected"):
            return BookingRefused("cancelled")
        return Booked(shipment.id, day_of(shipment, self._choices.delivery_days))

    async def _cancel(self, call: CancelShipment) -> Results:
        if call.carrier_shipment is None:
            # Whose id nobody knows, nobody can have bought a label for.
            return Unbooked()
        shipment = await self._read(call)
        known = self._cancelled(shipment)
        if known is None:
            known = self._cancelled(await self._refund(shipment)) or CancelRefused(REFUND_REJECTED)
        return known

    def _cancelled(self, shipment: ShipmentObject) -> Results | None:
        """None where its label is yet to be handed in, or may be once more."""
        if _is_gone(shipment):
            return CancelRefused("dispatched")
        if shipment.postage_label is None or shipment.refund_status == "submitted":
            # Also where none was bought so far: whoever gave up on that may have a request under way.
            return RefundPending(datetime.now(UTC) + timedelta(seconds=self._choices.late_seconds))
        return Unbooked() if shipment.refund_status in ("refunded", "not_applicable") else None

    async def _refund(self, shipment: ShipmentObject) -> ShipmentObject:
        refunded = await self._api.ask(ShipmentObject, lambda client: client.shipment.refund(shipment.id))
        if refunded.refund_status is None:
            raise CallFailed("easypost_took_no_refund", maybe_done=True)
        return refunded

    async def _follow(self, call: FollowRefund) -> Results:
        shipment = await self._read(call)
        if shipment.postage_label is None:
            if datetime.now(UTC) < call.until:
                raise CallFailed("may_be_bought_late", maybe_done=False)
            return RefundEnded()
        if shipment.refund_status is None and not _is_gone(shipment):
            # It was bought after all, when nobody waited for it any more.
            shipment = await self._refund(shipment)
        if shipment.refund_status == "submitted":
            raise CallFailed("still_pending", maybe_done=False)
        if shipment.refund_status in ("refunded", "not_applicable"):
            return RefundEnded()
        return RefundRejected("dispatched" if _is_gone(shipment) else REFUND_REJECTED)

    async def _dispatch(self, call: DispatchShipment) -> Results:
        shipment_id = _id_of(call)
        shipment = await self._read(call)
        known = self._dispatched(shipment)
        if known is not None:
            return known
        if not self._choices.scan_forms:
            return Dispatched()
        try:
            form = await self._api.ask(
                ScanForm, lambda client: client.scan_form.create(shipments=[{"id": shipment_id}])
            )
        except Refusal as refusal:
            known = self._dispatched(await self._read(call))
            return known or DispatchRefused(refusal.code.lower())
        return _scanned(form)

    def _dispatched(self, shipment: ShipmentObject) -> Results | None:
        if shipment.status in ON_THE_ROAD:
            return Dispatched()
        if shipment.scan_form is not None:
            return _scanned(shipment.scan_form)
        if shipment.postage_label is None:
            return DispatchRefused("not_booked")
        return None if shipment.refund_status in (None, "rejected") else DispatchRefused("cancelled")

    async def _read(self, call: Calls) -> ShipmentObject:
        shipment_id = _id_of(call)
        return await self._api.ask(
            ShipmentObject, lambda client: client.shipment.retrieve(shipment_id), changes=False
        )


def _id_of(call: Calls) -> str:
    assert call.carrier_shipment is not None, "what is prepared has an id"
    return call.carrier_shipment


def _prepared(shipment: ShipmentObject) -> Results:
    """EasyPost answers well to an address that it cannot find."""
    delivery = shipment.to_address.verifications.delivery
    if delivery is not None and not delivery.success:
        return BookingRefused(NOT_DELIVERABLE)
    return Prepared(shipment.id)


def _is_gone(shipment: ShipmentObject) -> bool:
    form = shipment.scan_form
    return shipment.status in ON_THE_ROAD or (form is not None and form.status != "failed")


def _scanned(form: ScanForm) -> Results:
    """It is answered before it is made, and whether it could be is known later."""
    if form.status == "creating":
        raise CallFailed("scan_form_creating", maybe_done=True)
    return Dispatched() if form.status == "created" else DispatchRefused("scan_form_failed")
