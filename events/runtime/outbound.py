"""How a gateway speaks HTTP to an outside party: pooled, bounded, and exact about what a failure means.

What an adapter gets is an answer or CallFailed, which says whether the work may have been done all the same.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import quote

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)
from pydantic import BaseModel, JsonValue, StringConstraints, ValidationError
from pydantic_core import to_json
from yarl import URL

from events.runtime.calls import CallFailed
from events.runtime.circuit import CircuitBreaker, Request
from events.runtime.settings import ServiceSettings
from events.runtime.tracing import current_traceparent, note_on_current

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
        self._connections = settings.call_concurrency
        self._breaker = CircuitBreaker(name, settings)
        self._timeout = ClientTimeout(
            total=settings.call_timeout_seconds,
            sock_connect=min(CONNECT_TIMEOUT_SECONDS, settings.call_timeout_seconds),
        )
        self._session: ClientSession | None = None

    async def open(self) -> None:
        """Make the connection pool; nothing is connected yet."""
        self._session = ClientSession(
            connector=TCPConnector(limit=self._connections),
            timeout=self._timeout,
            cookie_jar=DummyCookieJar(),
            headers={"Accept": "application/json", "Content-Type": "application/json"},
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

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
        with self._breaker.request() as request:
            return await self._exchange(request, method, path, body, key)

    async def _exchange(
        self, request: Request, method: str, path: str, body: bytes | None, key: str | None
    ) -> Reply:
        assert self._session is not None, "not open"
        url = URL(self._base_url + path, encoded=True)
        headers = {} if key is None else {"Idempotency-Key": key}
        if (traceparent := current_traceparent()) is not None:
            headers["traceparent"] = traceparent
            note_on_current({"http.request.method": method, "url.full": str(url)})
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
                note_on_current({"http.response.status_code": status})
                answered = status < 500 and status != TOO_MANY_REQUESTS
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        request.alive = answered
                        raise CallFailed(f"{self._name}_answer_too_large", maybe_done=key is not None)
        except (ClientConnectorError, ConnectionTimeoutError):
            raise CallFailed(f"{self._name}_unreachable", maybe_done=False) from None
        except TimeoutError:
            raise CallFailed(f"{self._name}_timeout", maybe_done=key is not None) from None
        except (ClientError, OSError):
            raise CallFailed(f"{self._name}_answer_lost", maybe_done=key is not None) from None
        request.alive = answered
        if not answered:
            # A 5xx may come from a proxy that gave up on a provider that did not.
            maybe_done = key is not None and status != TOO_MANY_REQUESTS
            raise CallFailed(f"{self._name}_answered_{status}", maybe_done=maybe_done)
        return Reply(self._name, status, bytes(content))


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
