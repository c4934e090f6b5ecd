"""EasyPost's API over the sandbox's ledger: as much of it as fulfillment_svc uses, in EasyPost's form.

JSON comes in and goes out, and there are no idempotency keys: whoever asks twice to create gets two.
"""

import asyncio
import base64
import binascii
import json
import time
from collections.abc import Callable
from sqlite3 import Connection
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from compose.sandbox.customers import DEPOTS
from compose.sandbox.easypost_objects import EasyPostProblem, Shipments, Thing, seen
from compose.sandbox.ledger import Ledger
from compose.sandbox.operations import Delays, Dropped, Fault, Faults, Manner, refuse_to_work
from events.strict_json import JSON_TYPE, parsed

PARTY = "easypost"
# What is done to which Shipment, with what was asked.
Act = Callable[[Shipments, str, Thing], Thing]


class EasyPostDoor:
    """The endpoints, and what goes on by itself behind them."""

    def __init__(
        self,
        ledger: Ledger,
        faults: Faults,
        delays: Delays,
        *,
        slow_seconds: float,
        body_limit_bytes: int,
        pending_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._faults = faults
        self._delays = delays
        self._slow_seconds = slow_seconds
        self._body_limit_bytes = body_limit_bytes
        self._pending_seconds = pending_seconds

    def routes(self) -> list[Route]:
        """All that is under /v2."""
        acts: dict[str, Act] = {
            "/v2/shipments": lambda shipments, _id, asked: shipments.create(asked),
            "/v2/shipments/{id}/rerate": lambda shipments, i, _: shipments.rerate(shipments.find(i)),
            "/v2/shipments/{id}/buy": lambda shipments, i, asked: shipments.buy(shipments.find(i), asked),
            "/v2/shipments/{id}/refund": lambda shipments, i, _: shipments.refund(shipments.find(i)),
            "/v2/scan_forms": lambda shipments, _id, asked: shipments.scan(asked),
        }
        look_ups: dict[str, Act] = {
            "/v2/shipments": lambda shipments, _id, asked: shipments.page(asked),
            "/v2/shipments/{id}": lambda shipments, i, _: shipments.find(i),
        }
        return [
            *(Route(path, self._takes(act), methods=["POST"]) for path, act in acts.items()),
            *(Route(path, self._shows(act), methods=["GET"]) for path, act in look_ups.items()),
        ]

    async def run(self) -> None:
        """Let happen what happens by itself, until cancelled."""
        while True:
            await asyncio.sleep(min(0.1, self._pending_seconds / 4 or 0.01))
            with self._ledger.step() as db:
                self._shipments(db).go_on()

    def _shipments(self, db: Connection) -> Shipments:
        return Shipments(db, time.time(), self._pending_seconds)

    def _takes(self, act: Act) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            try:
                asked = await self._body(request)
                _authenticate(request)
                fault = await self._fault()
                done, manner = self._perform(request, act, asked)
            except EasyPostProblem as problem:
                return _answered(problem)
            await self._ledger.committed()
            if manner is Manner.SLOW:
                await self._delays.wait(self._slow_seconds)
            if manner is Manner.LOST or fault.loses_answer:
                return Dropped()
            return Response(json.dumps(seen(done)), 200, media_type=JSON_TYPE)

        return endpoint

    def _shows(self, act: Act) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            try:
                _authenticate(request)
                await self._fault()
                with self._ledger.step() as db:
                    asked = dict(request.query_params)
                    found = act(self._shipments(db), request.path_params.get("id", ""), asked)
            except EasyPostProblem as problem:
                return _answered(problem)
            await self._ledger.committed()
            return Response(json.dumps(seen(found)), media_type=JSON_TYPE)

        return endpoint

    def _perform(self, request: Request, act: Act, asked: Thing) -> tuple[Thing, Manner]:
        """What became of it, and the manner in which to answer. Raises EasyPostProblem: then nothing did."""
        shipment_id = request.path_params.get("id", "")
        with self._ledger.step() as db:
            shipments = self._shipments(db)
            about, postcode = _about(shipments, shipment_id, asked)
            manner = DEPOTS.get(postcode, Manner.WELL)
            refusal = refuse_to_work(db, PARTY, f"{request.url.path} {about}", manner)
            if refusal is None:
                return act(shipments, shipment_id, asked), manner
        raise EasyPostProblem(refusal.status, "INTERNAL_SERVER_ERROR", refusal.detail)

    async def _fault(self) -> Fault:
        """What this request meets. Raises EasyPostProblem: then nothing is done."""
        fault = self._faults.draw("carrier")
        if fault.latency_seconds:
            await self._delays.wait(fault.latency_seconds)
        if fault.limits_rate:
            raise EasyPostProblem(429, "RATE_LIMITED", "You have exceeded your rate limit.")
        if fault.fails:
            raise EasyPostProblem(503, "SERVICE_UNAVAILABLE", "Nothing was done; try again.")
        return fault

    async def _body(self, request: Request) -> Thing:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > self._body_limit_bytes:
                raise EasyPostProblem(413, "REQUEST.TOO_LARGE", "The body is too large.")
        try:
            asked = parsed(bytes(content or b"{}"))
        except json.JSONDecodeError:
            raise EasyPostProblem(400, "PARAMETER.INVALID", "The body is no JSON.") from None
        if not isinstance(asked, dict):
            raise EasyPostProblem(400, "PARAMETER.INVALID", "The body is no object.")
        return asked


def _about(shipments: Shipments, shipment_id: str, asked: Thing) -> tuple[str, str]:
    """Which order a request is about, and where that goes."""
    given = asked.get("scan_form")
    if not shipment_id and isinstance(given, dict):
        first = next(iter(given.get("shipments") or []), None)
        shipment_id = str(first.get("id")) if isinstance(first, dict) else "none"
    if shipment_id:
        shipment = shipments.find(shipment_id)
        return shipment_id, shipment["to_address"]["zip"]
    wanted = asked.get("shipment")
    to = wanted.get("to_address") if isinstance(wanted, dict) else None
    if not isinstance(wanted, dict) or not isinstance(to, dict):
        return "", ""
    return str(wanted.get("reference")), str(to.get("zip"))


def _authenticate(request: Request) -> None:
    """By the key as a bearer token, or as the user of Basic authentication. Raises EasyPostProblem (401)."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme == "Basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            given = ""
    if scheme not in ("Basic", "Bearer") or not given.startswith("EZ"):
        raise EasyPostProblem(401, "APIKEY.INACTIVE", "This api key is no longer active.")


def _answered(problem: EasyPostProblem) -> Response:
    headers = {"Retry-After": "1"} if problem.status == 429 else None
    return Response(
        json.dumps({"error": problem.error}), problem.status, headers=headers, media_type=JSON_TYPE
    )
