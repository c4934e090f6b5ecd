"""How a gateway speaks HTTP to an outside party: pooled, bounded, and exact about what a failure means.

What an adapter gets is an answer or CallFailed, which says whether the work may have been done all the same.
"""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, JsonValue, StringConstraints, ValidationError
from pydantic_core import to_json

from events.outbound.circuit import CircuitBreaker
from events.outbound.dispatcher import CallFailed
from events.outbound.http_client import AnswerLost, AnswerTooLarge, HttpClient, Unreachable
from events.runtime.settings import ServiceSettings
from events.telemetry.tracing import current_traceparent, is_tracing, note_on_current

MAX_ANSWER_BYTES = 256 * 1024
MAX_REASON_CHARACTERS = 200
CONNECT_TIMEOUT_SECONDS = 2.0
OK, NOT_FOUND, TOO_MANY_REQUESTS = 200, 404, 429

HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+")]

AnswerT = TypeVar("AnswerT", bound=BaseModel)


class OutsideParty(Protocol):
    """Whatever an adapter speaks to holds connections."""

    async def open(self) -> None:
        """Get ready. Does not need the other side to be there."""

    async def close(self) -> None:
        """Let go of the connections."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The other side did what it was asked."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The other side will not do it, however often it is asked. `reason` is a word of its, not a sentence."""

    reason: str

    def __post_init__(self) -> None:
        # Reasons end up in facts, which bound them.
        object.__setattr__(self, "reason", self.reason[:MAX_REASON_CHARACTERS] or "unknown")


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer that is not a failure of the other side: below 500, and not "too many requests"."""

    party: str
    http_status: int
    content: bytes

    def read_as(self, kind: type[AnswerT]) -> AnswerT:
        """The body. Raises CallFailed when it is nothing of the kind."""
        try:
            return kind.model_validate_json(self.content)
        except ValidationError:
            raise self.unexpected() from None

    def unexpected(self) -> CallFailed:
        """What to raise for an answer nobody agreed on: wrong credentials, a misread contract, a proxy."""
        # Below 300 the other side seems to have done it; the look-up will say.
        return CallFailed(f"{self.party}_answered_{self.http_status}", maybe_done=self.http_status < 300)


class HttpParty:
    """One outside party behind a base URL and a circuit; as many requests under way as calls may be."""

    def __init__(self, name: str, base_url: str, settings: ServiceSettings) -> None:
        self._name = name
        self._base_url = base_url.rstrip("/")
        self._breaker = CircuitBreaker(name, settings)
        self._timeout_seconds = settings.call_timeout_seconds
        self._client = HttpClient(
            base_url,
            connections=settings.call_concurrency,
            connect_timeout_seconds=min(CONNECT_TIMEOUT_SECONDS, settings.call_timeout_seconds),
            answer_limit_bytes=MAX_ANSWER_BYTES,
        )

    async def open(self) -> None:
        """Nothing to do: connections are made when they are needed."""

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def get(self, path: str, *, last_part: str) -> Reply:
        """GET `path`/`last_part`, the latter quoted. Raises CallFailed; a GET never does anything."""
        return await self._request("GET", f"{path}/{quote(last_part, safe='')}", None, None)

    async def post(self, path: str, body: dict[str, Any], *, idempotency_key: str) -> Reply:
        """POST a JSON body. Raises CallFailed when another attempt may help."""
        return await self._request("POST", path, to_json(body), idempotency_key)

    async def earlier_answer(self, idempotency_key: str) -> Reply | None:
        """What a POST under this key was answered, or None when none was carried out. Raises CallFailed."""
        reply = await self.get("/operations", last_part=idempotency_key)
        if reply.http_status == NOT_FOUND:
            return None
        if reply.http_status != OK:
            raise reply.unexpected()
        recorded = reply.read_as(_Recorded)
        return Reply(self._name, recorded.http_status, to_json(recorded.answer))

    async def _request(self, method: str, path: str, body: bytes | None, key: str | None) -> Reply:
        headers = {} if key is None else {"Idempotency-Key": key}
        if is_tracing() and (traceparent := current_traceparent()) is not None:
            headers["traceparent"] = traceparent
            note_on_current({"http.request.method": method, "url.full": self._base_url + path})
        with self._breaker.request() as request:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    answer = await self._client.request(method, path, headers, body)
            except Unreachable:
                raise CallFailed(f"{self._name}_unreachable", maybe_done=False) from None
            except TimeoutError:
                raise CallFailed(f"{self._name}_timeout", maybe_done=key is not None) from None
            except AnswerTooLarge as error:
                request.alive = _is_sign_of_life(error.status)
                raise CallFailed(f"{self._name}_answer_too_large", maybe_done=key is not None) from None
            except AnswerLost:
                raise CallFailed(f"{self._name}_answer_lost", maybe_done=key is not None) from None
            if is_tracing():
                note_on_current({"http.response.status_code": answer.status})
            request.alive = _is_sign_of_life(answer.status)
            if not request.alive:
                # A 5xx may come from a proxy that gave up on a provider that did not.
                maybe_done = key is not None and answer.status != TOO_MANY_REQUESTS
                raise CallFailed(f"{self._name}_answered_{answer.status}", maybe_done=maybe_done)
        return Reply(self._name, answer.status, answer.content)


class HttpAdapter:
    """What every adapter over one HttpParty has in common."""

    def __init__(self, party: HttpParty) -> None:
        self._party = party

    async def open(self) -> None:
        """Get ready."""
        await self._party.open()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._party.close()


class _Recorded(BaseModel):
    http_status: int
    answer: dict[str, JsonValue]


def _is_sign_of_life(status: int) -> bool:
    """0 is an answer that was too large before its status was known."""
    return 0 < status < 500 and status != TOO_MANY_REQUESTS
