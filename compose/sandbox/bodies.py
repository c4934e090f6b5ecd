"""What comes in and goes out over HTTP: JSON, checked, bounded."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from compose.sandbox.problems import Problem, malformed

Reference = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class Body(BaseModel):
    """A request body: exactly these fields, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class OnReference(Body):
    """A request that names an order's reference and nothing else."""

    reference: Reference


BodyT = TypeVar("BodyT", bound=Body)


async def read_body(request: Request, body: type[BodyT], limit_bytes: int) -> BodyT:
    """The body as its model. Raises Problem: 400 not JSON, 413 too large, 422 wrong fields or types."""
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
        return body.model_validate_json(bytes(content))
    except ValidationError as error:
        raise malformed(error) from None


def json_response(text: str | bytes, http_status: int = 200) -> Response:
    """A response whose body is JSON already."""
    return Response(text, http_status, media_type="application/json")
