"""A service as a process: settings, logging, HTTP server, signals."""

import asyncio
import gc
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import FrameType
from typing import Protocol

import uvicorn
import uvloop
from fastapi import APIRouter, FastAPI, Request
from structlog.contextvars import bind_contextvars

from events.http import causes_api
from events.http.application import Runnable, create_app, states_router
from events.http.authentication import VIEWER
from events.messaging.asyncapi import asyncapi_document
from events.runtime.definition import ServiceDefinition
from events.runtime.loops import EXIT_CODE, Loops, exit_within
from events.runtime.service_runtime import ServiceRuntime
from events.runtime.settings import ProcessSettings, read_settings
from events.telemetry.log import configure_logging
from events.telemetry.metrics import say_what_runs
from events.telemetry.tracing import start_tracing, stop_tracing

# What a long-running process does about Python's garbage collector.


GARBAGE_THRESHOLD = 20_000


def collect_garbage_rarely() -> None:
    """Leave alone what is loaded by now; messages are freed by counting. Else it takes a sixth of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


# The last resort: beyond, uvicorn refuses every request, without a word on when to come back.
MAX_CONNECTIONS = 10_000
KEEP_ALIVE_SECONDS = 30


class Looping(Runnable, Protocol):
    """What a process runs beside its HTTP server, in loops."""

    @property
    def loops(self) -> Loops: ...


@dataclass(frozen=True, slots=True)
class Part:
    """What a process serves: a service, or anything else with a start, a stop and routes of its own."""

    name: str
    description: str
    settings: ProcessSettings
    runnable: Looping
    routers: Sequence[APIRouter]


def run_service(definition: ServiceDefinition) -> None:
    """Run one service until SIGTERM or SIGINT."""
    serve(part_of(definition))


def part_of(definition: ServiceDefinition) -> Part:
    """A service as the environment has it. Exits with code 2 where that is wrong."""
    settings = read_settings(definition.settings)
    runtime = ServiceRuntime(definition, settings)
    states = states_router(definition.repository)
    routers = [*definition.routers, states, causes_api.router, _asyncapi_router(runtime)]
    return Part(definition.package, _purpose(definition), settings, runtime, routers)


def serve(*parts: Part, name: str | None = None) -> None:
    """Run these as one process of this system, of that name, until it is asked to stop.

    Each has its own port. When a loop of any ends, all stop in order all the same, and the process exits with
    EXIT_CODE. What the process counts, the last one shows: all of them would be counted several times over.
    """
    name, settings = name or parts[0].name, parts[0].settings
    configure_logging(name, settings.log_format, settings.log_level, settings.log_lines_per_second)
    start_tracing(name)
    say_what_runs()
    servers = [_server_of(part, counts=part is parts[-1]) for part in parts]
    collect_garbage_rarely()

    def end() -> None:
        for server in servers:
            server.should_exit = True
        exit_within(
            max(part.settings.stop_grace_seconds + part.settings.stop_margin_seconds for part in parts)
        )

    for part in parts:
        part.runnable.loops.on_failure(end)
    with _ended_by_signals(servers):
        try:
            uvloop.run(_serve(parts, servers))
        finally:
            stop_tracing()
    if any(part.runnable.loops.failed for part in parts):
        sys.exit(EXIT_CODE)


async def _serve(parts: Sequence[Part], servers: Sequence[uvicorn.Server]) -> None:
    async def one(part: Part, server: uvicorn.Server) -> None:
        bind_contextvars(process=part.name)  # of this task, and of those that it begins
        try:
            await server.serve()
        finally:
            for other in servers:
                other.should_exit = True

    await asyncio.gather(*map(one, parts, servers))


def _server_of(part: Part, *, counts: bool) -> uvicorn.Server:
    app = create_app(
        part.name, part.description, part.settings, part.runnable, list(part.routers), counts=counts
    )
    server = uvicorn_server(app, part.settings)
    # So that streams end which would last as long as their reader does.
    app.state.is_stopping = lambda: server.should_exit
    return server


@contextmanager
def _ended_by_signals(servers: Sequence[uvicorn.Server]) -> Iterator[None]:
    """Inside, a signal to end ends these; afterwards the process ends by it, as its parent expects.

    uvicorn's own way would end it before the last spans are out, and before the other servers are done.
    """
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for server in servers:
            server.handle_exit(number, frame)

    before = [(number, signal.signal(number, end)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


class _Server(uvicorn.Server):
    """One of perhaps several in a process, which takes the signals for all of them."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def uvicorn_server(app: FastAPI, settings: ProcessSettings) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app,
            host=settings.http_host,
            port=settings.http_port,
            access_log=False,
            log_config=None,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(settings.stop_grace_seconds),
            server_header=False,
            proxy_headers=False,
            ws="none",
        )
    )


def _asyncapi_router(runtime: ServiceRuntime) -> APIRouter:
    router = APIRouter(tags=["documents"], dependencies=[VIEWER])
    document = asyncapi_document(runtime.broker)

    @router.get("/asyncapi.json")
    async def asyncapi(_: Request) -> dict[str, object]:
        """The facts this service subscribes to and publishes."""
        return document

    return router


def _purpose(definition: ServiceDefinition) -> str:
    module = import_module(definition.package)
    return (module.__doc__ or "").strip()
