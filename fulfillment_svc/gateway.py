"""Fulfilment's way to the carrier; where a customer lives, the directory knows.

`Carrier` is what fulfilment needs of one; write an adapter for yours in the place of `HttpCarrier`, which
speaks to the sandbox. `FulfillmentGateway` turns calls of decide.py into its outcomes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol, assert_never
from uuid import UUID

from pydantic import BaseModel, SecretStr

from events.facts.base import Line
from events.outbound.directory import CustomerDirectory, DirectorySettings, HttpCustomerDirectory
from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import Accepted, HttpAdapter, HttpParty, HttpUrl, OutsideParty, Refused, Reply
from fulfillment_svc.decide import (
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

UNKNOWN_CUSTOMER = "unknown_customer"
ALREADY_DISPATCHED = "already_dispatched"

Results = Booked | BookingRefused | Unbooked | CancelRefused | Dispatched | DispatchRefused


class FulfillmentSettings(DirectorySettings):
    """What the gateway reads besides."""

    carrier_url: HttpUrl
    carrier_token: SecretStr | None = None


class Address(BaseModel):
    """Where a customer lives."""

    street: str
    city: str
    postcode: str
    country: str


class Recipient(BaseModel):
    """Whom the carrier brings the goods to: personal data, to be passed on and not kept or logged."""

    name: str
    address: Address


@dataclass(frozen=True, slots=True)
class Booking:
    """What the carrier booked."""

    shipment_id: str
    deliver_on: date


class Carrier(OutsideParty, Protocol):
    """A carrier, one shipment an order. Every method raises CallFailed when another attempt may help.

    `key` is the idempotency key: a repeated request under it is answered as the first and does nothing.
    """

    async def book(
        self, order_id: UUID, recipient: Recipient, lines: Sequence[Line], *, key: str
    ) -> Booking | Refused:
        """Book; refused where the carrier does not go."""

    async def cancel(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """Let go of a booking, also of none, and refuse one that comes late; refused once dispatched."""

    async def dispatch(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """Hand over what was booked; `already_dispatched` when it is gone."""

    async def answer_to(self, key: str) -> Booking | Accepted | Refused | None:
        """What was answered to an earlier request under this key; None when none was carried out."""


class FulfillmentGateway:
    """Asks the carrier what decide.py wants to know."""

    def __init__(self, carrier: Carrier, directory: CustomerDirectory[Recipient]) -> None:
        self._carrier = carrier
        self._directory = directory

    async def open(self) -> None:
        """Get ready."""
        await self._carrier.open()
        await self._directory.open()

    async def close(self) -> None:
        """Let go of connections."""
        await self._carrier.close()
        await self._directory.close()

    async def perform(self, call: Calls) -> Results:
        """Do it. Raises CallFailed when another attempt may help."""
        return outcome_of(call, await self._ask(call))

    async def look_up(self, call: Calls) -> Results | None:
        """What an earlier attempt came to. Raises CallFailed when the carrier does not say."""
        answer = await self._carrier.answer_to(call.idempotency_key)
        return None if answer is None else outcome_of(call, answer)

    async def _ask(self, call: Calls) -> Booking | Accepted | Refused:
        key = call.idempotency_key
        match call:
            case BookShipment():
                recipient = await self._directory.entry(call.customer)
                if recipient is None:
                    return Refused(UNKNOWN_CUSTOMER)
                return await self._carrier.book(call.order_id, recipient, call.lines, key=key)
            case CancelShipment():
                return await self._carrier.cancel(call.order_id, key=key)
            case DispatchShipment():
                return await self._carrier.dispatch(call.order_id, key=key)
            case _:
                assert_never(call)


def outcome_of(call: Calls, answer: Booking | Accepted | Refused) -> Results:
    """What the carrier's answer means to decide.py. Raises CallFailed for a booking without its number."""
    refused = answer.reason if isinstance(answer, Refused) else None
    match call:
        case BookShipment():
            if refused is not None:
                return BookingRefused(refused)
            if not isinstance(answer, Booking):
                raise CallFailed("carrier_named_no_shipment", maybe_done=True)
            return Booked(answer.shipment_id, answer.deliver_on)
        case CancelShipment():
            return Unbooked() if refused is None else CancelRefused(refused)
        case DispatchShipment():
            return Dispatched() if refused in (None, ALREADY_DISPATCHED) else DispatchRefused(refused)
        case _:
            assert_never(call)


class HttpCarrier(HttpAdapter):
    """The sandbox's carrier."""

    async def book(
        self, order_id: UUID, recipient: Recipient, lines: Sequence[Line], *, key: str
    ) -> Booking | Refused:
        """201 or 422."""
        body = {
            "reference": str(order_id),
            "recipient": recipient.name,
            "address": recipient.address.model_dump(),
            "lines": [{"sku": line.sku, "quantity": line.quantity} for line in lines],
        }
        reply = await self._party.post("/shipments", body, idempotency_key=key)
        answer = _read(reply)
        if isinstance(answer, Accepted):
            raise reply.unexpected()
        return answer

    async def cancel(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """201 or 409."""
        return await self._post("/cancellations", order_id, key)

    async def dispatch(self, order_id: UUID, *, key: str) -> Accepted | Refused:
        """201 or 409."""
        return await self._post("/dispatches", order_id, key)

    async def answer_to(self, key: str) -> Booking | Accepted | Refused | None:
        """200 with the recorded answer, or 404."""
        reply = await self._party.earlier_answer(key)
        return None if reply is None else _read(reply)

    async def _post(self, path: str, order_id: UUID, key: str) -> Accepted | Refused:
        answer = _read(await self._party.post(path, {"reference": str(order_id)}, idempotency_key=key))
        return Accepted() if isinstance(answer, Booking) else answer


class _Answer(BaseModel):
    status: str
    reason: str = "unknown"
    shipment_id: str | None = None
    deliver_on: date | None = None


def _read(reply: Reply) -> Booking | Accepted | Refused:
    answer = reply.read_as(_Answer)
    if reply.http_status == 201:
        if answer.shipment_id is None or answer.deliver_on is None:
            return Accepted()
        return Booking(answer.shipment_id, answer.deliver_on)
    if reply.http_status in (409, 422) and answer.status == "refused":
        return Refused(answer.reason)
    raise reply.unexpected()


def gateway_from(settings: FulfillmentSettings) -> FulfillmentGateway:
    """The gateway to the carrier and the directory that the settings name."""
    carrier = HttpParty("carrier", settings.carrier_url, settings, bearer_token=settings.carrier_token)
    return FulfillmentGateway(HttpCarrier(carrier), HttpCustomerDirectory(settings, Recipient))
