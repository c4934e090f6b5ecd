"""Fulfilment's way to the carriers; where a customer lives, the directory knows.

`Carrier` is what fulfilment needs of one; write an adapter for yours in the place of `HttpCarrier`, which
speaks to the sandbox. `FulfillmentGateway` turns calls of decide.py into its outcomes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal, Protocol, TypeVar, assert_never
from uuid import UUID

from pydantic import BaseModel, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from events.decision import Outcome
from events.facts.base import Line
from events.outbound.directory import CustomerDirectory, DirectorySettings, HttpCustomerDirectory
from events.outbound.dispatcher import CallFailed, Gateway
from events.outbound.http_party import Accepted, HttpAdapter, HttpParty, HttpUrl, OutsideParty, Refused, Reply
from events.runtime.settings import FromJson
from fulfillment_svc.easypost import UNKNOWN_CUSTOMER, Choices, EasyPostShipments
from fulfillment_svc.easypost_api import Api
from fulfillment_svc.shipment import (
    EASYPOST,
    SANDBOX,
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
    PrepareShipment,
    Recipient,
    Results,
    Unbooked,
)

ALREADY_DISPATCHED = "already_dispatched"
Names = Annotated[tuple[str, ...], NoDecode, FromJson]
GivenT = TypeVar("GivenT")


class FulfillmentSettings(DirectorySettings):
    """What the gateway reads besides: with whom shipments are begun, and how to reach each carrier.

    Shipments that were begun with another one are finished with that, as long as it can be reached.
    """

    carrier: Literal["sandbox", "easypost"] = SANDBOX
    carrier_url: HttpUrl | None = Field(default=None, validate_default=True)
    carrier_token: SecretStr | None = None
    easypost_key: SecretStr | None = Field(default=None, validate_default=True)
    # Where EasyPost's API is; a sandbox has a door like it.
    easypost_api: HttpUrl = "https://api.easypost.com"
    # The id of the Address, saved with EasyPost, that parcels leave from.
    easypost_from: str | None = Field(default=None, pattern="^adr_", validate_default=True)
    # Whose rates are allowed: ["USPS"], ["Priority", "GroundAdvantage"]. Empty: anybody's, and the cheapest.
    easypost_carriers: Names = ()
    easypost_services: Names = ()
    # A line of an order has no weight: so much for each piece.
    easypost_item_ounces: float = Field(default=16.0, gt=0)
    # For a rate that does not say when it arrives.
    easypost_delivery_days: int = Field(default=5, ge=0, le=365)
    # For so long a label may be bought by a request that nobody waits for any more.
    easypost_late_seconds: float = Field(default=600.0, ge=0)
    # Off: for carriers without them, to whom a label is all that is needed.
    easypost_scan_forms: bool = True

    @field_validator("carrier_url")
    @classmethod
    def _where(cls, given: str | None, known: ValidationInfo) -> str | None:
        return _needed(given, SANDBOX, known)

    @field_validator("easypost_key", "easypost_from")
    @classmethod
    def _how(cls, given: GivenT | None, known: ValidationInfo) -> GivenT | None:
        return _needed(given, EASYPOST, known)


def _needed(given: GivenT | None, carrier: str, known: ValidationInfo) -> GivenT | None:
    if given is None and known.data.get("carrier") == carrier:
        raise ValueError(f"needed where shipments are begun with {carrier}")
    return given


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
            case PrepareShipment() | FollowRefund():
                # Nothing has an id here, and no money is ever pending.
                raise CallFailed(f"nothing_to_{call.name}", maybe_done=False)
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
        case PrepareShipment() | FollowRefund() | BookShipment():
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


class Carriers:
    """The gateway to all carriers that can be reached: each call goes to the one that it names."""

    def __init__(
        self, gateways: Mapping[str, Gateway[Calls]], directory: CustomerDirectory[Recipient]
    ) -> None:
        self._gateways = gateways
        self._directory = directory

    async def open(self) -> None:
        """Get ready."""
        await self._directory.open()
        for gateway in self._gateways.values():
            await gateway.open()

    async def close(self) -> None:
        """Let go of connections."""
        for gateway in self._gateways.values():
            await gateway.close()
        await self._directory.close()

    async def perform(self, call: Calls) -> Outcome:
        """Do it. Raises CallFailed when another attempt may help."""
        return await self._of(call).perform(call)

    async def look_up(self, call: Calls) -> Outcome | None:
        """What an earlier attempt came to. Raises CallFailed when the carrier does not say."""
        return await self._of(call).look_up(call)

    def _of(self, call: Calls) -> Gateway[Calls]:
        gateway = self._gateways.get(call.carrier)
        if gateway is None:
            raise CallFailed(f"{call.carrier}_not_configured", maybe_done=False)
        return gateway


def gateways_from(settings: FulfillmentSettings) -> Gateway[Calls]:
    """The way to every carrier that the settings say how to reach."""
    directory = HttpCustomerDirectory(settings, Recipient)
    gateways: dict[str, Gateway[Calls]] = {}
    if settings.carrier_url is not None:
        gateways[SANDBOX] = FulfillmentGateway(_carrier_from(settings, settings.carrier_url), directory)
    if settings.easypost_key is not None and settings.easypost_from is not None:
        gateways[EASYPOST] = _easypost_from(
            settings, settings.easypost_key, settings.easypost_from, directory
        )
    return Carriers(gateways, directory)


def gateway_from(settings: FulfillmentSettings) -> FulfillmentGateway:
    """The gateway to a carrier that speaks the sandbox's protocol."""
    assert settings.carrier_url is not None, "checked by whoever asks"
    directory = HttpCustomerDirectory(settings, Recipient)
    return FulfillmentGateway(_carrier_from(settings, settings.carrier_url), directory)


def _carrier_from(settings: FulfillmentSettings, url: str) -> HttpCarrier:
    return HttpCarrier(HttpParty("carrier", url, settings, bearer_token=settings.carrier_token))


def _easypost_from(
    settings: FulfillmentSettings, key: SecretStr, sender: str, directory: CustomerDirectory[Recipient]
) -> EasyPostShipments:
    choices = Choices(
        sender=sender,
        carriers=settings.easypost_carriers,
        services=settings.easypost_services,
        item_ounces=settings.easypost_item_ounces,
        delivery_days=settings.easypost_delivery_days,
        late_seconds=settings.easypost_late_seconds,
        scan_forms=settings.easypost_scan_forms,
    )
    api = Api(settings, settings.easypost_api, key.get_secret_value())
    return EasyPostShipments(api, choices, directory.entry)
