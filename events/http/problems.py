"""What a request is answered that goes wrong: problem details, in the form of RFC 9457."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.http.intake import IntakeClosed
from events.runtime.worker import Overloaded
from events.storage.database import AWAY, Locked
from events.storage.repository import StateNotUnderstood
from events.storage.retention import Forgotten
from events.telemetry.log import log

RETRY_AFTER_SECONDS = 2
PROBLEM_TYPE = "application/problem+json"
# For the documents of routes that ask something of an order.
FORGOTTEN = {"description": "The order ended long ago and was forgotten"}


class Problem(Exception):
    """A response in RFC 9457's form: a status, a sentence, and what else helps the caller."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.more = more


class Fault(BaseModel):
    """One thing that is wrong with a request, and where."""

    at: str
    problem: str


class ProblemDetails(BaseModel):
    """A problem as it is answered. Some have more fields, as their route says."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    errors: list[Fault] = Field(default_factory=list, description="Of a request that is not valid.")


def not_valid(at: str, problem: str) -> Problem:
    """A request with one fault."""
    return Problem(422, "the request is not valid", errors=[{"at": at, "problem": problem}])


def answer_with_problems(app: FastAPI) -> None:
    """Have every error that leaves a route answered with a problem."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        return problem_response(problem_of(error))

    for kind in _PROBLEMS.keys() - {Exception}:
        app.add_exception_handler(kind, answer)
    app.add_middleware(AnsweredErrors)


class AnsweredErrors:
    """Answers what nobody expected, and keeps the connection.

    Starlette's own handler for Exception raises it again once it is answered: the server then closes the
    connection, and a client's next request on it is lost.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            # An answer that has begun can only be broken off.
            if begun or scope["type"] != "http":
                raise
            await problem_response(problem_of(error))(scope, receive, send)


def problem_of(error: Exception) -> Problem:
    """What a request is answered that ended with this error: by the nearest class that has an answer."""
    return next(_PROBLEMS[kind](error) for kind in type(error).__mro__ if kind in _PROBLEMS)


def problem_response(problem: Problem) -> JSONResponse:
    """The response that tells of it."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        **problem.more,
    }
    return JSONResponse(body, problem.status, problem.headers, PROBLEM_TYPE)


def _invalid(error: RequestValidationError) -> Problem:
    errors = [_fault(found) for found in error.errors()]
    return Problem(422, "the request is not valid", errors=errors)


def _fault(found: dict[str, Any]) -> dict[str, str]:
    if found["type"] == "json_invalid":
        return {"at": "body", "problem": found["ctx"]["error"]}
    return {"at": ".".join(map(str, found["loc"])), "problem": found["msg"]}


def _come_back(detail: str) -> Problem:
    return Problem(503, detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def _unexpected(error: Exception) -> Problem:
    log.error("request_failed", exc_info=error)
    return Problem(500, "this should not have happened; it is in the log")


_PROBLEMS: dict[type[Any], Callable[[Any], Problem]] = {
    Problem: lambda error: error,
    HTTPException: lambda error: Problem(error.status_code, str(error.detail), headers=error.headers),
    RequestValidationError: _invalid,
    Forgotten: lambda error: Problem(410, str(error)),
    Overloaded: lambda _: _come_back("more requests are waiting than this service takes"),
    IntakeClosed: lambda error: _come_back(str(error)),
    Locked: lambda _: _come_back(
        "another session of the database holds a lock on this; retry with the same Idempotency-Key"
    ),
    TimeoutError: lambda _: _come_back("not answered in time; retry with the same Idempotency-Key"),
    StateNotUnderstood: lambda _: _come_back("this order is for a replica of a newer release"),
    Exception: _unexpected,
} | {kind: lambda _: _come_back("the database is away") for kind in AWAY}
