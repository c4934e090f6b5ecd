"""How a gateway speaks HTTP to an outside party: pooled, bounded, and exact about what a failure means.

What an adapter gets is an answer or CallFailed, which says whether the work may have been done all the same.
aiohttp's client does the speaking. No redirect is followed, no cookie kept, and no proxy or password is taken
from the environment.
"""

import asyncio
import random
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import quote, urlencode

from aiohttp import (
    ClientConnectionError,
    ClientConnectorError,
    ClientError,
    ClientHandlerType,
    ClientOSError,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    ServerDisconnectedError,
    TCPConnector,
    encode_basic_auth,
)
from pydantic import BaseModel, JsonValue, SecretStr, StringConstraints, ValidationError
from pydantic_core import to_json
from yarl import URL

from events.outbound.circuit import CircuitBreaker
from events.outbound.dispatcher import CallFailed
from events.runtime.settings import ServiceSettings
from events.telemetry.redaction import HIDDEN
from events.telemetry.tracing import current_traceparent, is_tracing, note_on_current

MAX_REASON_CHARACTERS = 200
# More lines than any answer of an API has in its head.
MAX_HEADERS = 64
OK, NOT_FOUND, CONFLICT, TOO_MANY_REQUESTS = 200, 404, 409, 429
# Whoever only asks changes nothing.
SAFE_METHODS = frozenset({"GET", "HEAD"})
# On an answer that was kept under its Idempotency-Key, as Stripe and others mark it.
REPLAYED = "Idempotent-Replayed"
JSON, FORM = "application/json", "application/x-www-form-urlencoded"

HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s]+")]
Fields = Mapping[str, str] | Sequence[tuple[str, str]]

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


async def bounded_body(response: ClientResponse, limit_bytes: int) -> bytes | None:
    """The whole body of a response; None of one that is larger. Raises what aiohttp raises."""
    content = b""
    while not response.content.at_eof():
        content += await response.content.readany()
        if len(content) > limit_bytes:
            return None
    return content


class HttpParty:
    """One outside party behind a base URL and a circuit; as many requests under way as calls may be.

    User and password of the URL are sent as Basic authentication, unless there is a bearer token; `headers`
    go out with every request. Its methods raise ValueError for a header that is not one line of text.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        settings: ServiceSettings,
        *,
        bearer_token: SecretStr | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        url = URL(base_url)
        self._name = name
        # Spans show it, so there is no user, password or query in it.
        self._base_url = f"{url.origin()}{url.raw_path.rstrip('/')}"
        self._settings = settings
        self._breaker = CircuitBreaker(name, settings)
        # Answers are short: to unpack them would take longer than to read them. What is packed all the same
        # is unpacked, as far as the bound allows.
        self._headers = {"User-Agent": "murmuration", "Accept": JSON, "Accept-Encoding": "identity"}
        if bearer_token is not None:
            self._headers["Authorization"] = f"Bearer {bearer_token.get_secret_value()}"
        elif url.user is not None:
            self._headers["Authorization"] = encode_basic_auth(url.user, url.password or "")
        self._headers.update(headers or {})
        _check(self._headers)
        self._session: ClientSession | None = None

    async def open(self) -> None:
        """Get ready; connections are made when they are needed."""
        self._session = self._session or self._new_session()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def get(
        self,
        path: str,
        *,
        last_part: str | None = None,
        query: Fields | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """GET `path`, or `path`/`last_part`, the latter quoted. Raises CallFailed; nothing was done then."""
        return await self.request("GET", path, last_part=last_part, query=query, headers=headers)

    async def post(
        self,
        path: str,
        body: dict[str, Any],
        *,
        idempotency_key: str,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """POST a JSON body. Raises CallFailed when another attempt may help."""
        given = {"Idempotency-Key": idempotency_key, **(headers or {})}
        return await self.request("POST", path, headers=given, content=to_json(body), content_type=JSON)

    async def post_form(
        self,
        path: str,
        fields: Fields,
        *,
        idempotency_key: str,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """POST a form. Raises CallFailed when another attempt may help."""
        given = {"Idempotency-Key": idempotency_key, **(headers or {})}
        content = urlencode(_pairs(fields)).encode("ascii")
        return await self.request("POST", path, headers=given, content=content, content_type=FORM)

    async def earlier_answer(self, idempotency_key: str) -> Reply | None:
        """What a POST under this key was answered, or None when none was carried out. Raises CallFailed."""
        reply = await self.get("/operations", last_part=idempotency_key)
        if reply.http_status == NOT_FOUND:
            return None
        if reply.http_status != OK:
            raise reply.unexpected()
        recorded = reply.read_as(_Recorded)
        return Reply(self._name, recorded.http_status, to_json(recorded.answer))

    async def request(
        self,
        method: str,
        path: str,
        *,
        last_part: str | None = None,
        query: Fields | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        content_type: str = JSON,
    ) -> Reply:
        """Ask anything; `path` is quoted already. Raises CallFailed when another attempt may help.

        A limit that is over soon is waited for: then the rest of the attempt is not lost to it.
        """
        sent = dict(headers or {})
        _check(sent)
        if content is not None:
            sent["Content-Type"] = content_type
        if is_tracing() and (traceparent := current_traceparent()) is not None:
            sent["traceparent"] = traceparent
            # Without the query and the last part: they may be secret, or say who the customer is.
            shown = self._base_url + path + (f"/{HIDDEN}" if last_part is not None else "")
            note_on_current({"http.request.method": method, "url.full": shown})
        part = f"/{quote(last_part, safe='')}" if last_part is not None else ""
        url = self._base_url + path + part + (f"?{urlencode(_pairs(query))}" if query else "")
        left_seconds = self._settings.call_limit_wait_seconds
        while True:
            try:
                return await self._request(method, URL(url, encoded=True), sent, content)
            except _Limited as limited:
                pause_seconds = limited.wait_seconds * random.uniform(1.0, 1.2)  # noqa: S311
                left_seconds -= pause_seconds
                if not limited.wait_seconds or left_seconds < 0:
                    raise
            await asyncio.sleep(pause_seconds)

    async def _request(
        self, method: str, url: URL, headers: Mapping[str, str], content: bytes | None
    ) -> Reply:
        maybe_done = method not in SAFE_METHODS
        with self._breaker.request() as request:
            try:
                status, body, answered = await self._exchange(method, url, headers, content)
            except _Unreachable:
                raise CallFailed(f"{self._name}_unreachable", maybe_done=False) from None
            except TimeoutError:
                raise CallFailed(f"{self._name}_timeout", maybe_done=maybe_done) from None
            except ClientError:
                raise CallFailed(f"{self._name}_answer_lost", maybe_done=maybe_done) from None
            if is_tracing():
                note_on_current({"http.response.status_code": status})
            request.alive = status < 500 and status != TOO_MANY_REQUESTS
            if body is None:
                raise CallFailed(f"{self._name}_answer_too_large", maybe_done=maybe_done)
            if not request.alive:
                # A 5xx may come from a proxy that gave up on a provider that did not.
                limited, asked_seconds = status == TOO_MANY_REQUESTS, _seconds_in(answered.get("Retry-After"))
                raise (_Limited if limited else CallFailed)(
                    f"{self._name}_answered_{status}",
                    maybe_done=maybe_done and not limited,
                    wait_seconds=min(asked_seconds, self._settings.call_retry_after_cap_seconds),
                    replayed=answered.get(REPLAYED) == "true",
                )
        return Reply(self._name, status, body)

    async def _exchange(
        self, method: str, url: URL, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[int, bytes | None, Mapping[str, str]]:
        """The status, the body (None for one that is too large), and the headers.

        Raises _Unreachable when nothing was sent, TimeoutError, or ClientError for an answer that was lost.
        """
        session = self._session = self._session or self._new_session()
        # aiohttp never sends a POST again.
        middlewares = () if method in (*SAFE_METHODS, "POST") else (_sent_once,)
        while True:
            try:
                response = await session.request(
                    method,
                    url,
                    headers=headers,
                    data=content,
                    allow_redirects=False,
                    middlewares=middlewares,
                )
            except _Spoilt:
                # It is closed now, and nothing was sent. There are no more of them than connections.
                continue
            except (ConnectionTimeoutError, ClientConnectorError):
                # Refused, too late, no such name, a certificate that does not hold.
                raise _Unreachable from None
            try:
                body = await self._read(response)
                return response.status, body, response.headers
            finally:
                response.release()

    async def _read(self, response: ClientResponse) -> bytes | None:
        if response.status < OK:
            # A change of protocols, which nobody asked for.
            raise ClientError
        return await bounded_body(response, self._settings.call_answer_limit_bytes)

    def _new_session(self) -> ClientSession:
        settings = self._settings
        return ClientSession(
            connector=TCPConnector(
                limit=settings.call_concurrency,
                keepalive_timeout=settings.idle_connection_seconds,
                # Made for each party: aiohttp's own reads the certificates when it is imported.
                ssl=ssl.create_default_context() if self._base_url.startswith("https:") else True,
            ),
            headers=self._headers,
            cookie_jar=DummyCookieJar(),
            request_class=_Request,
            timeout=ClientTimeout(
                total=settings.call_timeout_seconds,
                # The less, so that a call which never had a connection is known not to have been made.
                connect=min(settings.call_connect_timeout_seconds, settings.call_timeout_seconds / 2),
            ),
            max_headers=MAX_HEADERS,
        )


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


class _Request(ClientRequest):
    """A request that is never answered by what somebody sent before it.

    aiohttp keeps what arrives on an idle connection, and would take it for the answer to the next request on
    it (its issue 13656).
    """

    async def send(self, conn: Any) -> ClientResponse:
        """Send it, or raise _Spoilt: then the connection is closed."""
        if conn.protocol is not None and conn.protocol.should_close:
            raise _Spoilt
        return await super().send(conn)


async def _sent_once(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
    """aiohttp sends a PUT or DELETE again when its answer was lost; to that the answer may be another."""
    try:
        return await send(request)
    except ClientConnectorError:
        raise
    except (ClientOSError, ServerDisconnectedError) as error:
        raise ClientError(*error.args) from error


class _Limited(CallFailed):
    """429: nothing was done, for there were too many requests."""


class _Unreachable(Exception):
    """There was no connection to be had, so nothing was sent."""


class _Spoilt(ClientConnectionError):
    """Something came over a connection that nobody had asked for."""


class _Recorded(BaseModel):
    http_status: int
    answer: dict[str, JsonValue]


def _seconds_in(retry_after: str | None) -> float:
    """What Retry-After says in seconds. One that is a date is left to the retry policy."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return 0.0
    return float(retry_after[:9])


def _check(headers: Mapping[str, str]) -> None:
    """Raise ValueError, which does not repeat the value: it may be secret."""
    for name, value in headers.items():
        if not value.isprintable():
            raise ValueError(f"{name} is not one line of text")


def _pairs(fields: Fields) -> Sequence[tuple[str, str]]:
    return list(fields.items()) if isinstance(fields, Mapping) else fields
