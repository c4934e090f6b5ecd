"""The outside world, wired up: its settings, and which path leads where."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from hmac import compare_digest
from pathlib import Path
from sqlite3 import Row
from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_core import to_json
from pydantic_settings import SettingsConfigDict
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from compose.sandbox import carrier, provider
from compose.sandbox.customers import (
    ApprisePush,
    MailServer,
    MailSink,
    Push,
    PushSink,
    customer_of,
    mail_as_json,
)
from compose.sandbox.easypost_door import EasyPostDoor
from compose.sandbox.http import (
    Body,
    OnReference,
    Problem,
    answer_bug,
    answer_disconnect,
    answer_http_exception,
    answer_problem,
    json_response,
    read_body,
)
from compose.sandbox.ledger import Ledger
from compose.sandbox.operations import Delays, Desk, FaultRule, Faults, Operation
from compose.sandbox.stripe_door import EndedRefund, StripeDoor
from compose.sandbox.stripe_webhooks import Webhooks
from events.http.limits import WithoutNul
from events.runtime.settings import FromEnvironment
from events.telemetry.log import log
from events.telemetry.metrics import MeasuredRequests, measured_loop, page

PAGE_DEFAULT = 100
PAGE_LIMIT = 1000
MAX_ROW_ID = 2**63 - 1

Endpoint = Callable[[Request], Awaitable[Response]]


class Clock(Body):
    """How far ahead of the time a clock is."""

    ahead_seconds: float = Field(ge=0, le=366 * 24 * 3600)


class SandboxSettings(FromEnvironment):
    """Every knob and bound of the sandbox; `MURMURATION_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="MURMURATION_", extra="ignore")

    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8090, ge=1, le=65535)
    smtp_port: int = Field(default=8025, ge=1, le=65535)
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    admin_token: SecretStr | None = Field(default=None, description="None or empty: PUT /faults is closed")
    directory_token: SecretStr | None = Field(
        default=None, description="None or empty: the directory answers everybody"
    )

    sandbox_ledger: Path = Path("sandbox.sqlite3")
    sandbox_slow_seconds: float = Field(default=2, ge=0, le=60, description="how late tok_slow answers")
    sandbox_slow_limit: int = Field(default=500, ge=1, description="late answers waiting at once")
    sandbox_body_limit_bytes: int = Field(default=64 * 1024, ge=1024)
    sandbox_connection_limit: int = Field(default=1000, ge=1, description="HTTP connections at once")
    sandbox_smtp_connection_limit: int = Field(default=100, ge=1)
    sandbox_smtp_timeout_seconds: float = Field(default=300, gt=0, description="an idle SMTP session ends")
    sandbox_keep_alive_seconds: int = Field(default=75, ge=1, description="an idle HTTP connection ends")
    sandbox_stop_seconds: int = Field(default=5, ge=1, description="for requests in flight at SIGTERM")
    sandbox_sink_retention: int = Field(default=10_000, ge=1, description="mails kept, and pushes kept")

    # Of Stripe's door, and the first of EasyPost's as well.
    sandbox_pending_seconds: float = Field(default=2, ge=0, description="after that what is pending ends")
    sandbox_hold_seconds: float = Field(
        default=7 * 24 * 3600, gt=0, description="an authorisation lasts so long"
    )
    sandbox_webhook_url: str | None = Field(default=None, description="None or empty: there are no webhooks")
    sandbox_webhook_spread_seconds: float = Field(
        default=0.5, ge=0, description="how far out of order they come"
    )
    stripe_webhook_secret: SecretStr = Field(
        default=SecretStr("whsec_sandbox"), description="what signs them"
    )


class Sandbox:
    """The outside world, wired up. Must be made inside its event loop."""

    def __init__(self, settings: SandboxSettings) -> None:
        """Open the ledger. Raises sqlite3.OperationalError when it cannot be opened."""
        self.settings = settings
        self.ledger = Ledger(settings.sandbox_ledger)
        self.faults = Faults()
        self.delays = Delays(settings.sandbox_slow_limit)
        self.desk = Desk(
            self.ledger,
            self.faults,
            self.delays,
            slow_seconds=settings.sandbox_slow_seconds,
            body_limit_bytes=settings.sandbox_body_limit_bytes,
        )
        self.webhooks = Webhooks(
            self.ledger,
            self.faults,
            settings.sandbox_webhook_url or None,
            settings.stripe_webhook_secret.get_secret_value(),
            spread_seconds=settings.sandbox_webhook_spread_seconds,
        )
        self.stripe = StripeDoor(
            self.ledger,
            self.faults,
            self.delays,
            self.webhooks,
            slow_seconds=settings.sandbox_slow_seconds,
            body_limit_bytes=settings.sandbox_body_limit_bytes,
            pending_seconds=settings.sandbox_pending_seconds,
            hold_seconds=settings.sandbox_hold_seconds,
        )
        self.easypost = EasyPostDoor(
            self.ledger,
            self.faults,
            self.delays,
            slow_seconds=settings.sandbox_slow_seconds,
            body_limit_bytes=settings.sandbox_body_limit_bytes,
            pending_seconds=settings.sandbox_pending_seconds,
        )
        self.pushes = PushSink(settings.sandbox_sink_retention)
        self.mail_server = MailServer(
            MailSink(self.ledger, self.faults, self.delays, retention=settings.sandbox_sink_retention),
            connection_limit=settings.sandbox_smtp_connection_limit,
            timeout_seconds=settings.sandbox_smtp_timeout_seconds,
        )

    def app(self) -> Starlette:
        """The ASGI application."""
        handlers: Mapping[Any, Any] = {
            Problem: answer_problem,
            ClientDisconnect: answer_disconnect,
            HTTPException: answer_http_exception,
            Exception: answer_bug,
        }
        # Plain Starlette: FastAPI's way to an endpoint would cost half as much again, and give nothing here.
        return Starlette(
            routes=self._routes(),
            exception_handlers=handlers,
            lifespan=self._lifespan,
            middleware=[Middleware(MeasuredRequests), Middleware(WithoutNul)],
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        doing = (self.stripe, self.easypost, self.webhooks)
        loops = [asyncio.create_task(one.run()) for one in doing]
        try:
            async with measured_loop():
                yield
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self.mail_server.close()
            self.ledger.close()

    def _routes(self) -> list[Route]:
        operations, look_ups = self._operations().items(), self._look_ups().items()
        return [
            *(Route(path, self.desk.takes(operation), methods=["POST"]) for path, operation in operations),
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in look_ups),
            *self.stripe.routes(),
            *self.easypost.routes(),
            Route("/stripe/clock", self._put_clock, methods=["PUT"]),
            Route("/stripe/refunds", self._end_refund, methods=["PUT"]),
            Route("/faults", self._put_faults, methods=["PUT"]),
            Route("/faults", self._clear_faults, methods=["DELETE"]),
        ]

    def _operations(self) -> dict[str, Operation[Any]]:
        """What the parties can be asked to do, those first that every order asks for."""
        by_token, by_depot = provider.manner_of_follow_up, carrier.manner_of_follow_up
        authorise = provider.Authorisation, provider.authorise, provider.manner_of_authorisation
        book = carrier.Booking, carrier.book, carrier.manner_of_booking
        return {
            "/provider/authorisations": Operation("provider", "authorise", *authorise),
            "/provider/captures": Operation("provider", "capture", OnReference, provider.capture, by_token),
            "/carrier/shipments": Operation("carrier", "book", *book),
            "/carrier/dispatches": Operation("carrier", "dispatch", OnReference, carrier.dispatch, by_depot),
            "/push/messages": Operation("push", "push", Push, self.pushes.deliver, self.pushes.manner),
            "/push/apprise": Operation(
                "push", "push", ApprisePush, self.pushes.deliver_by_apprise, self.pushes.manner
            ),
            "/provider/voids": Operation("provider", "void", OnReference, provider.void, by_token),
            "/provider/refunds": Operation("provider", "refund", OnReference, provider.refund, by_token),
            "/provider/credit-notes": Operation(
                "provider", "credit-note", OnReference, provider.issue_credit_note, by_token
            ),
            "/carrier/cancellations": Operation("carrier", "cancel", OnReference, carrier.cancel, by_depot),
        }

    def _look_ups(self) -> dict[str, Endpoint]:
        return {
            "/directory/customers/{token}": self._customer,
            "/provider/operations/{idempotency_key:path}": self.desk.look_up("provider"),
            "/carrier/operations/{idempotency_key:path}": self.desk.look_up("carrier"),
            "/provider/ledger": self._entries,
            "/carrier/shipments": self._shipments,
            "/push/messages": self._pushes,
            "/mail/messages": self._mails,
            "/faults": self._show_faults,
            "/healthz": self._health,
            "/readyz": self._ready,
            "/metrics": self._metrics,
        }

    async def _customer(self, request: Request) -> Response:
        if token := self.settings.directory_token:
            _bears(request, token, "the directory's token")
        fault = self.faults.draw("directory")
        if fault.latency_seconds:
            await self.delays.wait(fault.latency_seconds)
        if fault.fails:
            raise Problem(503, "fault-drill", "Unavailable", "try again")
        customer = customer_of(request.path_params["token"], request.url.netloc)
        if customer is None:
            raise Problem(404, "unknown-customer", "Unknown customer", "no customer has this token")
        return json_response(to_json(customer))

    async def _entries(self, request: Request) -> Response:
        return await self._page_after(
            request, "entries", "SELECT id, reference, kind, amount_minor, currency, at FROM entries"
        )

    async def _shipments(self, request: Request) -> Response:
        return await self._page_after(
            request,
            "shipments",
            "SELECT id, reference, status, shipment_id, deliver_on FROM shipments",
        )

    async def _pushes(self, request: Request) -> Response:
        return await self._page_before(
            request, "SELECT id, message_id, device, title, text, at FROM pushes", dict
        )

    async def _mails(self, request: Request) -> Response:
        return await self._page_before(
            request,
            "SELECT id, message_id, sender, recipients, content, deliveries, at FROM mails",
            mail_as_json,
        )

    async def _page_after(self, request: Request, name: str, select: str) -> Response:
        """Oldest first; `next_after` is null on the last page."""
        after, limit = _number(request, "after", 0, MAX_ROW_ID), _page_limit(request)
        rows = await self.ledger.rows(
            f"SELECT * FROM ({select}) WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608 - no input in it
            after,
            limit + 1,
        )
        page = [dict(row) for row in rows[:limit]]
        next_after = page[-1]["id"] if len(rows) > limit else None
        return json_response(json.dumps({name: page, "next_after": next_after}))

    async def _page_before(
        self, request: Request, select: str, as_json: Callable[[Row], dict[str, Any]]
    ) -> Response:
        """Newest first; `next_before` is null on the last page."""
        before, limit = _number(request, "before", MAX_ROW_ID, MAX_ROW_ID), _page_limit(request)
        rows = await self.ledger.rows(
            f"SELECT * FROM ({select}) WHERE id < ? ORDER BY id DESC LIMIT ?",  # noqa: S608 - no input in it
            before,
            limit + 1,
        )
        page = [as_json(row) for row in rows[:limit]]
        next_before = page[-1]["id"] if len(rows) > limit else None
        return json_response(json.dumps({"messages": page, "next_before": next_before}))

    async def _show_faults(self, _request: Request) -> Response:
        return self._faults_in_force()

    async def _put_faults(self, request: Request) -> Response:
        self._admit(request)
        rule = await read_body(request, FaultRule, self.settings.sandbox_body_limit_bytes)
        self.faults.put(rule)
        log.warning("faults_set", **rule.model_dump())
        return self._faults_in_force()

    async def _put_clock(self, request: Request) -> Response:
        """Stripe's door goes by a clock that is so far ahead: what is due by then happens."""
        self._admit(request)
        clock = await read_body(request, Clock, self.settings.sandbox_body_limit_bytes)
        self.stripe.ahead_seconds = clock.ahead_seconds
        self.stripe.go_on()
        await self.ledger.committed()
        return Response(status_code=204)

    async def _end_refund(self, request: Request) -> Response:
        """An order's pending refund succeeds or fails, now."""
        self._admit(request)
        limit_bytes = self.settings.sandbox_body_limit_bytes
        await self.stripe.end_refund(await read_body(request, EndedRefund, limit_bytes))
        return Response(status_code=204)

    async def _clear_faults(self, request: Request) -> Response:
        self._admit(request)
        self.faults.clear()
        log.warning("faults_cleared")
        return Response(status_code=204)

    def _faults_in_force(self) -> Response:
        rules = {target: rule.model_dump() for target, rule in self.faults.in_force().items()}
        return json_response(json.dumps({"faults": rules}))

    async def _health(self, _request: Request) -> Response:
        return json_response('{"status":"alive"}')

    async def _ready(self, _request: Request) -> Response:
        with self.ledger.step() as db:
            db.execute("SELECT 1 FROM operations LIMIT 1").fetchone()
        await self.ledger.committed()
        if not self.mail_server.listening:
            raise Problem(503, "not-ready", "Not ready", "the mail server is not listening")
        return json_response('{"status":"ready"}')

    async def _metrics(self, _request: Request) -> Response:
        return page()

    def _admit(self, request: Request) -> None:
        """Raises Problem (401, 403) unless the request bears the admin token."""
        token = self.settings.admin_token
        if token is None or not token.get_secret_value():
            raise Problem(
                403, "admin-closed", "Closed", "MURMURATION_ADMIN_TOKEN is not set: faults are closed"
            )
        _bears(request, token, "the admin token")


# With a password, whoever asks is named so.
NAMED = "murmuration"


def _bears(request: Request, token: SecretStr, name: str) -> None:
    """Raises Problem (401) for a request that has not this token, as a bearer or as a password."""
    secret = token.get_secret_value()
    as_password = b64encode(f"{NAMED}:{secret}".encode()).decode()
    given = request.headers.get("authorization", "").encode()
    known = [compare_digest(given, each.encode()) for each in (f"Bearer {secret}", f"Basic {as_password}")]
    if not any(known):
        headers = {"WWW-Authenticate": "Bearer"}
        raise Problem(401, "unauthorised", "Unauthorised", f"{name} is required", headers=headers)


def _page_limit(request: Request) -> int:
    return max(1, _number(request, "limit", PAGE_DEFAULT, PAGE_LIMIT))


def _number(request: Request, name: str, default: int, highest: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_ROW_ID)) and int(text) <= highest):
        raise Problem(
            422,
            "invalid-parameter",
            "Invalid parameter",
            f"{name} must be a whole number from 0 to {highest}",
        )
    return int(text)
