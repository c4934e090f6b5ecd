"""A service as a process: settings, logging, HTTP server, signals."""

import gc
import sys
from importlib import import_module
from typing import Protocol

import uvicorn
import uvloop
from fastapi import APIRouter, FastAPI, Request

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


def run_service(definition: ServiceDefinition) -> None:
    """Run one service until SIGTERM or SIGINT."""
    settings = read_settings(definition.settings)
    runtime = ServiceRuntime(definition, settings)
    states = states_router(definition.repository)
    routers = [*definition.routers, states, causes_api.router, _asyncapi_router(runtime)]
    serve(definition.package, _purpose(definition), settings, runtime, routers)


def serve(
    name: str,
    description: str,
    settings: ProcessSettings,
    runnable: Looping,
    routers: list[APIRouter],
) -> None:
    """Run anything with a start, a stop and routes as a process of this system, until it is asked to stop.

    When one of its loops ends, it stops in order all the same, and exits with EXIT_CODE.
    """
    configure_logging(name, settings.log_format, settings.log_level, settings.log_lines_per_second)
    start_tracing(name)
    say_what_runs()
    app = create_app(name, description, settings, runnable, routers)
    collect_garbage_rarely()
    server = uvicorn_server(app, settings)
    # So that streams end which would last as long as their reader does.
    app.state.is_stopping = lambda: server.should_exit

    def end() -> None:
        server.should_exit = True
        exit_within(settings.stop_grace_seconds + settings.stop_margin_seconds)

    runnable.loops.on_failure(end)
    try:
        uvloop.run(server.serve())
    finally:
        stop_tracing()
    if runnable.loops.failed:
        sys.exit(EXIT_CODE)


def uvicorn_server(app: FastAPI, settings: ProcessSettings) -> uvicorn.Server:
    return uvicorn.Server(
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
