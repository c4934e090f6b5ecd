"""How every POST to a party of the sandbox is answered: once per idempotency key, whatever goes wrong.

What goes wrong does so on purpose: by test token or address (`Manner`), or for a whole party (`PUT /faults`).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import blake2b
from random import Random
from secrets import token_hex
from sqlite3 import Connection
from typing import Any, Generic, Literal, get_args

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from compose.sandbox.http import Body, BodyT, Problem, json_response, read_body
from compose.sandbox.ledger import Ledger

Target = Literal["provider", "carrier", "push", "mail", "directory"]
TARGETS: tuple[Target, ...] = get_args(Target)
MAX_LATENCY_SECONDS = 60
FLAKY_FAILURES = 2


class Manner(StrEnum):
    """How a party goes about one operation."""

    WELL = "well"
    SLOW = "slow"
    """Does the work, answers late."""
    FAILS = "fails"
    """500, always; never does the work."""
    FLAKY = "flaky"
    """503 to the first two attempts at each operation, then well."""
    LOST = "lost"
    """Does the work, then closes the connection without an answer; a repeat is answered."""


class FaultRule(Body):
    """What `PUT /faults` takes. Drawn with a seed, so a drill can be repeated."""

    target: Literal[Target, "all"] = "all"
    latency_seconds: float = Field(default=0, ge=0, le=MAX_LATENCY_SECONDS)
    fail_rate: float = Field(default=0, ge=0, le=1, description="503 before any work")
    lose_answer_rate: float = Field(
        default=0, ge=0, le=1, description="the work is done, the answer is not sent"
    )
    rate_limit_rate: float = Field(default=0, ge=0, le=1, description="429 before any work")
    saved_error_rate: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Stripe's door: a 500 kept under the key, half of them after the work",
    )
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """What one request meets."""

    latency_seconds: float = 0
    fails: bool = False
    loses_answer: bool = False
    limits_rate: bool = False
    saves_error_before: bool = False
    saves_error_after: bool = False


NO_FAULT = Fault()


class Faults:
    """The rules in force, one a target; a later rule for the same target replaces the earlier."""

    def __init__(self) -> None:
        self._rules: dict[Target, tuple[FaultRule, Random]] = {}

    def put(self, rule: FaultRule) -> None:
        """Put a rule in force."""
        for target in TARGETS if rule.target == "all" else (rule.target,):
            # One generator a target: what one party draws does not depend on the traffic of another.
            self._rules[target] = (rule, Random(f"{rule.seed}:{target}"))  # noqa: S311 - not for secrets

    def clear(self) -> None:
        """Behave again."""
        self._rules.clear()

    def in_force(self) -> dict[str, FaultRule]:
        """Target by target, the rule in force."""
        return {target: rule for target, (rule, _random) in self._rules.items()}

    def draw(self, target: Target) -> Fault:
        """What the next request to this party meets."""
        if not self._rules or target not in self._rules:
            return NO_FAULT
        rule, random = self._rules[target]
        fails, loses = random.random() < rule.fail_rate, random.random() < rule.lose_answer_rate
        # Drawn only by rules that have them: so that a seed of before means the same.
        saved = random.random() if rule.saved_error_rate else 1.0
        return Fault(
            latency_seconds=rule.latency_seconds,
            fails=fails,
            loses_answer=loses,
            limits_rate=bool(rule.rate_limit_rate) and random.random() < rule.rate_limit_rate,
            saves_error_before=saved < rule.saved_error_rate / 2,
            saves_error_after=rule.saved_error_rate / 2 <= saved < rule.saved_error_rate,
        )


class Delays:
    """Answers made to wait, with a bound on how many wait at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting = 0

    async def wait(self, seconds: float) -> None:
        """Hold one answer back. Raises Problem (503, Retry-After) when too many wait already."""
        if self._waiting >= self._limit:
            raise Problem(
                503,
                "too-many-waiting",
                "Too many slow requests",
                f"{self._limit} answers are being held back already",
                headers={"Retry-After": "1"},
            )
        self._waiting += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._waiting -= 1


Party = Literal["provider", "carrier", "push"]
MAX_KEY_CHARACTERS = 255
NOT_DONE = "nothing was done; try again with the same Idempotency-Key"


@dataclass(frozen=True, slots=True)
class Answer:
    """A business answer, good or bad; it is remembered under its idempotency key."""

    http_status: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation(Generic[BodyT]):
    """One thing a party can be asked. `perform` runs inside a ledger step, at most once per key."""

    party: Party
    name: str
    body: type[BodyT]
    perform: Callable[[Connection, BodyT], Answer]
    manner: Callable[[Connection, BodyT], Manner]


class Dropped(Response):
    """No answer at all: the TCP connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Abort the connection and wait until the server has noticed, so that it answers nothing either."""
        scope["state"]["transport"].abort()
        while (await receive())["type"] != "http.disconnect":
            pass


class Desk:
    """Takes the parties' POSTs and status look-ups."""

    def __init__(
        self, ledger: Ledger, faults: Faults, delays: Delays, *, slow_seconds: float, body_limit_bytes: int
    ) -> None:
        self._ledger = ledger
        self._faults = faults
        self._delays = delays
        self._slow_seconds = slow_seconds
        self._body_limit_bytes = body_limit_bytes

    def takes(self, operation: Operation[BodyT]) -> "Counter[BodyT]":
        """The endpoint of one operation."""
        return Counter(self, operation)

    async def answer(self, operation: Operation[BodyT], request: Request) -> Response:
        """Do the work, if it is to be done, and say what to answer. Raises Problem."""
        key = idempotency_key(request)
        body = await read_body(request, operation.body, self._body_limit_bytes)
        fault = self._faults.draw(operation.party)
        if fault.latency_seconds:
            await self._delays.wait(fault.latency_seconds)
        if fault.limits_rate:
            headers = {"Retry-After": "1"}
            raise Problem(429, "rate-limit", "Too many requests", NOT_DONE, headers=headers)
        if fault.fails:
            raise Problem(503, "fault-drill", "Unavailable", NOT_DONE)
        answer, manner = await self._perform_once(operation, key, body)
        if manner is Manner.SLOW:
            await self._delays.wait(self._slow_seconds)
        if manner is Manner.LOST or fault.loses_answer:
            return Dropped()
        return answer

    def look_up(self, party: Party) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint that says what became of the operation under a key."""

        async def endpoint(request: Request) -> Response:
            fault = self._faults.draw(party)
            if fault.latency_seconds:
                await self._delays.wait(fault.latency_seconds)
            if fault.fails:
                raise Problem(503, "fault-drill", "Unavailable", "try again")
            found = await self._ledger.rows(
                "SELECT http_status, answer FROM operations WHERE party = ? AND idempotency_key = ?",
                party,
                request.path_params["idempotency_key"],
            )
            if not found:
                raise Problem(404, "unknown-key", "Unknown key", "no operation was done under this key")
            return json_response(f'{{"http_status":{found[0]["http_status"]},"answer":{found[0]["answer"]}}}')

        return endpoint

    async def _perform_once(
        self, operation: Operation[BodyT], key: str, body: BodyT
    ) -> tuple[Response, Manner]:
        """The answer to this key, and the manner in which to give it: a recorded one is given well."""
        digest = blake2b(f"{operation.name} {body.model_dump_json()}".encode(), digest_size=16).digest()
        manner = Manner.WELL
        failure: Problem | None = None
        with self._ledger.step() as db:
            recorded = db.execute(
                "SELECT request_digest, http_status, answer FROM operations"
                " WHERE party = ? AND idempotency_key = ?",
                (operation.party, key),
            ).fetchone()
            if recorded is not None:
                known_digest, http_status, text = recorded
                if known_digest != digest:
                    raise Problem(
                        422,
                        "idempotency-key-reused",
                        "Idempotency key used for another request",
                        "this Idempotency-Key came with another operation or body before",
                    )
            else:
                manner = operation.manner(db, body)
                failure = refuse_to_work(db, operation.party, key, manner)
                http_status, text = 0, ""
                if failure is None:
                    answer = operation.perform(db, body)
                    http_status, text = answer.http_status, json.dumps(answer.body)
                    db.execute(
                        "INSERT INTO operations VALUES (?, ?, ?, ?, ?)",
                        (operation.party, key, digest, http_status, text),
                    )
        await self._ledger.committed()
        if failure is not None:
            raise failure
        return json_response(text, http_status), manner


class Counter(Generic[BodyT]):
    """Where one operation is asked for: as an ASGI application Starlette calls it without a layer more."""

    def __init__(self, desk: Desk, operation: Operation[BodyT]) -> None:
        self._desk = desk
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or raise Problem, which the application's exception handlers answer."""
        response = await self._desk.answer(self._operation, Request(scope, receive, send))
        await response(scope, receive, send)


def idempotency_key(request: Request) -> str:
    """The request's Idempotency-Key. Raises Problem (400) without a usable one."""
    key = request.headers.get("idempotency-key", "")
    if not 0 < len(key) <= MAX_KEY_CHARACTERS:
        raise Problem(
            400,
            "idempotency-key-missing",
            "Idempotency-Key is missing",
            f"an Idempotency-Key header of 1 to {MAX_KEY_CHARACTERS} characters is required",
        )
    return key


def new_id(prefix: str) -> str:
    """A fresh identifier in the style of `cap_5f0c...`."""
    return f"{prefix}_{token_hex(10)}"


def now() -> str:
    """The instant in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def refuse_to_work(db: Connection, party: str, key: str, manner: Manner) -> Problem | None:
    """What an attempt is answered that is not to do any work; None when it is."""
    if manner is Manner.FAILS:
        return Problem(500, "always-fails", "Internal error", "this token makes every attempt fail")
    if manner is Manner.FLAKY:
        attempts = db.execute(
            "INSERT INTO flaky_attempts VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET attempts = attempts + 1"
            " RETURNING attempts",
            (party, key),
        ).fetchone()[0]
        if attempts <= FLAKY_FAILURES:
            return Problem(503, "flaky", "Unavailable", NOT_DONE)
    return None
