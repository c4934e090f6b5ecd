"""What a process counts and measures: every metric of the runtime, and how it is filled in.

Names follow Prometheus: a prefix, base units, `_total` for what only grows. Which process it is, the scrape's
`job` says. Every label has a closed set of values. Whoever has something to count calls one function here;
what is counted in memory costs about a microsecond. What is read when Prometheus asks is in `scrape.py`.
"""

import asyncio
import builtins
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

import psycopg
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.runtime.loops import promptly
from events.storage.database import Connection, Database
from events.telemetry import metrics
from events.telemetry.log import Outage

# Prometheus has no use for when each counter was made; it would double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

OTHER = "other"
FAILED = "failed"
# Seconds. A commit or a confirm takes milliseconds, a request up to its timeout.
QUICK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SIZE_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200)
LOOP_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5)

BUILD = Gauge("murmuration_build_info", "What runs here.", ["version", "python"], registry=REGISTRY)

BATCH_SIZE = Histogram(
    "murmuration_batch_size",
    "Facts, commands and outcomes that one transaction committed together.",
    buckets=SIZE_BUCKETS,
    registry=REGISTRY,
)
BATCH_SECONDS = Histogram(
    "murmuration_batch_transaction_seconds",
    "How long the transaction of a batch took, from a connection of the pool to its commit.",
    buckets=QUICK_BUCKETS,
    registry=REGISTRY,
)
DUPLICATES = Counter(
    "murmuration_inbox_duplicates_total",
    "Facts and outcomes that had taken effect before, and so took none.",
    registry=REGISTRY,
)
REDELIVERIES = Counter(
    "murmuration_redeliveries_total",
    "Messages that the broker delivered once more, for nobody had acknowledged them.",
    registry=REGISTRY,
)
INTAKE_REFUSED = Counter(
    "murmuration_intake_refused_total",
    "New orders that were refused because those accepted before take too long.",
    registry=REGISTRY,
)
LOCK_TIMEOUTS = Counter(
    "murmuration_lock_timeouts_total",
    "Transactions that ended because another session held a lock for longer than they wait.",
    registry=REGISTRY,
)
RETRIES = Counter(
    "murmuration_retries_total",
    "Messages that could not be handled and come again after a pause, by reason.",
    ["reason"],
    registry=REGISTRY,
)
DEAD_LETTERS = Counter(
    "murmuration_dead_letters_total",
    "Messages that were given up and wait for a person, by reason.",
    ["reason"],
    registry=REGISTRY,
)
CONFIRM_SECONDS = Histogram(
    "murmuration_publish_confirm_seconds",
    "From the publishing of a fact to the broker's confirm, by fact.",
    ["fact"],
    buckets=QUICK_BUCKETS,
    registry=REGISTRY,
)
CALL_SECONDS = Histogram(
    "murmuration_call_attempt_seconds",
    "How long an attempt of a call to the outside took, by call and outcome; `failed` is tried again.",
    ["call", "outcome"],
    buckets=CALL_BUCKETS,
    registry=REGISTRY,
)
CIRCUIT_OPEN = Gauge(
    "murmuration_circuit_open",
    "1 while an outside party counts as down and is only probed, else 0.",
    ["party"],
    registry=REGISTRY,
)
HTTP_SECONDS = Histogram(
    "murmuration_http_request_seconds",
    "How long a request took, by method, route and class of status.",
    ["method", "route", "status"],
    buckets=QUICK_BUCKETS,
    registry=REGISTRY,
)
LOOP_LAG_SECONDS = Histogram(
    "murmuration_event_loop_lag_seconds",
    "How much later than due the event loop got to a timer.",
    buckets=LOOP_BUCKETS,
    registry=REGISTRY,
)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Why a message could not be used (`Unreadable`, `Contradiction`), or the type of the error that `decide`, the
# store or the database raised for it.
REASONS = frozenset(
    ["no_fact_id", "forged_type", "unknown_fact", "unknown_version", "bad_body", "not_subscribed"]
    + ["wrong_content_type"]
    + ["too_large", "headers_too_deep", "reused_message_id", "contradicts", "not_understood"]
    + ["AppearedMeanwhile", "Locked"]
    + [
        name
        for module in (builtins, psycopg.errors)
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
)


def say_what_runs() -> None:
    """Fill in the version of this program and of Python."""
    BUILD.labels(_version(), python_version()).set(1)


def batch_committed(inputs: int, decided: int, began: float) -> None:
    """A batch that began then, by `time.perf_counter`, is committed. What it left was counted before."""
    BATCH_SECONDS.observe(time.perf_counter() - began)
    BATCH_SIZE.observe(inputs)
    if inputs > decided:
        DUPLICATES.inc(inputs - decided)


def publish_confirmed(wire_name: str, began: float) -> None:
    """The broker has confirmed a fact that was published then, by `time.perf_counter`."""
    _confirm_seconds(wire_name).observe(time.perf_counter() - began)


def call_attempted(call: str, outcome: str, began: float) -> None:
    """An attempt that was begun then, by `time.perf_counter`, has this outcome: its type, or `failed`."""
    _call_seconds(call, outcome).observe(time.perf_counter() - began)


def message_failed(reason: str, *, dead: bool) -> None:
    """A message goes to the dead letters or, if not `dead`, comes again after a pause."""
    (DEAD_LETTERS if dead else RETRIES).labels(reason if reason in REASONS else OTHER).inc()


def request_answered(method: str, route: str, status: int, began: float) -> None:
    """A request that came then, by `time.perf_counter`, was answered. `route` is its template."""
    known = method if method in METHODS else OTHER
    _http_seconds(known, route, status // 100).observe(time.perf_counter() - began)


def circuit_is(party: str, *, is_open: bool) -> None:
    """Whether an outside party counts as down."""
    CIRCUIT_OPEN.labels(party).set(is_open)


@cache
def _confirm_seconds(wire_name: str) -> Histogram:
    """Bound ahead: looking a label up costs as much again as counting. A process publishes few kinds."""
    return CONFIRM_SECONDS.labels(wire_name)


@cache
def _call_seconds(call: str, outcome: str) -> Histogram:
    """Bound ahead, too: both are of a few types."""
    return CALL_SECONDS.labels(call, outcome)


@cache
def _http_seconds(method: str, route: str, status_class: int) -> Histogram:
    """Bound ahead, too: there are few routes."""
    return HTTP_SECONDS.labels(method, route, f"{status_class}xx")


def _version() -> str:
    """Of the source that runs, be it installed or not."""
    try:
        return version("murmuration")
    except PackageNotFoundError:
        project = Path(__file__).parents[2] / "pyproject.toml"
        if not project.exists():
            return "unknown"
        return str(tomllib.loads(project.read_text())["project"]["version"])


# `GET /metrics`: what was counted since the process began, and what is looked up when somebody asks.
#
# The latter belongs to what the process runs, not to the module: several may run in one process, as in tests.


# Whoever asks more often than once in so many seconds gets what was found last.
KEPT_SECONDS = 1.0
# Above Prometheus' own patience nobody would receive the answer.
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


def page(gauges: Iterable[Metric] = (), *, counts: bool = True) -> Response:
    """What `/metrics` answers: what was looked up, and what the process `counts`."""
    shown = _Both(list(gauges), metrics.REGISTRY.collect() if counts else ())
    return Response(generate_latest(shown), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Both:
    """A registry, as far as printing it goes: what the process counts, and what was looked up."""

    def __init__(self, gauges: Iterable[Metric], counted: Iterable[Metric]) -> None:
        self._gauges = gauges
        self._counted = counted

    def collect(self) -> Iterable[Metric]:
        yield from self._counted
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
