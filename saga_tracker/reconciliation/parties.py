"""Asks the services what they know of many orders, and the provider for the next page of its ledger."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Annotated, Self, TypeVar
from uuid import UUID

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import to_json
from yarl import URL

from events.outbound.http_party import bounded_body
from events.runtime.settings import ENV_PREFIX
from events.telemetry.log import Outage
from events.telemetry.redaction import in_words
from saga_tracker.consistency.snapshot import PARTIES, PROVIDER, Party, ServiceState
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import SERVICES

MAX_ANSWER_BYTES = 1_048_576
MAX_TEXT = 100
_NO_HEADERS: Mapping[str, str] = {}

ModelT = TypeVar("ModelT", bound=BaseModel)
# What PostgreSQL can keep.
Text = Annotated[str, Field(max_length=MAX_TEXT, pattern=r"^[^\x00]*$")]
BigInt = Annotated[int, Field(ge=0, lt=2**63)]


class NoAnswer(Exception):
    """A party does not answer, or nothing that makes sense: there is nothing to compare with for now."""


class _States(BaseModel):
    states: dict[UUID, ServiceState]


class _Orders(BaseModel):
    order_ids: list[UUID]


class _ForgottenStates(BaseModel):
    forgotten: frozenset[UUID]


class Entry(BaseModel):
    """A movement of money, as the provider's ledger has it."""

    id: BigInt
    reference: Text
    kind: Text
    amount_minor: BigInt
    currency: Text
    at: Text


class LedgerPage(BaseModel):
    """Entries in their order; `next_after` is None where the ledger ends."""

    entries: list[Entry]
    next_after: int | None


@dataclass(frozen=True, slots=True)
class PartyStatus:
    """Whether a party is compared, and if not, why."""

    party: Party
    configured: bool
    why_not: str | None


class _Line:
    """One party: where it is, and whether it answers."""

    def __init__(self, party: Party, url: str | None) -> None:
        self.party = party
        self.url = url.rstrip("/") if url else None
        self._outage = Outage(f"{party}, for reconciliation")
        self._silent_since: datetime | None = None
        self._why = ""
        self.rests = False

    @property
    def status(self) -> PartyStatus:
        why_not = None
        if self.url is None:
            own = f"{ENV_PREFIX}SERVICE_URLS has no {self.party!r}, and {ENV_PREFIX}SERVICES_URL"
            variable = f"{ENV_PREFIX}PROVIDER_LEDGER_URL" if self.party == PROVIDER else own
            why_not = f"{variable} is not set"
        elif self._silent_since is not None:
            since = self._silent_since.isoformat(timespec="seconds")
            why_not = f"it does not answer since {since}: {self._why}"
        return PartyStatus(self.party, self.url is not None, why_not)

    def answered(self) -> None:
        self._outage.ended()
        self._silent_since = None

    def was_silent(self, why: NoAnswer) -> None:
        self._outage.began(why)
        self._silent_since = self._silent_since or datetime.now(UTC)
        self._why = str(why)
        self.rests = True


class Parties:
    """Everybody there is to ask, within bounds of time and size. To be entered before use."""

    def __init__(self, settings: TrackerSettings) -> None:
        urls: dict[Party, str | None] = {service: settings.service_url(service) for service in SERVICES}
        urls[PROVIDER] = settings.provider_ledger_url
        self._lines = {party: _Line(party, urls[party]) for party in PARTIES}
        self._timeout = ClientTimeout(total=settings.reconciliation_timeout_seconds)
        self._credentials = settings.credentials
        self._http: ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = ClientSession(
            connector=TCPConnector(limit_per_host=1), timeout=self._timeout, cookie_jar=DummyCookieJar()
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    @property
    def statuses(self) -> list[PartyStatus]:
        """How everybody is doing."""
        return [line.status for line in self._lines.values()]

    @property
    def asked(self) -> frozenset[Party]:
        """Whoever has a URL."""
        return frozenset(line.party for line in self._lines.values() if line.url is not None)

    def wake(self) -> None:
        """Ask everybody again, also those who did not answer: until now, each of them was waited for once."""
        for line in self._lines.values():
            line.rests = False

    async def orders_of(self, service: str, after: UUID | None, limit: int) -> list[UUID]:
        """The orders that a service keeps, by their ids: those after this one.

        Raises NoAnswer, which says nothing of the service: it may be of a release that cannot tell.
        """
        place = f"after={after}&" if after else ""
        url = f"{self._lines[service].url}/states/orders?{place}limit={limit}"
        return (await self._request(url, _Orders, None, self._credentials)).order_ids

    async def states_of(self, order_ids: Sequence[UUID]) -> dict[str, dict[UUID, ServiceState]]:
        """What each service that answers knows of these orders, all asked at once."""
        asked: list[str] = [
            service for service in SERVICES if service in self.asked and not self._lines[service].rests
        ]
        answers = await asyncio.gather(*(self._states(service, order_ids) for service in asked))
        return {service: answer for service, answer in zip(asked, answers, strict=True) if answer is not None}

    async def _states(self, service: str, order_ids: Sequence[UUID]) -> dict[UUID, ServiceState] | None:
        query = "&".join(f"order_id={order_id}" for order_id in order_ids)
        try:
            reply = await self._get(service, f"/states?{query}", _States, headers=self._credentials)
        except NoAnswer:
            return None
        return reply.states

    async def forget(self, order_ids: Sequence[UUID]) -> frozenset[UUID]:
        """Have every service delete its state of these orders; answers of which orders all have.

        Raises NoAnswer when one does not answer, or none has a URL.
        """
        services = [service for service in SERVICES if service in self.asked]
        if not services:
            raise NoAnswer("no service has a URL")
        body = to_json({"order_ids": order_ids})
        headers = {"Content-Type": "application/json", **self._credentials}
        answers = await asyncio.gather(
            *(self._get(service, "/states/forget", _ForgottenStates, body, headers) for service in services)
        )
        return frozenset.intersection(*(answer.forgotten for answer in answers))

    async def ledger_page(self, after: int, limit: int) -> LedgerPage:
        """Entries of the provider's ledger whose ids are above `after`. Raises NoAnswer."""
        return await self._get(PROVIDER, f"?after={after}&limit={limit}", LedgerPage)

    async def _get(
        self,
        party: Party,
        what: str,
        kind: type[ModelT],
        body: bytes | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> ModelT:
        line = self._lines[party]
        try:
            answer = await self._request(f"{line.url}{what}", kind, body, headers)
        except NoAnswer as error:
            line.was_silent(error)
            raise
        line.answered()
        return answer

    async def _request(
        self, url: str, kind: type[ModelT], body: bytes | None, headers: Mapping[str, str]
    ) -> ModelT:
        assert self._http is not None, "not entered"
        method = "GET" if body is None else "POST"
        try:
            async with self._http.request(
                method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response:
                content = await bounded_body(response, MAX_ANSWER_BYTES)
                if content is None:
                    raise NoAnswer(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
                if response.status != 200:
                    raise NoAnswer(f"it answers {response.status}")
                return kind.model_validate_json(content)
        except ValidationError:
            raise NoAnswer("its answer is nothing of the kind that was asked for") from None
        except TimeoutError:
            raise NoAnswer("it does not answer in time") from None
        except (ClientError, ConnectionError) as error:
            raise NoAnswer(in_words(error) or type(error).__name__) from None
