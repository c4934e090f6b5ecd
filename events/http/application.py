"""The HTTP side of a process: problem details, health, bounds, and the admin's token."""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from opentelemetry.trace import SpanKind
from prometheus_client.metrics_core import Metric
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.http.intake import IntakeClosed
from events.runtime.host import Host
from events.runtime.settings import ProcessSettings
from events.runtime.worker import Overloaded
from events.storage.database import AWAY, Locked
from events.storage.repository import StateNotUnderstood
from events.storage.tombstones import Forgotten
from events.telemetry.log import log
from events.telemetry.scrape import MeasuredRequests, NotingStatus, measured_loop, page, route_template
from events.telemetry.tracing import Attributes, is_tracing, work

RETRY_AFTER_SECONDS = 2
UNTRACED_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

BodyT = TypeVar("BodyT", bound=BaseModel)
# An endpoint that reads the request and makes the answer by itself.
Straight = Callable[[Request], Awaitable[Response]]


class Problem(Exception):
    """An answer in RFC 9457's form: a status, a sentence, and what else helps the caller."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.more = more


class Runnable(Protocol):
    """What a process runs beside its HTTP server."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def ready(self) -> dict[str, Any]:
        """What it needs, and whether it has it: every boolean true means ready."""

    async def gauges(self) -> list[Metric]:
        """What is looked up when somebody asks for `/metrics`. Quick, also when a server is away."""


def create_app(
    title: str,
    description: str,
    settings: ProcessSettings,
    runnable: Runnable,
    routers: list[APIRouter],
    straight: Collection[Straight] = (),
) -> FastAPI:
    """An app whose lifespan is that of `runnable`; handlers find it as `request.app.state.host`.

    Endpoints of the routers that are also in `straight` are called without FastAPI: see StraightRoutes.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await runnable.start()
        try:
            async with measured_loop():
                yield
        finally:
            await runnable.stop()

    app = FastAPI(title=title, description=description, version="1.0.0", lifespan=lifespan)
    app.state.host = runnable
    app.state.settings = settings
    app.add_middleware(StraightRoutes, routes=_straight_routes(routers, straight))
    app.add_middleware(BoundedBody, max_bytes=settings.max_request_bytes)
    app.add_middleware(BoundedRequests, max_open=settings.max_open_requests)
    app.add_middleware(MeasuredRequests)
    app.add_middleware(TracedRequests)
    app.include_router(_health)
    for router in routers:
        app.include_router(router)
    _answer_with_problems(app)
    return app


_health = APIRouter(tags=["health"])


@_health.get("/healthz")
async def alive() -> dict[str, str]:
    """The process is alive."""
    return {"status": "alive"}


@_health.get("/readyz")
async def ready(request: Request) -> JSONResponse:
    """Broker, database and consumer really work (200), or not (503); the body says which."""
    parts = await request.app.state.host.ready()
    good = all(part for part in parts.values() if isinstance(part, bool))
    return JSONResponse(
        {"status": "ready" if good else "not ready", **parts},
        HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE,
    )


@_health.get("/metrics", include_in_schema=False)
async def numbers(request: Request) -> Response:
    """What this process counts and measures, for Prometheus."""
    return page(await request.app.state.host.gauges())


_bearer = HTTPBearer(auto_error=False, description="MURMURATION_ADMIN_TOKEN")


async def admin(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Let only the bearer of the admin token in. With no token configured nobody gets in."""
    token = request.app.state.settings.admin_token
    if token is None or not token.get_secret_value():
        raise Problem(403, "admin endpoints are closed: MURMURATION_ADMIN_TOKEN is not set")
    expected = token.get_secret_value().encode()
    if given is None or not hmac.compare_digest(given.credentials.encode(), expected):
        raise Problem(401, "a bearer token is required", headers={"WWW-Authenticate": "Bearer"})


Admin = Depends(admin)


async def _running(request: Request) -> Host:
    host: Host = request.app.state.host
    return host


# The service behind a request.
Running = Annotated[Host, Depends(_running)]


async def read_json(request: Request, kind: type[BodyT]) -> BodyT:
    """The body, validated from its bytes. Raises RequestValidationError, as FastAPI would."""
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        errors = [{**found, "loc": ("body", *found["loc"])} for found in error.errors(include_url=False)]
        raise RequestValidationError(errors) from error


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """What the OpenAPI document says of a body that `read_json` reads."""
    return {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}


class TracedRequests:
    """A span for every request, by OpenTelemetry's conventions, but for those that ask how the process is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED_PATHS or not is_tracing():
            await self._app(scope, receive, send)
            return
        method, answer = scope["method"], NotingStatus(send)
        given = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")

        def attributes() -> Attributes:
            return {"http.request.method": method, "url.path": scope["path"], "url.scheme": scope["scheme"]}

        with work(method, given.decode("latin-1"), SpanKind.SERVER, attributes) as span, span.current():
            await self._app(scope, receive, answer)
            route = route_template(scope)
            span.rename(f"{method} {route}")
            span.note({"http.route": route, "http.response.status_code": answer.status})
            if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                span.fail(HTTPStatus(answer.status).phrase)


class BoundedRequests:
    """Refuses more requests at a time than a process takes, but for those that ask how it is."""

    def __init__(self, app: ASGIApp, max_open: int) -> None:
        self._app = app
        self._max_open = max_open
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED_PATHS:
            await self._app(scope, receive, send)
            return
        if self._open >= self._max_open:
            await _problem_response(_problem_of(Overloaded()))(scope, receive, send)
            return
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1


class BoundedBody:
    """Refuses request bodies above a size, whether they announce it or not."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            problem = Problem(413, f"the body may have at most {self._max_bytes} bytes")
            await _problem_response(problem)(scope, receive, send)
            return
        received = 0

        async def bounded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, f"the body may have at most {self._max_bytes} bytes")
            return message

        await self._app(scope, bounded_receive, send)


class StraightRoutes:
    """Calls the endpoints of a few routes by itself, found by their exact path.

    FastAPI's own way to an endpoint and back, with all that it may have to do in between, takes twice the CPU
    of all the rest of a small request. It still documents these endpoints, and knows the same way.
    """

    def __init__(self, app: ASGIApp, routes: Mapping[tuple[str, str], APIRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            response: Response = await route.endpoint(Request(scope, receive))
        except Exception as error:  # noqa: BLE001 - whatever it raises has an answer
            response = _problem_response(_problem_of(error))
        await response(scope, receive, send)


def _straight_routes(
    routers: list[APIRouter], straight: Collection[Straight]
) -> dict[tuple[str, str], APIRoute]:
    routes = {
        (method, route.path): route
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and route.endpoint in straight
        for method in route.methods or ()
    }
    for route in routes.values():
        if route.dependencies:
            raise TypeError(f"{route.path} depends on what nobody would ask: FastAPI does, but is not there")
    return routes


def _answer_with_problems(app: FastAPI) -> None:
    async def answer(_: Request, error: Exception) -> JSONResponse:
        return _problem_response(_problem_of(error))

    for kind in _PROBLEMS:
        app.add_exception_handler(kind, answer)


def _problem_of(error: Exception) -> Problem:
    """What a request is answered that ended with this error: by the nearest class that has an answer."""
    return next(_PROBLEMS[kind](error) for kind in type(error).__mro__ if kind in _PROBLEMS)


def _problem_response(problem: Problem) -> JSONResponse:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        **problem.more,
    }
    return JSONResponse(body, problem.status, problem.headers, "application/problem+json")


def _invalid(error: RequestValidationError) -> Problem:
    errors = [{"at": ".".join(map(str, e["loc"])), "problem": e["msg"]} for e in error.errors()]
    return Problem(422, "the request is not valid", errors=errors)


def _come_back(detail: str) -> Problem:
    return Problem(503, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def _unexpected(error: Exception) -> Problem:
    log.error("request_failed", exc_info=error)
    return Problem(500, "this should not have happened; it is in the log")


_PROBLEMS: dict[type[Any], Callable[[Any], Problem]] = {
    Problem: lambda error: error,
    HTTPException: lambda error: Problem(error.status_code, str(error.detail), headers=error.headers),
    RequestValidationError: _invalid,
    Forgotten: lambda error: Problem(410, str(error)),
    Overloaded: lambda _: _come_back("more requests are waiting than this service takes"),
    IntakeClosed: lambda error: _come_back(str(error)),
    Locked: lambda _: _come_back(
        "another session of the database holds a lock on this; retry with the same Idempotency-Key"
    ),
    TimeoutError: lambda _: _come_back("not answered in time; retry with the same Idempotency-Key"),
    StateNotUnderstood: lambda _: _come_back("this order is for a replica of a newer release"),
    Exception: _unexpected,
} | {kind: lambda _: _come_back("the database is away") for kind in AWAY}
