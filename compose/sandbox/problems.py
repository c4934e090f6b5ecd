"""Answers to bad requests: RFC 9457 problem details."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


class Problem(Exception):
    """A request that gets no business answer. `kind` is the last part of the problem's type URI."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.headers = headers
        self.errors = errors

    def response(self) -> Response:
        """The problem as application/problem+json."""
        body: dict[str, Any] = {
            "type": f"urn:murmuration:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors is not None:
            body["errors"] = self.errors
        return Response(
            json.dumps(body), self.status, headers=self.headers, media_type="application/problem+json"
        )


def malformed(error: ValidationError) -> Problem:
    """What is wrong with a body, field by field. The values stay out: they may be personal."""
    errors = [
        {"field": ".".join(str(part) for part in item["loc"]), "message": item["msg"]}
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    first = errors[0]
    detail = f"{first['field'] or 'body'}: {first['message']}"
    return Problem(422, "invalid-body", "The body is not what this operation takes", detail, errors=errors)


def not_json(error: json.JSONDecodeError) -> Problem:
    """A body that is not JSON, or that two programs would read differently."""
    return Problem(400, "malformed-json", "The body is not JSON", error.msg)


async def answer_problem(_request: Request, problem: Exception) -> Response:
    """Starlette's exception handler for `Problem`."""
    assert isinstance(problem, Problem)
    return problem.response()


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (no such path, wrong method) in the same form."""
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}"
    kind = error.detail.lower().replace(" ", "-")
    return Problem(error.status_code, kind, error.detail, detail, headers=error.headers).response()


async def answer_disconnect(_request: Request, _error: Exception) -> Response:
    """The client went away in the middle of its body: nobody reads this, nothing was done."""
    return Response(status_code=400)


async def answer_bug(_request: Request, _error: Exception) -> Response:
    """Whatever was not foreseen: told in general here, and logged in full by the server."""
    return Problem(
        500, "internal-error", "Internal error", "the sandbox's log says what went wrong"
    ).response()
