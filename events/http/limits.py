"""What a process takes of a request and no more: how many, how large, and in which form."""

import re
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.http.problems import Problem, not_valid, problem_of, problem_response
from events.runtime.worker import Overloaded
from events.strict_json import JSON_TYPE, is_json_type, parsed

_NO_NUL = "the character U+0000 is allowed nowhere"
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def _written_plainly(value: Any) -> Any:
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise PydanticCustomError("number_parsing", "Input should be a number, in digits alone")
    return value


# For a number in a path or a query, where all is text: not 1_000, nor " 1", nor 1e3.
InDigits = BeforeValidator(_written_plainly)


class StrictRequest(Request):
    """A request whose body is JSON that nobody can read differently."""

    async def json(self) -> Any:
        """What the body says. Raises json.JSONDecodeError, for which FastAPI has an answer."""
        return parsed(await self.body())


class StrictRoute(APIRoute):
    """A route that takes a body only as `application/json`, and only as StrictRequest reads it."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """As FastAPI documents it for a request class of one's own."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_strictly(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            given = request.headers.get("content-type", "")
            if not is_json_type(given) and await strict.body():
                raise Problem(415, f"a body is {JSON_TYPE} here, not {given or 'of no type'}")
            return await handle(strict)

        return handle_strictly


class WithoutNul:
    """Refuses requests that have the character U+0000 in their path or query: nothing can keep it.

    StrictRequest refuses it in bodies, and the server in headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = _place_of_nul(scope) if scope["type"] == "http" else None
        if place is None:
            await self._app(scope, receive, send)
        else:
            await problem_response(not_valid(place, _NO_NUL))(scope, receive, send)


def _place_of_nul(scope: Scope) -> str | None:
    if "\0" in scope["path"]:
        return "path"
    query: bytes = scope["query_string"]
    return "query" if b"%00" in query or b"\0" in query else None


class BoundedRequests:
    """Refuses more requests at a time than a process takes, but for those to paths that are always open."""

    def __init__(self, app: ASGIApp, max_open: int, always_open: Collection[str]) -> None:
        self._app = app
        self._max_open = max_open
        self._always_open = always_open
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._always_open:
            await self._app(scope, receive, send)
            return
        if self._open >= self._max_open:
            await problem_response(problem_of(Overloaded()))(scope, receive, send)
            return
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1


class BoundedBody:
    """Refuses request bodies above a size, whether they announce it or not."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            problem = Problem(413, f"the body may have at most {self._max_bytes} bytes")
            await problem_response(problem)(scope, receive, send)
            return
        received = 0

        async def bounded_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, f"the body may have at most {self._max_bytes} bytes")
            return message

        await self._app(scope, bounded_receive, send)
