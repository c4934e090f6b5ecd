"""`GET /metrics`: what was counted since the process began, and what is looked up when somebody asks.

The latter belongs to what the process runs, not to the module: several may run in one process, as in tests.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.runtime.promptly import promptly
from events.storage.database import Connection, Database
from events.telemetry import metrics
from events.telemetry.log import Outage

# Whoever asks more often than once in so many seconds gets what was found last.
KEPT_SECONDS = 1.0
# Above Prometheus' own patience nobody would hear the answer.
LOOK_UP_SECONDS = 3.0
LOOP_PROBE_SECONDS = 0.25
UNKNOWN_ROUTE = "unknown"

Values = dict[tuple[str, ...], float]


def gauge(name: str, help_text: str, values: float | Values, labels: Sequence[str] = ()) -> Metric:
    """A gauge as it is now: one number, or one for each combination of the labels' values."""
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for given, value in (values if isinstance(values, dict) else {(): values}).items():
        family.add_metric(given, value)
    return family


def page(gauges: Iterable[Metric] = ()) -> Response:
    """What `/metrics` answers."""
    return Response(generate_latest(_Both(list(gauges))), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Both:
    """A registry, as far as printing it goes: what the process counts, and what was looked up."""

    def __init__(self, gauges: Sequence[Metric]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        yield from metrics.REGISTRY.collect()
        yield from self._gauges


class LookUp:
    """What is read from the database for `/metrics`: at most once a second, and never for long.

    A database that is away costs these gauges and nothing else; `murmuration_connected` says so.
    """

    def __init__(self, database: Database, read: Callable[[Connection], Awaitable[list[Metric]]]) -> None:
        self._database = database
        self._read = read
        self._one_at_a_time = asyncio.Lock()
        self._outage = Outage("what /metrics looks up")
        self._found: list[Metric] | None = None
        self._found_at = float("-inf")

    async def gauges(self) -> list[Metric] | None:
        """Those found now or a moment ago; None while the database does not answer."""
        async with self._one_at_a_time:
            if time.monotonic() - self._found_at >= KEPT_SECONDS:
                try:
                    self._found = await promptly(self._look(), LOOK_UP_SECONDS)
                    self._outage.ended()
                except (psycopg.Error, TimeoutError, ConnectionError) as error:
                    self._found = None
                    self._outage.began(error)
                self._found_at = time.monotonic()
            return self._found

    async def _look(self) -> list[Metric]:
        async with self._database.transaction() as connection:
            return await self._read(connection)


def connections(*, database: bool, broker: bool) -> Metric:
    """Whether a process is connected to what it needs."""
    return gauge(
        "murmuration_connected",
        "Whether the process is connected to its database and to the broker.",
        {("database",): database, ("broker",): broker},
        ["to"],
    )


def broker_blocked(blocked: bool) -> Metric:
    """Whether the broker lets nobody publish."""
    what = "1 while the broker blocks what this process publishes, as under a memory or disk alarm, else 0."
    return gauge("murmuration_broker_blocked", what, blocked)


def backlog(name: str, what: str, found: Mapping[str, Any]) -> list[Metric]:
    """How much of something is `waiting` in a table, and the `age` of the oldest in seconds, None if none."""
    # A service's clock may be ahead of the database's.
    age_seconds = max(0.0, found["age"] or 0.0)
    return [
        gauge(f"murmuration_{name}_backlog", f"{what}.", found["waiting"]),
        gauge(f"murmuration_{name}_oldest_seconds", f"{what}: the age of the oldest.", age_seconds),
    ]


def refused(count: int) -> Metric:
    """How much of an outbox is set aside."""
    return gauge(
        "murmuration_outbox_refused",
        "Committed messages that the broker refused, and that are tried again after growing pauses.",
        count,
    )


class NotingStatus:
    """Sends what an app answers, and notes the status: that of a failure, as long as there is none."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 500

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


class MeasuredRequests:
    """Measures every request, by the template of its route: a path may hold an order's id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, answer = time.perf_counter(), NotingStatus(send)
        try:
            await self._app(scope, receive, answer)
        finally:
            metrics.request_answered(scope["method"], route_template(scope), answer.status, began)


def route_template(scope: Scope) -> str:
    """Of the route that a request was for, once that is found; a path may hold an order's id."""
    route: BaseRoute | None = scope.get("route")
    template = getattr(route, "path_format", None) or getattr(route, "path", None)
    return template if isinstance(template, str) else UNKNOWN_ROUTE


@asynccontextmanager
async def measured_loop() -> AsyncIterator[None]:
    """Inside, the lag of the event loop is measured."""
    task = asyncio.create_task(_measure_loop(), name="measure event loop")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _measure_loop() -> None:
    while True:
        due = time.perf_counter() + LOOP_PROBE_SECONDS
        await asyncio.sleep(LOOP_PROBE_SECONDS)
        metrics.LOOP_LAG_SECONDS.observe(max(0.0, time.perf_counter() - due))
