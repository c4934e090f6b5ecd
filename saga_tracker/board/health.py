"""How the services are: what they say of themselves over HTTP, and what the broker says of their queues.

Asked only while somebody looks, once for all who do. Of a service whose URL is not known there is only what
the broker says.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar
from prometheus_client.parser import text_string_to_metric_families

from events.outbound.http_party import bounded_body
from saga_tracker.availability import Availability, Lock, Outage
from saga_tracker.reading.reader import Reader
from saga_tracker.settings import TrackerSettings
from saga_tracker.steps import SERVICES

MAX_METRICS_BYTES = 2_000_000
_WANTED = re.compile(
    rb"^murmuration_(?:outbox_backlog|outbox_oldest_seconds|call_backlog|call_oldest_seconds|circuit_open"
    rb"|connected|broker_blocked)\b.*$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """One service. None where nobody says; `circuits`: by party, whether it counts as down."""

    consumers: int | None = None
    queued: int | None = None
    queued_since: datetime | None = None
    outage: Outage | None = None
    lock: Lock | None = None
    database: bool | None = None
    broker: bool | None = None
    outbox: float | None = None
    outbox_age_seconds: float | None = None
    calls: float | None = None
    calls_age_seconds: float | None = None
    circuits: Mapping[str, bool] = field(default_factory=dict)
    answers: bool | None = None

    @property
    def well(self) -> bool:
        """Whether nothing is known that is wrong with it."""
        parts = (self.answers, self.database, self.broker)
        return self.outage is None and self.lock is None and False not in parts and self.consumers != 0


async def looked_up(
    settings: TrackerSettings, reader: Reader, availability: Availability
) -> dict[str, ServiceHealth]:
    """All of them, asked at once."""
    timeout = ClientTimeout(total=settings.service_probe_timeout_seconds)
    async with ClientSession(timeout=timeout, cookie_jar=DummyCookieJar()) as http:
        metrics = await asyncio.gather(*(_metrics_of(http, settings.service_url(name)) for name in SERVICES))
    healths: dict[str, ServiceHealth] = {}
    for name, text in zip(SERVICES, metrics, strict=True):
        consumers, queued = reader.queues.get(f"{name}.facts", (None, None))
        lock = availability.lock_of(name)
        healths[name] = ServiceHealth(
            consumers=consumers,
            queued=queued,
            queued_since=availability.queued_since(name) if queued else None,
            outage=availability.outage_of(name),
            lock=lock if lock and lock.session else None,
            **_read(text),
            answers=None if settings.service_url(name) is None else text is not None,
        )
    return healths


async def _metrics_of(http: ClientSession, url: str | None) -> bytes | None:
    if url is None:
        return None
    try:
        async with http.get(f"{url.rstrip('/')}/metrics", allow_redirects=False) as response:
            if response.status != 200:
                return None
            return await bounded_body(response, MAX_METRICS_BYTES) or b""
    except (ClientError, ConnectionError, TimeoutError):
        return None


def _read(text: bytes | None) -> dict[str, Any]:
    """What is shown of a service's own figures."""
    values: dict[tuple[str, str], float] = {}
    try:
        for name, label, value in _samples(text or b""):
            values[name, label] = value
    except ValueError:
        return {}
    circuits = {label: bool(value) for (name, label), value in values.items() if name == "circuit_open"}
    connected = {label: bool(value) for (name, label), value in values.items() if name == "connected"}
    return {
        "outbox": values.get(("outbox_backlog", "")),
        "outbox_age_seconds": values.get(("outbox_oldest_seconds", "")),
        "calls": values.get(("call_backlog", "")),
        "calls_age_seconds": values.get(("call_oldest_seconds", "")),
        "database": connected.get("database"),
        "broker": connected.get("broker"),
        "circuits": circuits,
    }


def _samples(text: bytes) -> Iterable[tuple[str, str, float]]:
    """The samples that are wanted, each with its only label."""
    wanted = b"\n".join(_WANTED.findall(text)) + b"\n"
    for family in text_string_to_metric_families(wanted.decode()):
        for sample in family.samples:
            yield (
                sample.name.removeprefix("murmuration_"),
                next(iter(sample.labels.values()), ""),
                sample.value,
            )


# --- Who is waited for too long


@dataclass(frozen=True, slots=True)
class Incident:
    """Sagas that wait too long for one service for one cause, and after which facts they do.

    `cause` is what the tracker keeps of why they wait; None of those that it has not asked about yet. `also`
    is what is known of the service as a whole.
    """

    service: str
    cause: str | None
    because_of: list[str]
    sagas: int
    since: datetime
    redriven: int
    overdue: int
    also: str | None = None


def incidents(waits: Sequence[Mapping[str, Any]], health: Mapping[str, ServiceHealth]) -> list[Incident]:
    """Who is waited for too long and why, those first for whom most wait."""
    return [Incident(**row, also=_as_a_whole(health.get(row["service"]))) for row in waits]


def _as_a_whole(health: ServiceHealth | None) -> str | None:
    if health is None:
        return "nobody knows it"
    if health.outage is not None:
        return f"it is down: {health.outage.why}"
    if health.lock is not None:
        return f"orders wait for a lock: {health.lock.session}"
    down = [party for party, is_open in health.circuits.items() if is_open]
    return f"{', '.join(down)} counts as down" if down else None


def circuits(health: Mapping[str, ServiceHealth]) -> dict[str, bool]:
    """By party outside, whether it counts as down for any service."""
    parties = sorted({party for each in health.values() for party in each.circuits})
    return {party: any(each.circuits.get(party) for each in health.values()) for party in parties}
