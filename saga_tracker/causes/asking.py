"""Asks services why sagas wait for them: periodically of those that wait for long, and when somebody looks.

That a service does not answer is an answer, too. All of it is bounded: how many orders at a time, how often,
how long one waits, and how much is kept.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from pydantic import BaseModel, ValidationError
from yarl import URL

from events.outbound.http_party import bounded_body
from events.storage.database import AWAY, CONTENTION, Database
from events.telemetry.log import Outage
from saga_tracker.availability import Availability
from saga_tracker.causes import repository
from saga_tracker.causes.cause import (
    GONE,
    NEXT,
    SERVICE,
    SILENT,
    Cause,
    ReportedCause,
    ReportedOutside,
    in_words,
)
from saga_tracker.causes.repository import Found
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import SERVICES

MAX_ANSWER_BYTES = 1_048_576
MAX_ATTEMPTS = 10
MAX_TEXT = 300
SWEEP_SECONDS = 60.0
# As many as a service answers at once.
MAX_OUTSIDE = 10
# Whoever has a saga open asks for it again by then.
LOOKED_SECONDS = 10.0
FIRST = (datetime.min.replace(tzinfo=UTC), UUID(int=0))

KeptT = TypeVar("KeptT")


class _Outside(BaseModel):
    orders: dict[UUID, list[ReportedOutside]]


class _Answer(BaseModel):
    orders: dict[UUID, list[ReportedCause]]
    service: list[ReportedCause]


@dataclass(frozen=True, slots=True)
class Wait:
    """For whom an order waits, since when and because of which fact."""

    order_id: UUID
    service: str
    since: datetime
    because_of: str
    because_of_id: UUID


def waits_of(order_id: UUID, shown: Iterable[Mapping[str, Any]], before: datetime) -> list[Wait]:
    """For whom it has waited since before then, without people."""
    found = (
        Wait(
            order_id,
            wait["service"],
            _instant(wait["since"]),
            wait["because_of"],
            UUID(str(wait["because_of_id"])),
        )
        for wait in shown
        if not wait["person"]
    )
    return [wait for wait in found if wait.since < before]


class Asking:
    """The one task that asks, and whoever looks at one saga. `ask` may be used while it runs."""

    def __init__(self, settings: TrackerSettings, database: Database, availability: Availability) -> None:
        self._settings = settings
        self._database = database
        self._availability = availability
        self._urls = {name: settings.service_url(name) for name in SERVICES}
        self._http: ClientSession | None = None
        self._failure = Outage("asking why sagas wait")
        self._silent: dict[str, tuple[float, Cause]] = {}
        self._cache: dict[UUID, tuple[float, list[Found]]] = {}
        self._looked: dict[UUID, tuple[float, list[Wait]]] = {}
        self._outside: dict[UUID, tuple[float, list[str]]] = {}
        self._swept_at = time.monotonic()
        self._place = FIRST

    async def run(self) -> None:
        """Ask for ever; wait for a database that is away."""
        async with self._session() as self._http:
            while True:
                try:
                    await self._round()
                    self._failure.ended()
                except CONTENTION as error:
                    self._failure.began(error)
                except AWAY as error:
                    await self._database.wait_until_back(error)
                await asyncio.sleep(self._settings.cause_watch_seconds)

    async def look(self, order_id: UUID, shown: Sequence[Mapping[str, Any]]) -> list[Found]:
        """Why this saga waits, as of about now: for somebody who looks at it."""
        before = datetime.now(UTC) - timedelta(seconds=self._settings.cause_after_seconds)
        waits = waits_of(order_id, shown, before)
        if not waits or self._http is None:
            return []
        self._keep(self._looked, order_id, waits)
        at, found = self._cache.get(order_id, (0.0, []))
        known = {(one.service, one.because_of_id) for one in found}
        fresh = time.monotonic() - at < self._settings.cause_cache_seconds
        if not fresh or any((wait.service, wait.because_of_id) not in known for wait in waits):
            found = await self._ask(waits, patient=False)
            self._keep(self._cache, order_id, found)
        return found

    def _keep(self, kept: dict[UUID, tuple[float, list[KeptT]]], order_id: UUID, new: list[KeptT]) -> None:
        kept.pop(order_id, None)
        while len(kept) >= self._settings.cause_orders:
            kept.pop(next(iter(kept)))
        kept[order_id] = time.monotonic(), new

    async def outside(self, failed: Mapping[UUID, Sequence[str]]) -> dict[UUID, list[str]]:
        """By order, what the parties outside say now of what these services failed at for good.

        Asked anew for whoever looks, and not more often than so: each look asks the parties themselves.
        """
        now, keep = time.monotonic(), self._settings.outside_cache_seconds
        unknown = [one for one in failed if now - self._outside.get(one, (float("-inf"), []))[0] > keep]
        by_service: dict[str, list[UUID]] = {}
        for order_id in unknown[:MAX_OUTSIDE]:
            for service in failed[order_id]:
                by_service.setdefault(service, []).append(order_id)
        answers = await asyncio.gather(*(self._outside_of(*asked) for asked in by_service.items()))
        for order_id in unknown[:MAX_OUTSIDE]:
            reported = [line for answer in answers for line in answer.get(order_id, [])]
            self._keep(self._outside, order_id, reported)
        return {one: self._outside[one][1] for one in failed if one in self._outside}

    async def _outside_of(self, service: str, order_ids: Sequence[UUID]) -> dict[UUID, list[str]]:
        url = self._urls.get(service)
        if url is None or self._http is None:
            return {}
        query = "&".join(f"order_id={order_id}" for order_id in order_ids)
        timeout = ClientTimeout(total=self._settings.reconciliation_timeout_seconds)
        address = URL(f"{url.rstrip('/')}/outside?{query}", encoded=True)
        try:
            async with self._http.get(address, allow_redirects=False, timeout=timeout) as response:
                content = await bounded_body(response, MAX_ANSWER_BYTES)
                if response.status != 200 or content is None:
                    why = f"{service} does not say: it answers {response.status}"
                    return {one: [why] for one in order_ids}
                reported = _Outside.model_validate_json(content).orders
        except (TimeoutError, ClientError, ConnectionError, ValidationError) as error:
            return {one: [f"{service} does not say: {type(error).__name__}"] for one in order_ids}
        nothing = [f"nothing is known outside of what {service} asked for"]
        return {one: [str(each)[:MAX_TEXT] for each in some] or nothing for one, some in reported.items()}

    async def _round(self) -> None:
        before = datetime.now(UTC) - timedelta(seconds=self._settings.cause_after_seconds)
        sagas = await self._database.read(
            lambda connection: repository.waiting(connection, self._settings.cause_orders)
        )
        sagas |= await self._some_of_all()
        waits = [wait for order_id, shown in sagas.items() for wait in waits_of(order_id, shown, before)]
        looked = self._looked_at_now()
        found = await self._ask(list(dict.fromkeys([*waits, *looked])), patient=True)
        for order_id in {wait.order_id for wait in looked}:
            self._keep(self._cache, order_id, [one for one in found if one.order_id == order_id])
        if found:
            async with self._database.transaction() as connection:
                await repository.keep(connection, found)
        if time.monotonic() - self._swept_at > SWEEP_SECONDS:
            self._swept_at = time.monotonic()
            async with self._database.transaction() as connection:
                await repository.sweep(
                    connection, self._settings.cause_keep_seconds, self._settings.cause_rows
                )

    def _looked_at_now(self) -> list[Wait]:
        """Of the sagas that somebody has open: each page of them finds the cause known, and asks nobody."""
        since = time.monotonic() - LOOKED_SECONDS
        return [wait for at, waits in self._looked.values() if at > since for wait in waits]

    async def _some_of_all(self) -> dict[UUID, list[dict[str, Any]]]:
        """The next ones of all sagas that have stood for long: after so many rounds each was asked about."""
        late, after, limit = self._settings.board_late_seconds, self._place, self._settings.cause_orders
        sagas, place = await self._database.read(
            lambda connection: repository.waiting_next(connection, late, after, limit)
        )
        self._place = place or FIRST
        return sagas

    async def _ask(self, waits: Sequence[Wait], *, patient: bool) -> list[Found]:
        """What the services say of these; where they say nothing, whoever published the fact before it.

        Whoever is not `patient` takes the silence of a service that was just now silent for its answer.
        """
        by_service: dict[str, list[Wait]] = {}
        for wait in waits:
            by_service.setdefault(wait.service, []).append(wait)
        answers = await asyncio.gather(
            *(self._of_service(name, some, patient=patient) for name, some in by_service.items())
        )
        found = [one for answer in answers for one in answer]
        unknown = {
            (one.order_id, one.service) for one in found if one.cause and one.cause.kind in (NEXT, SERVICE)
        }
        if unknown:
            refused = await self._refused(
                [wait for wait in waits if (wait.order_id, wait.service) in unknown], patient=patient
            )
            found = [
                Found(one.order_id, one.service, one.because_of_id, refused.get(one.because_of_id, one.cause))
                for one in found
            ]
        return found

    async def _refused(self, waits: Sequence[Wait], *, patient: bool) -> dict[UUID, Cause]:
        """Of facts that have not reached whom they are for: why their publishers could not send them."""
        by_owner: dict[str, list[Wait]] = {}
        for wait in waits:
            owner = wait.because_of.partition(".")[0]
            if owner in self._urls and owner != wait.service:
                by_owner.setdefault(owner, []).append(wait)
        causes: dict[UUID, Cause] = {}
        for owner, some in by_owner.items():
            answer = await self._get(owner, [wait.order_id for wait in some], patient=patient)
            if isinstance(answer, _Answer):
                now = datetime.now(UTC)
                for wait in some:
                    reported = [one for one in answer.orders.get(wait.order_id, []) if one.kind == "publish"]
                    if reported:
                        causes[wait.because_of_id] = _cause_of(reported[0], now)
        return causes

    async def _of_service(self, service: str, waits: Sequence[Wait], *, patient: bool) -> list[Found]:
        answer = await self._get(service, [wait.order_id for wait in waits], patient=patient)
        now = datetime.now(UTC)
        if answer is None:
            return []
        return [
            Found(wait.order_id, service, wait.because_of_id, self._cause(wait, answer, now))
            for wait in waits
        ]

    def _cause(self, wait: Wait, answer: "_Answer | Cause", now: datetime) -> Cause:
        if isinstance(answer, Cause):
            return answer
        reported = answer.orders.get(wait.order_id) or answer.service
        if reported:
            return _cause_of(reported[0], now)
        outage = self._availability.outage_of(wait.service)
        if outage is not None and outage.deaf:
            return _of_service(wait.service, outage.why[:MAX_TEXT], SILENT, outage.since, now)
        return Cause(
            kind=NEXT, what=wait.because_of, error="it has not come to it", since=wait.since, known_at=now
        )

    async def _get(
        self, service: str, order_ids: Sequence[UUID], *, patient: bool
    ) -> "_Answer | Cause | None":
        """What a service says; why it says nothing; None where it is nobody's to ask."""
        url = self._urls[service]
        if url is None or self._http is None:
            return None
        silent_at, silence = self._silent.get(service, (0.0, None))
        if silence is not None and not patient and time.monotonic() - silent_at < self._retry_seconds:
            return silence
        answer = _Answer(orders={}, service=[])
        try:
            asked, most = list(dict.fromkeys(order_ids)), self._settings.cause_orders
            for begin in range(0, len(asked), most):
                query = "&".join(f"order_id={order_id}" for order_id in asked[begin : begin + most])
                reported = await self._request(f"{url.rstrip('/')}/causes?{query}")
                answer = _Answer(orders=answer.orders | reported.orders, service=reported.service)
        except (TimeoutError, ClientError, ConnectionError, ValidationError, ValueError) as error:
            return self._note_silence(service, silence, error)
        self._silent.pop(service, None)
        return answer

    @property
    def _retry_seconds(self) -> float:
        """The periodic task asks it again by then."""
        return 2 * (self._settings.cause_watch_seconds + self._settings.cause_timeout_seconds)

    def _note_silence(self, service: str, before: Cause | None, error: Exception) -> Cause | None:
        if isinstance(error, ValueError):
            # It is there, and of another release, or closed to us: nothing is known.
            return None
        now = datetime.now(UTC)
        code = GONE if isinstance(error, ClientConnectorError) else SILENT
        cause = _of_service(service, None, code, before.since if before else now, now)
        self._silent[service] = time.monotonic(), cause
        return cause

    async def _request(self, url: str) -> _Answer:
        assert self._http is not None, "not running"
        async with self._http.get(URL(url, encoded=True), allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"it answers {response.status}")
            content = await bounded_body(response, MAX_ANSWER_BYTES)
            if content is None:
                raise ValueError("its answer is too large")
            return _Answer.model_validate_json(content)

    def _session(self) -> ClientSession:
        return ClientSession(
            connector=TCPConnector(limit_per_host=2),
            timeout=ClientTimeout(total=self._settings.cause_timeout_seconds),
            cookie_jar=DummyCookieJar(),
            headers=self._settings.credentials,
        )


def _of_service(service: str, why: str | None, code: str, since: datetime, now: datetime) -> Cause:
    """That it is away."""
    return Cause(
        kind=SERVICE,
        what=service,
        party=service,
        code=code,
        error=why or in_words(code, service),
        since=since,
        known_at=now,
    )


def _cause_of(reported: ReportedCause, now: datetime) -> Cause:
    words = in_words(reported.error, reported.party)
    fields = reported.model_dump(exclude={"error"}) | {"failed_at": reported.failed_at[-MAX_ATTEMPTS:]}
    error = words[:MAX_TEXT] if words else None
    return Cause(
        **fields, code=reported.error[:MAX_TEXT] if reported.error else None, error=error, known_at=now
    )


def _instant(given: Any) -> datetime:
    return given if isinstance(given, datetime) else datetime.fromisoformat(given)
