"""The sandbox's HTTP: which path leads where."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from hmac import compare_digest
from sqlite3 import Row
from typing import Any

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from compose.sandbox import carrier, provider
from compose.sandbox.bodies import BodyT, OnReference, json_response, read_body
from compose.sandbox.directory import customer_of
from compose.sandbox.faults import Delays, FaultRule, Faults
from compose.sandbox.ledger import Ledger
from compose.sandbox.operations import Desk, Operation
from compose.sandbox.problems import (
    Problem,
    answer_bug,
    answer_disconnect,
    answer_http_exception,
    answer_problem,
)
from compose.sandbox.settings import SandboxSettings
from compose.sandbox.shortcut import Shortcut
from compose.sandbox.sinks import MailSink, Push, PushSink, mail_as_json
from compose.sandbox.smtp import MailServer
from events.http.limits import WithoutNul
from events.telemetry.log import log
from events.telemetry.scrape import MeasuredRequests, measured_loop, page

PAGE_DEFAULT = 100
PAGE_LIMIT = 1000
MAX_ROW_ID = 2**63 - 1

Endpoint = Callable[[Request], Awaitable[Response]]


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
        self.pushes = PushSink(settings.sandbox_sink_retention)
        self.mail_server = MailServer(
            MailSink(self.ledger, self.faults, self.delays, retention=settings.sandbox_sink_retention),
            connection_limit=settings.sandbox_smtp_connection_limit,
            timeout_seconds=settings.sandbox_smtp_timeout_seconds,
        )

    def app(self) -> Starlette:
        """The ASGI application."""
        parties = self._parties()
        handlers: Mapping[Any, Any] = {
            Problem: answer_problem,
            ClientDisconnect: answer_disconnect,
            HTTPException: answer_http_exception,
            Exception: answer_bug,
        }
        return Starlette(
            routes=[*parties, *self._other_routes()],
            exception_handlers=handlers,
            lifespan=self._lifespan,
            middleware=[
                Middleware(MeasuredRequests),
                Middleware(WithoutNul),
                Middleware(Shortcut, routes=parties),
            ],
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        try:
            async with measured_loop():
                yield
        finally:
            await self.mail_server.close()
            self.ledger.close()

    def _parties(self) -> list[Route]:
        by_token, by_depot = provider.manner_of_follow_up, carrier.manner_of_follow_up
        return [
            self._post(
                "/provider/authorisations",
                Operation(
                    "provider",
                    "authorise",
                    provider.Authorisation,
                    provider.authorise,
                    provider.manner_of_authorisation,
                ),
            ),
            self._post(
                "/provider/captures",
                Operation("provider", "capture", OnReference, provider.capture, by_token),
            ),
            Route("/directory/customers/{token}", self._customer, methods=["GET"]),
            self._post(
                "/carrier/shipments",
                Operation("carrier", "book", carrier.Booking, carrier.book, carrier.manner_of_booking),
            ),
            self._post(
                "/carrier/dispatches",
                Operation("carrier", "dispatch", OnReference, carrier.dispatch, by_depot),
            ),
            self._post(
                "/push/messages", Operation("push", "push", Push, self.pushes.deliver, self.pushes.manner)
            ),
            self._post(
                "/provider/voids", Operation("provider", "void", OnReference, provider.void, by_token)
            ),
            self._post(
                "/provider/refunds", Operation("provider", "refund", OnReference, provider.refund, by_token)
            ),
            self._post(
                "/provider/credit-notes",
                Operation("provider", "credit-note", OnReference, provider.issue_credit_note, by_token),
            ),
            self._post(
                "/carrier/cancellations",
                Operation("carrier", "cancel", OnReference, carrier.cancel, by_depot),
            ),
        ]

    def _other_routes(self) -> list[BaseRoute]:
        return [
            self._get("/provider/operations/{idempotency_key:path}", self.desk.look_up("provider")),
            self._get("/carrier/operations/{idempotency_key:path}", self.desk.look_up("carrier")),
            self._get("/provider/ledger", self._entries),
            self._get("/carrier/shipments", self._shipments),
            self._get("/push/messages", self._pushes),
            self._get("/mail/messages", self._mails),
            self._get("/faults", self._show_faults),
            Route("/faults", self._put_faults, methods=["PUT"]),
            Route("/faults", self._clear_faults, methods=["DELETE"]),
            self._get("/healthz", self._health),
            self._get("/readyz", self._ready),
            self._get("/metrics", self._metrics),
        ]

    def _post(self, path: str, operation: Operation[BodyT]) -> Route:
        return Route(path, self.desk.takes(operation), methods=["POST"])

    @staticmethod
    def _get(path: str, endpoint: Endpoint) -> Route:
        return Route(path, endpoint, methods=["GET"])

    async def _customer(self, request: Request) -> Response:
        fault = self.faults.draw("directory")
        if fault.latency_seconds:
            await self.delays.wait(fault.latency_seconds)
        if fault.fails:
            raise Problem(503, "fault-drill", "Unavailable", "try again")
        customer = customer_of(request.path_params["token"])
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
        expected = f"Bearer {token.get_secret_value()}".encode()
        if not compare_digest(request.headers.get("authorization", "").encode(), expected):
            headers = {"WWW-Authenticate": "Bearer"}
            raise Problem(401, "unauthorised", "Unauthorised", "the admin token is required", headers=headers)


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
