"""Between an adapter and its party: passes requests on, but for those that are to meet a fault."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from aiohttp import ClientSession, web

LATE_SECONDS = 1.2


class Fault(StrEnum):
    """What becomes of a request that changes something."""

    LOST_BEFORE = "lost before the work"
    LOST_AFTER = "lost after the work"
    LATE = "answered too late"
    LIMITED = "429 with Retry-After"
    UNAVAILABLE = "503 before the work"
    IN_USE = "409 while another request is under way under its key"
    BROKE_AFTER = "502 after the work"
    SAVED_AFTER = "500 after the work, saved under its key"
    GARBAGE = "an answer that is nothing"
    TRUNCATED = "an answer that ends in the middle"


@dataclass
class Faulty:
    """Lets the next POSTs meet a fault. `saved`: the keys under which 500 is answered for ever."""

    upstream: str
    url: str = ""
    fault: Fault | None = None
    times: int = 0
    saved: set[str] = field(default_factory=set)
    saves_before: bool = False
    asked: list[str] = field(default_factory=list)
    _session: ClientSession | None = None

    def meets(self, fault: Fault, times: int = 1) -> None:
        self.fault, self.times = fault, times

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        body = await request.read()
        key = request.headers.get("Idempotency-Key", "")
        if request.method == "POST" and key in self.saved:
            return saved_error({"Idempotent-Replayed": "true"})
        if request.method == "POST" and self.saves_before:
            self.saved.add(key)
            return saved_error()
        fault = None
        if request.method == "POST" and self.times > 0:
            self.times -= 1
            fault = self.fault
        match fault:
            case Fault.LOST_BEFORE:
                return self._drop(request)
            case Fault.LIMITED:
                headers = {"Retry-After": "3"}
                return web.json_response({"error": {"type": "rate_limit"}}, status=429, headers=headers)
            case Fault.IN_USE:
                error = {"type": "invalid_request_error", "code": "idempotency_key_in_use"}
                return web.json_response({"error": error}, status=409)
            case Fault.UNAVAILABLE:
                return web.json_response({"error": {"type": "api_error"}}, status=503)
            case _:
                pass
        status, answer, kind = await self._pass_on(request, body)
        return await self._answer(request, fault, key, status, answer, kind)

    async def _answer(
        self, request: web.Request, fault: Fault | None, key: str, status: int, answer: bytes, kind: str
    ) -> web.StreamResponse:
        match fault:
            case Fault.LOST_AFTER:
                return self._drop(request)
            case Fault.LATE:
                await asyncio.sleep(LATE_SECONDS)
            case Fault.BROKE_AFTER:
                return web.json_response({}, status=502)
            case Fault.SAVED_AFTER:
                self.saved.add(key)
                return saved_error()
            case Fault.GARBAGE:
                answer = b"<html>"
            case Fault.TRUNCATED:
                response = web.StreamResponse(status=status, headers={"Content-Type": kind})
                response.content_length = len(answer) + 10
                await response.prepare(request)
                await response.write(answer)
                return self._drop(request)
            case _:
                pass
        return web.Response(status=status, body=answer, content_type=kind)

    async def _pass_on(self, request: web.Request, body: bytes) -> tuple[int, bytes, str]:
        assert self._session is not None
        kept = ("Authorization", "Content-Type", "Host", "Idempotency-Key")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        async with self._session.request(
            request.method, f"{self.upstream}{request.path_qs}", data=body, headers=headers
        ) as answer:
            return answer.status, await answer.read(), answer.content_type

    @staticmethod
    def _drop(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()


def saved_error(headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"type": "api_error"}}, status=500, headers=headers)


@asynccontextmanager
async def faulty(upstream: str) -> AsyncIterator[Faulty]:
    """Listening on a port of its own."""
    between = Faulty(upstream)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", between.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    between.url = f"http://{host}:{port}"
    async with ClientSession() as session:
        between._session = session
        yield between
    await runner.cleanup()
