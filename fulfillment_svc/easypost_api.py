"""EasyPost's objects as far as they are read, how they are asked for, and what its errors mean.

EasyPost's package blocks while it waits for an answer, so it does that in threads of its own, no more of them
than calls may be under way. Each has a client, for the connections of a client belong to one thread.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from math import ceil
from socket import gaierror
from threading import local
from typing import Any, Literal, TypeVar

from easypost import EasyPostClient
from easypost.errors import ApiError, EasyPostError, HttpError, JsonError
from easypost.errors import TimeoutError as EasyPostTimeout
from pydantic import BaseModel, Field, ValidationError

from events.outbound.circuit import CircuitBreaker
from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import CONFLICT, MAX_REASON_CHARACTERS, TOO_MANY_REQUESTS
from events.runtime.settings import ServiceSettings
from events.telemetry.tracing import note_on_current

PARTY = "easypost"
# What the package makes its retries for; what it speaks to is set afterwards.
_NOWHERE = "https://easypost.invalid/v2"
UNPROCESSABLE = 422
_NOTHING_SENT = (ConnectionRefusedError, gaierror, ssl.SSLCertVerificationError)
# An error of these beginnings says something about this shipment. Any other is a mistake of ours, of the
# account's settings or of a carrier's day, and no reason to turn customers away.
REFUSALS = ("ADDRESS.", "PARCEL.", "SHIPMENT.INVALID", "E.ADDRESS.")

ObjectT = TypeVar("ObjectT", bound=BaseModel)
Asking = Callable[[EasyPostClient], Any]


class Rate(BaseModel):
    id: str
    carrier: str
    service: str
    rate: Decimal
    delivery_date: datetime | None = None
    delivery_days: int | None = None
    est_delivery_days: int | None = None


class Delivery(BaseModel):
    success: bool


class Verifications(BaseModel):
    delivery: Delivery | None = None


class Destination(BaseModel):
    verifications: Verifications = Field(default_factory=Verifications)


class Label(BaseModel):
    id: str
    created_at: datetime


class ScanForm(BaseModel):
    id: str
    status: Literal["creating", "created", "failed"]


class ShipmentObject(BaseModel):
    """As much of a Shipment as is read."""

    id: str
    reference: str | None = None
    status: str = "unknown"
    created_at: datetime
    to_address: Destination = Field(default_factory=Destination)
    rates: list[Rate] = Field(default_factory=list)
    selected_rate: Rate | None = None
    postage_label: Label | None = None
    refund_status: Literal["submitted", "refunded", "rejected", "not_applicable"] | None = None
    scan_form: ScanForm | None = None


class Rates(BaseModel):
    rates: list[Rate]


class Page(BaseModel):
    shipments: list[ShipmentObject]
    has_more: bool


class Refusal(CallFailed):
    """EasyPost will not do it. `code` is a word of its, and no message: those quote addresses."""

    def __init__(self, code: str) -> None:
        super().__init__(f"{PARTY}_answered_{code}"[:MAX_REASON_CHARACTERS], maybe_done=False)
        self.code = code


@dataclass
class _Speaker:
    """One thread's client, and what the answer to its last request had in its head."""

    client: EasyPostClient
    status: int | None = None
    retry_after: str = ""

    def note(self, **answer: Any) -> None:
        self.status = answer["http_status"]
        self.retry_after = answer["headers"].get("Retry-After") or ""


@dataclass(frozen=True, slots=True)
class _Answer:
    content: Mapping[str, Any]
    error: Exception | None
    status: int | None
    retry_after: str

    @property
    def alive(self) -> bool:
        """Whether there is somebody, who has not too much to do."""
        return self.status is not None and self.status < 500 and self.status != TOO_MANY_REQUESTS


class Api:
    """EasyPost as it is asked: behind a circuit, in a bounded number of threads, for a bounded time."""

    def __init__(self, settings: ServiceSettings, base_url: str, api_key: str) -> None:
        self._settings = settings
        self._base_url = f"{base_url.rstrip('/')}/v2"
        self._api_key = api_key
        self._breaker = CircuitBreaker(PARTY, settings)
        self._pool = ThreadPoolExecutor(settings.call_concurrency, thread_name_prefix=PARTY)
        self._local = local()

    async def close(self) -> None:
        """Ask nothing more. A thread that still waits for its answer ends with its time."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def ask(self, kind: type[ObjectT], asking: Asking, *, changes: bool = True) -> ObjectT:
        """What it answers. Raises Refusal, or CallFailed where another attempt may help.

        `changes`: where the answer is lost, it may have been done all the same.
        """
        loop = asyncio.get_running_loop()
        with self._breaker.request() as request:
            try:
                async with asyncio.timeout(self._settings.call_timeout_seconds):
                    answer = await loop.run_in_executor(self._pool, self._ask, asking)
            except TimeoutError:
                raise CallFailed(f"{PARTY}_timeout", maybe_done=changes) from None
            request.alive = answer.alive
            if answer.status is not None:
                note_on_current({"http.response.status_code": answer.status})
            if answer.error is not None:
                raise self._what_failed(answer, answer.error, changes) from None
        try:
            return kind.model_validate(answer.content)
        except ValidationError:
            raise CallFailed(f"{PARTY}_answered_nonsense", maybe_done=changes) from None

    def _ask(self, asking: Asking) -> _Answer:
        """In a thread."""
        speaker = self._speaker()
        speaker.status, speaker.retry_after = None, ""
        content: Mapping[str, Any] = {}
        failed: Exception | None = None
        try:
            content = asking(speaker.client).to_dict()
        except Exception as error:  # noqa: BLE001 - whatever the package makes of an answer, it is looked into
            failed = error
        return _Answer(content, failed, speaker.status, speaker.retry_after)

    def _speaker(self) -> _Speaker:
        found: _Speaker | None = getattr(self._local, "speaker", None)
        if found is None:
            client = EasyPostClient(self._api_key, _NOWHERE, ceil(self._settings.call_timeout_seconds))
            # At the address that it is made with, the package asks three times more for what is only read,
            # after pauses as long as a server wishes. When to ask again, the dispatcher knows.
            client.api_base = self._base_url
            found = self._local.speaker = _Speaker(client)
            client.subscribe_to_response_hook(found.note)  # type: ignore[no-untyped-call]
        return found

    def _what_failed(self, answer: _Answer, error: Exception, changes: bool) -> CallFailed:
        status = answer.status
        if status is None:
            return _not_answered(error, changes)
        if not answer.alive:
            wait_seconds = float(answer.retry_after) if answer.retry_after.isdigit() else 0.0
            return CallFailed(
                f"{PARTY}_answered_{status}",
                # A 5xx may come from a proxy that gave up on an API that did not.
                maybe_done=changes and status != TOO_MANY_REQUESTS,
                wait_seconds=min(wait_seconds, self._settings.call_retry_after_cap_seconds),
            )
        code = error.code if isinstance(error, ApiError) else None
        if status == UNPROCESSABLE and isinstance(code, str) and code:
            return Refusal(code)
        if isinstance(error, JsonError) or not isinstance(error, EasyPostError):
            # Whatever it was, it was no answer of this API.
            return CallFailed(f"{PARTY}_answered_nonsense", maybe_done=changes)
        # Of a conflict another request may be about to do it.
        return CallFailed(f"{PARTY}_answered_{status}", maybe_done=changes and status == CONFLICT)


def _not_answered(error: Exception, changes: bool) -> CallFailed:
    if any(isinstance(one, _NOTHING_SENT) for one in _behind(error)):
        return CallFailed(f"{PARTY}_unreachable", maybe_done=False)
    if isinstance(error, EasyPostTimeout):
        return CallFailed(f"{PARTY}_timeout", maybe_done=changes)
    if isinstance(error, HttpError):
        return CallFailed(f"{PARTY}_answer_lost", maybe_done=changes)
    return CallFailed(f"{PARTY}_raised_{type(error).__name__}", maybe_done=changes)


def _behind(error: BaseException) -> Iterator[BaseException]:
    """All that led to an error, as the package says no more than that it had one."""
    waiting = [error]
    while waiting:
        one = waiting.pop()
        yield one
        waiting += [led for led in (one.__cause__, one.__context__) if led is not None]


def says_no(refusal: Refusal) -> str:
    """The reason of a refusal. Raises CallFailed where it says nothing of this shipment."""
    if refusal.code.startswith(REFUSALS):
        return refusal.code.lower()
    raise refusal


def day_of(shipment: ShipmentObject, otherwise_days: int) -> date:
    """When it arrives, by the rate that was bought; the same whenever it is asked."""
    rate = shipment.selected_rate
    if rate is not None and rate.delivery_date is not None:
        return rate.delivery_date.date()
    known = (rate.delivery_days, rate.est_delivery_days) if rate is not None else ()
    days = next((found for found in known if found is not None), otherwise_days)
    bought_at = shipment.postage_label.created_at if shipment.postage_label else shipment.created_at
    return date.fromordinal(bought_at.date().toordinal() + days)
