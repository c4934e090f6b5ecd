"""The HTTP side of a process: its application, and its health."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any, Protocol
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from opentelemetry.trace import SpanKind
from prometheus_client.metrics_core import Metric
from pydantic import BaseModel, Field
from pydantic_core import to_json
from sqlalchemy import bindparam, select
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.http.authentication import MACHINE, PUBLIC, VIEWER, Authentication, roles_of
from events.http.limits import BoundedBody, BoundedRequests, InDigits, StrictRoute, WithoutNul
from events.http.problems import PROBLEM_TYPE, Fault, ProblemDetails, answer_with_problems
from events.http.sessions import SessionSettings, add_sessions
from events.runtime.service_runtime import ServiceRuntime
from events.runtime.settings import ProcessSettings
from events.storage.repository import Repository
from events.storage.sql import compiled
from events.strict_json import JSON_TYPE
from events.telemetry.metrics import MeasuredRequests, NotingStatus, measured_loop, page, route_template
from events.telemetry.tracing import Attributes, is_tracing, work

# The last is a stream that lasts as long as its page is open, and has a bound of its own.
UNTRACED_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/ui/events"})


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
    *,
    counts: bool = True,
) -> FastAPI:
    """An app whose lifespan is that of `runnable`; handlers find it as `request.app.state.runtime`.

    `counts`: its `/metrics` has what the process counts, besides the gauges of `runnable`. Raises TypeError
    for a route that would take a body without the checks of StrictRoute, and for one that does not say whom
    it is for.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await runnable.start()
        try:
            async with measured_loop():
                yield
        finally:
            await runnable.stop()

    app = FastAPIOffline(
        docs_url=DOCS,
        redoc_url=REDOC,
        title=title,
        description=description,
        version="1.0.0",
        lifespan=lifespan,
        # Swagger would have another site judge the document.
        swagger_ui_parameters={"validatorUrl": None},
    )
    app.state.runtime = runnable
    app.state.counts = counts
    app.state.settings = settings
    app.state.authentication = Authentication(settings)
    if isinstance(settings, SessionSettings):
        add_sessions(app, settings)
    _add_middleware(app, settings)
    # What is asked most comes first: routes are tried in turn.
    for router in (*routers, _health):
        _check(router)
        app.include_router(router)
    document(app)
    return app


def _add_middleware(app: FastAPI, settings: ProcessSettings) -> None:
    # The first is the innermost: the others see its answers.
    answer_with_problems(app)
    app.add_middleware(DocumentsPolicy)
    app.add_middleware(BoundedBody, max_bytes=settings.max_request_bytes)
    app.add_middleware(WithoutNul)
    app.add_middleware(BoundedRequests, max_open=settings.max_open_requests, always_open=UNTRACED_PATHS)
    app.add_middleware(MeasuredRequests)
    app.add_middleware(TracedRequests)


def _check(router: APIRouter) -> None:
    for route in router.routes:
        if isinstance(route, APIRoute) and route.body_field and not isinstance(route, StrictRoute):
            raise TypeError(f"{route.path} takes a body: its router needs route_class=StrictRoute")
        if isinstance(route, APIRoute) and roles_of(route) is None:
            raise TypeError(f"{route.path} does not say whom it is for: see events.http.authentication")


_health = APIRouter(tags=["health"], dependencies=[PUBLIC])


@_health.get("/healthz")
async def alive() -> dict[str, str]:
    """The process is alive."""
    return {"status": "alive"}


@_health.get(
    "/readyz",
    responses={503: {"model": dict[str, Any], "description": "Not ready: the body says what is missing."}},
)
async def ready(request: Request, response: Response) -> dict[str, Any]:
    """Broker, database and consumer really work (200), or not (503); the body says which."""
    parts = await request.app.state.runtime.ready()
    good = all(part for part in parts.values() if isinstance(part, bool))
    response.status_code = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return {"status": "ready" if good else "not ready", **parts}


@_health.get("/metrics", include_in_schema=False)
async def numbers(request: Request) -> Response:
    """What this process counts and measures, for Prometheus."""
    state = request.app.state
    return page(await state.runtime.gauges(), counts=state.counts)


async def _running(request: Request) -> ServiceRuntime:
    runtime: ServiceRuntime = request.app.state.runtime
    return runtime


# The service behind a request.
Running = Annotated[ServiceRuntime, Depends(_running)]


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


# `/states`: what a service knows of many orders at once, for whoever compares it; and to forget it.

MAX_ORDERS = 200
MAX_PAGE = 1_000
FIRST = UUID(int=0)

OrderIds = Annotated[
    list[UUID], Query(min_length=1, max_length=MAX_ORDERS, description="Repeated, once for each order.")
]


OrdersLimit = Annotated[int, Query(ge=1, le=MAX_PAGE), InDigits]


class OrdersToForget(BaseModel):
    """Orders that ended."""

    order_ids: list[UUID] = Field(min_length=1, max_length=MAX_ORDERS)


def states_router(repository: Repository) -> APIRouter:
    """The route of a service whose states are in `repository`."""
    router = APIRouter(tags=["states"], route_class=StrictRoute)
    order_ids = repository.table.c.order_id
    page_of_orders = compiled(
        select(order_ids)
        .where(order_ids > bindparam("after", type_=order_ids.type))
        .order_by(order_ids)
        .limit(bindparam("row_limit"))
    )

    @router.get("/states", dependencies=[VIEWER])
    async def states(order_id: OrderIds, runtime: Running) -> Response:
        """The states of these orders by order id, without personal data; unknown orders are left out."""
        found = await runtime.database.read(lambda connection: repository.read_many(connection, order_id))
        return Response(to_json({"states": found}), media_type="application/json")

    @router.get("/states/orders", dependencies=[MACHINE])
    async def orders(runtime: Running, after: UUID | None = None, limit: OrdersLimit = MAX_PAGE) -> Response:
        """Which orders it has states of, by their ids: those after this one. For whoever looks for others."""
        found = await runtime.database.rows(page_of_orders, after=after or FIRST, row_limit=limit)
        return Response(to_json({"order_ids": [row["order_id"] for row in found]}), media_type=JSON_TYPE)

    @router.post("/states/forget", dependencies=[MACHINE])
    async def forget(wanted: OrdersToForget, runtime: Running) -> Response:
        """Delete the states of orders that ended long ago, as the tracker asks once their time is over.

        What the service is not done with stays: it is not among the `forgotten`. Repeating is harmless.
        """
        async with runtime.database.transaction() as connection:
            forgotten = await repository.forget(connection, wanted.order_ids)
        return Response(to_json({"forgotten": forgotten}), media_type="application/json")

    return router


# The documents of an HTTP side: what every route answers, at `/openapi.json`, `/docs` and `/redoc`.
#
# They need no internet: what the pages load comes from a package, and they are not allowed anything else.

DOCS, REDOC = "/docs", "/redoc"
# Both pages carry a script of their own in the page, and ReDoc works in the background.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:"
)
_MODELS = (ProblemDetails, Fault)
_OF_FASTAPI = ("HTTPValidationError", "ValidationError")
_REFERENCE = "#/components/schemas/{model}"
_NOT_NOW = "Not now: too much waits, or the database is away. `Retry-After` says when to come back."
_TO_A_BODY = {
    413: "The body is larger than this service takes.",
    415: "The body is not `application/json`.",
}
_WITHOUT_TOKEN = {
    401: "The bearer token is missing, or nobody's.",
    403: "The role of who asks is none of those, nor above them; or no token is set for this service.",
}


def document(app: FastAPI) -> None:
    """Have the app's document say what its routes answer that went wrong."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            _add_problems(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    # The way that FastAPI documents for it.
    app.openapi = openapi  # type: ignore[method-assign]


def _add_problems(schema: dict[str, Any]) -> None:
    models = schema.setdefault("components", {}).setdefault("schemas", {})
    for model in _MODELS:
        models[model.__name__] = model.model_json_schema(ref_template=_REFERENCE)
        models[model.__name__].pop("$defs", None)
    for name in _OF_FASTAPI:
        models.pop(name, None)
    problem = {PROBLEM_TYPE: {"schema": {"$ref": _REFERENCE.format(model=ProblemDetails.__name__)}}}
    for operation in _operations(schema):
        for status, why in _what_goes_wrong(operation).items():
            operation["responses"].setdefault(str(status), {"description": why})
        # FastAPI has a form of its own for what is not valid; here it is a problem like any other.
        operation["responses"]["422"].pop("content", None)
        for status, response in operation["responses"].items():
            if int(status) >= HTTPStatus.BAD_REQUEST:
                response.setdefault("content", problem)


def _operations(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in schema["paths"].values():
        yield from path.values()


def _what_goes_wrong(operation: dict[str, Any]) -> dict[int, str]:
    """What any route may answer that takes what this one takes. What else it may, the route itself says."""
    found = {422: "The request is not valid: `errors` says what of it.", 503: _NOT_NOW}
    if "security" in operation:
        found |= _WITHOUT_TOKEN
    if "requestBody" in operation:
        found |= _TO_A_BODY
    return found


class DocumentsPolicy:
    """Lets the pages of the documents load what comes from here, and nothing from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in (DOCS, REDOC):
            await self._app(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", _POLICY.encode()),
                ]
            await send(message)

        await self._app(scope, receive, send_with_policy)
