"""Stripe's API over the sandbox's ledger: as much of it as payment_svc uses, in Stripe's form.

Forms come in and JSON goes out, and each object can be read by its id. A request is answered once under its
Idempotency-Key, errors included once the work has begun; the same key for other parameters is an error.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from sqlite3 import Connection
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from compose.sandbox import provider
from compose.sandbox.ledger import Ledger
from compose.sandbox.operations import Delays, Dropped, Fault, Faults, Manner, refuse_to_work
from compose.sandbox.stripe_objects import (
    CREDIT,
    INTENT,
    METHODS,
    REFUND,
    Object,
    Objects,
    declined,
    method_of,
    seen,
)
from compose.sandbox.stripe_requests import StripeProblem, invalid
from compose.sandbox.stripe_webhooks import Webhooks
from events.strict_json import JSON_TYPE

PARTY = "stripe"
MAX_KEY_CHARACTERS = 255
MAX_PAGE, PAGE = 100, 10
# Of a 500 that is saved under its key: whether the work was done before shows in the object alone.
SAVED_ERROR = StripeProblem(500, "api_error", None, "Something went wrong on Stripe's end.")

Parameters = dict[str, Any]
Endpoint = Callable[[Request], Awaitable[Response]]
# What is done to which object; the third says whose manner it is done in.
Act = Callable[[Objects, str, Parameters], Object]


class StripeDoor:
    """The endpoints, and the clock by which what is pending ends: it can be put forward."""

    def __init__(
        self,
        ledger: Ledger,
        faults: Faults,
        delays: Delays,
        webhooks: Webhooks,
        *,
        slow_seconds: float,
        body_limit_bytes: int,
        pending_seconds: float,
        hold_seconds: float,
    ) -> None:
        self._ledger = ledger
        self._faults = faults
        self._delays = delays
        self._webhooks = webhooks
        self._slow_seconds = slow_seconds
        self._body_limit_bytes = body_limit_bytes
        self._pending_seconds = pending_seconds
        self._hold_seconds = hold_seconds
        self.ahead_seconds = 0.0

    def routes(self) -> list[Route]:
        """All that is under /v1."""
        acts: dict[str, Act] = {
            "/v1/payment_intents": lambda objects, _id, asked: objects.create_intent(asked),
            "/v1/payment_intents/{id}/confirm": _confirm,
            "/v1/payment_intents/{id}/capture": lambda objects, i, _: objects.capture(
                objects.find(INTENT, i)
            ),
            "/v1/payment_intents/{id}/cancel": lambda objects, i, _: objects.cancel(objects.find(INTENT, i)),
            "/v1/refunds": lambda objects, _id, asked: objects.create_refund(asked),
            "/v1/customers/{id}/balance_transactions": lambda objects, i, asked: objects.create_credit(
                i, asked
            ),
        }
        look_ups: dict[str, Act] = {
            "/v1/payment_intents/{id}": _expanded,
            "/v1/refunds/{id}": lambda objects, i, _: objects.find(REFUND, i),
            "/v1/refunds": lambda objects, _id, asked: _listed(
                objects, REFUND, str(asked.get("payment_intent")), asked
            ),
            "/v1/customers/{id}/balance_transactions": lambda objects, i, asked: _listed(
                objects, CREDIT, i, asked
            ),
            "/v1/payment_methods/{id}": lambda _objects, i, _: method_of(i),
        }
        return [
            *(Route(path, self._takes(act), methods=["POST"]) for path, act in acts.items()),
            *(Route(path, self._shows(act), methods=["GET"]) for path, act in look_ups.items()),
        ]

    async def run(self) -> None:
        """Let happen what happens by itself, until cancelled."""
        while True:
            await asyncio.sleep(min(0.1, self._pending_seconds / 4 or 0.01))
            self.go_on()

    def go_on(self) -> None:
        """Let happen what is due now."""
        with self._ledger.step() as db:
            self._objects(db).go_on()

    def _objects(self, db: Connection) -> Objects:
        return Objects(
            db,
            time.time() + self.ahead_seconds,
            lambda kind, thing: self._webhooks.emit(db, kind, thing),
            pending_seconds=self._pending_seconds,
            hold_seconds=self._hold_seconds,
        )

    def _takes(self, act: Act) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            try:
                form = await self._form(request)
                key, asked = _admit(request), _nested(form)
                fault = await self._fault()
                status, text, manner = self._once(request, key, asked, act, fault)
            except StripeProblem as problem:
                return _answered(problem)
            await self._ledger.committed()
            if manner is Manner.SLOW:
                await self._delays.wait(self._slow_seconds)
            if manner is Manner.LOST or fault.loses_answer:
                return Dropped()
            return Response(text, status, media_type=JSON_TYPE)

        return endpoint

    def _shows(self, act: Act) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            try:
                _authenticate(request)
                await self._fault()
                self.go_on()
                with self._ledger.step() as db:
                    asked = _nested(request.url.query)
                    found = act(self._objects(db), request.path_params.get("id", ""), asked)
            except StripeProblem as problem:
                return _answered(problem)
            await self._ledger.committed()
            return Response(json.dumps(seen(found)), media_type=JSON_TYPE)

        return endpoint

    async def _fault(self) -> Fault:
        """What this request meets. Raises StripeProblem: then nothing is done or saved."""
        fault = self._faults.draw("provider")
        if fault.latency_seconds:
            await self._delays.wait(fault.latency_seconds)
        if fault.limits_rate:
            raise StripeProblem(429, "invalid_request_error", "rate_limit", "Too many requests.")
        if fault.fails:
            raise StripeProblem(503, "api_error", None, "Nothing was done; try again.")
        return fault

    async def _form(self, request: Request) -> str:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > self._body_limit_bytes:
                raise StripeProblem(413, "invalid_request_error", None, "The body is too large.")
        return content.decode("utf-8", "replace")

    def _once(
        self, request: Request, key: str, asked: Parameters, act: Act, fault: Fault
    ) -> tuple[int, str, Manner]:
        """The answer to this key. Raises StripeProblem, which is not saved."""
        self.go_on()
        text = f"{request.url.path} {json.dumps(asked, sort_keys=True)}"
        digest = blake2b(text.encode(), digest_size=16).digest()
        with self._ledger.step() as db:
            saved = db.execute(
                "SELECT request_digest, http_status, answer FROM operations"
                " WHERE party = ? AND idempotency_key = ?",
                (PARTY, key),
            ).fetchone()
            if saved is not None:
                if saved["request_digest"] != digest:
                    why = "Keys for idempotent requests can only be used with the same parameters."
                    raise StripeProblem(400, "idempotency_error", None, why)
                return saved["http_status"], saved["answer"], Manner.WELL
            object_id = request.path_params.get("id", "")
            objects = self._objects(db)
            manner = _manner_of(db, objects, request.url.path, object_id, asked)
            status, refusal = 0, refuse_to_work(db, PARTY, key, manner)
            if refusal is None:
                status, text = _perform(db, act, objects, object_id, asked, fault)
                db.execute(
                    "INSERT INTO operations VALUES (?, ?, ?, ?, ?)", (PARTY, key, digest, status, text)
                )
        if refusal is not None:
            raise StripeProblem(refusal.status, "api_error", None, refusal.detail)
        return status, text, manner


def _perform(
    db: Connection, act: Act, objects: Objects, object_id: str, asked: Parameters, fault: Fault
) -> tuple[int, str]:
    """What is saved under the key: the answer, or the error. What was refused did nothing."""
    db.execute("SAVEPOINT act")
    try:
        if fault.saves_error_before:
            raise SAVED_ERROR
        done = act(objects, object_id, asked)
        problem = declined(done) if done.get("object") == INTENT else None
    except StripeProblem as error:
        db.execute("ROLLBACK TO act")
        problem, done = error, {}
    finally:
        db.execute("RELEASE act")
    if fault.saves_error_after and problem is None:
        problem = SAVED_ERROR
    if problem is not None:
        return problem.status, json.dumps({"error": problem.error})
    return 200, json.dumps(seen(done))


def _intent(objects: Objects, object_id: str) -> Object:
    return objects.find(INTENT, object_id)


def _confirm(objects: Objects, object_id: str, asked: Parameters) -> Object:
    if asked.get("off_session") not in ("true", True):
        raise invalid("parameter_missing", "the sandbox confirms off-session", param="off_session")
    return objects.confirm(objects.find(INTENT, object_id))


def _manner_of(db: Connection, objects: Objects, path: str, object_id: str, asked: Parameters) -> Manner:
    """By the card: of what is to be authorised, or of what was."""
    if path.endswith("/confirm"):
        method = objects.find(INTENT, object_id)["_method"]
        return provider.card_of(METHODS[method].card).manner
    if path == "/v1/refunds":
        object_id = str(asked.get("payment_intent", ""))
    if object_id.startswith("cus_"):
        reference = str((asked.get("metadata") or {}).get("order_id", ""))
    elif object_id:
        reference = objects.find(INTENT, object_id)["_reference"]
    else:
        return Manner.WELL
    return provider.payment_of(db, reference).card.manner


def _expanded(objects: Objects, object_id: str, asked: Parameters) -> Object:
    intent = objects.find(INTENT, object_id)
    if intent["latest_charge"] and "latest_charge" in _items(asked.get("expand")):
        intent["latest_charge"] = objects.charge_of(intent)
    return intent


def _listed(objects: Objects, kind: str, parent: str, asked: Parameters) -> Object:
    limit = str(asked.get("limit", PAGE))
    size = min(int(limit), MAX_PAGE) if limit.isdigit() else PAGE
    found, more = objects.of_parent(kind, parent, asked.get("starting_after"), size)
    return {"object": "list", "data": [seen(one) for one in found], "has_more": more}


def _items(given: Any) -> list[Any]:
    return list(given.values()) if isinstance(given, Mapping) else []


def _authenticate(request: Request) -> None:
    if not request.headers.get("authorization", "").startswith("Bearer sk_"):
        raise StripeProblem(401, "invalid_request_error", None, "Invalid API Key provided.")


def _admit(request: Request) -> str:
    """The request's Idempotency-Key. Raises StripeProblem."""
    _authenticate(request)
    key = request.headers.get("idempotency-key", "")
    if not 0 < len(key) <= MAX_KEY_CHARACTERS:
        raise invalid("parameter_missing", f"a key of 1 to {MAX_KEY_CHARACTERS} characters is required")
    return key


def _nested(form: str) -> Parameters:
    """`metadata[order_id]=1` as Stripe reads it. Raises StripeProblem for one name in two forms."""
    found: Parameters = {}
    for name, value in parse_qsl(form, keep_blank_values=True):
        first, *rest = name.replace("]", "").split("[")
        into = found
        for part, inner in zip([first, *rest], rest, strict=False):
            del inner
            into = into.setdefault(part, {})
            if not isinstance(into, dict):
                raise invalid("parameter_invalid", f"{name} is given in two forms")
        into[rest[-1] if rest else first] = value
    return found


def _answered(problem: StripeProblem) -> Response:
    headers = {"Retry-After": "1"} if problem.status == 429 else None
    body = json.dumps({"error": problem.error})
    return Response(body, problem.status, headers=headers, media_type=JSON_TYPE)
