"""Looks whether the services are there: who consumes their queues, and what they say of their readiness.

Every tracker looks for itself. What it finds goes into `availability`, by the view's own clock.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from pydantic import BaseModel, ConfigDict, ValidationError

from events.outbound.http_party import bounded_body
from events.storage.database import AWAY, Database
from events.telemetry.log import log
from events.telemetry.redaction import in_words
from saga_tracker.availability import Availability, Outage
from saga_tracker.reading import repository
from saga_tracker.reading.reader import Reader
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import SERVICES

MAX_ANSWER_BYTES = 16_384
MAX_REASON_CHARACTERS = 200


class _Locked(BaseModel):
    session: str


class _Readiness(BaseModel):
    """What `/readyz` says: of each part, whether it works; `locked` where orders wait for somebody's lock."""

    model_config = ConfigDict(extra="allow")

    locked: _Locked | None = None


@dataclass(frozen=True, slots=True)
class _Reported:
    """Why a service is not ready, in its own words; the session whose lock some of its orders wait for."""

    unready: str | None
    lock: str | None = None


class Watcher:
    """The one task that looks."""

    def __init__(
        self, settings: TrackerSettings, database: Database, reader: Reader, availability: Availability
    ) -> None:
        self._settings = settings
        self._database = database
        self._reader = reader
        self._availability = availability
        self._urls = {name: settings.service_url(name) for name in SERVICES}
        self._down: dict[str, Outage] = {}

    async def run(self) -> None:
        """Look for ever; what is found while the database is away counts for nothing."""
        timeout = ClientTimeout(total=self._settings.service_probe_timeout_seconds)
        connector = TCPConnector(limit_per_host=1, force_close=True)
        async with ClientSession(connector=connector, timeout=timeout, cookie_jar=DummyCookieJar()) as http:
            while True:
                try:
                    await self._look(http)
                except AWAY as error:
                    await self._database.wait_until_back(error)
                await asyncio.sleep(self._settings.service_probe_seconds)

    async def _look(self, http: ClientSession) -> None:
        queues = {name: f"{name}.facts" for name in self._urls}
        consumers, responses = await asyncio.gather(
            self._reader.consumers_of(list(queues.values())),
            asyncio.gather(*(_readiness_of(http, url) for url in self._urls.values())),
        )
        rows = await self._database.rows(repository.CLOCK)
        now: datetime = rows[0]["now"]
        if not consumers:
            # The broker does not answer, so nobody can be received: that is no service's fault.
            return
        for name, service in zip(self._urls, responses, strict=True):
            self._availability.looked(name, now, consumers.get(queues[name]), service.unready)
            self._availability.saw_lock(name, now, service.lock)
            if (queue := self._reader.queues.get(queues[name])) is not None:
                self._availability.saw_queue(name, now, queue[1])
        self._report()

    def _report(self) -> None:
        for name in self._urls:
            before, outage = self._down.pop(name, None), self._availability.outage_of(name)
            if outage is not None:
                self._down[name] = outage
            if outage is not None and before is None:
                log.warning("service_down", service=name, since=outage.since.isoformat(), why=outage.why)
            elif outage is None and before is not None:
                log.info("service_back", service=name, down_since=before.since.isoformat())


async def _readiness_of(http: ClientSession, url: str | None) -> _Reported:
    """What a service says of itself; nothing, where it is nobody's to ask."""
    if url is None:
        return _Reported(None)
    try:
        async with http.get(f"{url.rstrip('/')}/readyz", allow_redirects=False) as answer:
            return _read(answer.status, await bounded_body(answer, MAX_ANSWER_BYTES) or b"")
    except TimeoutError:
        return _Reported("it does not answer in time")
    except (ClientError, ConnectionError) as error:
        return _Reported((in_words(error) or type(error).__name__)[:MAX_REASON_CHARACTERS])


def _read(status: int, body: bytes) -> _Reported:
    try:
        readiness = _Readiness.model_validate_json(body)
    except ValidationError:
        readiness = _Readiness()
    lock = readiness.locked.session[:MAX_REASON_CHARACTERS] if readiness.locked else None
    if status == 200:
        return _Reported(None, lock)
    parts = readiness.model_extra or {}
    missing = ", ".join(str(name) for name, well in parts.items() if well is False)
    return _Reported((missing or f"status {status}")[:MAX_REASON_CHARACTERS], lock)
