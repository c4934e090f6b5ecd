"""What comes in and goes out over HTTP: JSON, checked and bounded, and what a bad request is answered."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from events.strict_json import JSON_TYPE, is_json_type, parsed

Reference = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class Body(BaseModel):
    """A request body: exactly these fields, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class OnReference(Body):
    """A request that names an order's reference and nothing else."""

    reference: Reference


BodyT = TypeVar("BodyT", bound=Body)


class Problem(Exception):
    """What a request without a business answer gets, as in RFC 9457. `kind` ends the URI of its type."""

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


async def read_body(request: Request, body: type[BodyT], limit_bytes: int) -> BodyT:
    """The body as its model.

    Raises Problem: 400 not JSON, or ambiguous; 413 too large; 415 of another type; 422 wrong fields or types.
    """
    given = request.headers.get("content-type", "")
    if not is_json_type(given):
        raise Problem(415, "not-json", "Unsupported Media Type", f"a body is {JSON_TYPE}, not {given!r}")
    content, more = b"", True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        content += message.get("body", b"")
        more = message.get("more_body", False)
        if len(content) > limit_bytes:
            # The rest is not worth reading, so the connection cannot be used again.
            close = {"Connection": "close"}
            raise Problem(
                413, "body-too-large", "Body too large", f"limit: {limit_bytes} bytes", headers=close
            )
    try:
        parsed(content)
        return body.model_validate_json(content)
    except json.JSONDecodeError as error:
        raise Problem(400, "malformed-json", "The body is not JSON", error.msg) from None
    except ValidationError as error:
        raise malformed(error) from None


def json_response(text: str | bytes, http_status: int = 200) -> Response:
    """A response whose body is JSON already."""
    return Response(text, http_status, media_type=JSON_TYPE)


async def answer_problem(_request: Request, problem: Exception) -> Response:
    """The exception handler for `Problem`."""
    assert isinstance(problem, Problem)
    return problem.response()


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """The framework's own refusals (no such path, wrong method) in the same form."""
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}"
    kind = error.detail.lower().replace(" ", "-")
    return Problem(error.status_code, kind, error.detail, detail, headers=error.headers).response()


async def answer_disconnect(_request: Request, _error: Exception) -> Response:
    """The client went away in the middle of its body: nobody reads this, nothing was done."""
    return Response(status_code=400)


async def answer_bug(_request: Request, _error: Exception) -> Response:
    """Whatever was not foreseen: described in general here, and logged in full by the server."""
    return Problem(
        500, "internal-error", "Internal error", "the sandbox's log says what went wrong"
    ).response()
