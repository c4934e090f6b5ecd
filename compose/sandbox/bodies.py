"""What comes in and goes out over HTTP: JSON, checked, bounded."""

import json
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from compose.sandbox.problems import Problem, malformed, not_json
from events.strict_json import JSON_TYPE, is_json_type, parsed

Reference = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class Body(BaseModel):
    """A request body: exactly these fields, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class OnReference(Body):
    """A request that names an order's reference and nothing else."""

    reference: Reference


BodyT = TypeVar("BodyT", bound=Body)


async def read_body(request: Request, body: type[BodyT], limit_bytes: int) -> BodyT:
    """The body as its model.

    Raises Problem: 400 not JSON, or ambiguous; 413 too large; 415 of another type; 422 wrong fields or types.
    """
    given = request.headers.get("content-type", "")
    if not is_json_type(given):
        raise Problem(415, "not-json", "Unsupported Media Type", f"a body is {JSON_TYPE}, not {given!r}")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit_bytes:
            # The rest is not worth reading, so the connection cannot be used again.
            close = {"Connection": "close"}
            raise Problem(
                413, "body-too-large", "Body too large", f"limit: {limit_bytes} bytes", headers=close
            )
    try:
        parsed(bytes(content))
        return body.model_validate_json(bytes(content))
    except json.JSONDecodeError as error:
        raise not_json(error) from None
    except ValidationError as error:
        raise malformed(error) from None


def json_response(text: str | bytes, http_status: int = 200) -> Response:
    """A response whose body is JSON already."""
    return Response(text, http_status, media_type=JSON_TYPE)
