"""The documents of an HTTP side: what every route answers, at `/openapi.json`, `/docs` and `/redoc`.

They need no internet: what the pages load comes from a package, and they are not allowed anything else.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from events.http.problems import PROBLEM_TYPE, Fault, ProblemDetails

DOCS, REDOC = "/docs", "/redoc"
# Both pages carry a script of their own in the page, and ReDoc works in the background.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:"
)
_MODELS = (ProblemDetails, Fault)
_OF_FASTAPI = ("HTTPValidationError", "ValidationError")
_REFERENCE = "#/components/schemas/{model}"
_NOT_NOW = "Not now: too much waits, or the database is away. `Retry-After` says when to come back."
_TO_A_BODY = {
    413: "The body is larger than this service takes.",
    415: "The body is not `application/json`.",
}
_WITHOUT_TOKEN = {
    401: "The bearer token is missing, or nobody's.",
    403: "The role of who asks is none of those, nor above them; or no token is set for this service.",
}


def document(app: FastAPI) -> None:
    """Have the app's document say what its routes answer that went wrong."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            _add_problems(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    # The way that FastAPI documents for it.
    app.openapi = openapi  # type: ignore[method-assign]


def _add_problems(schema: dict[str, Any]) -> None:
    models = schema.setdefault("components", {}).setdefault("schemas", {})
    for model in _MODELS:
        models[model.__name__] = model.model_json_schema(ref_template=_REFERENCE)
        models[model.__name__].pop("$defs", None)
    for name in _OF_FASTAPI:
        models.pop(name, None)
    problem = {PROBLEM_TYPE: {"schema": {"$ref": _REFERENCE.format(model=ProblemDetails.__name__)}}}
    for operation in _operations(schema):
        for status, why in _what_goes_wrong(operation).items():
            operation["responses"].setdefault(str(status), {"description": why})
        # FastAPI has a form of its own for what is not valid; here it is a problem like any other.
        operation["responses"]["422"].pop("content", None)
        for status, response in operation["responses"].items():
            if int(status) >= HTTPStatus.BAD_REQUEST:
                response.setdefault("content", problem)


def _operations(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in schema["paths"].values():
        yield from path.values()


def _what_goes_wrong(operation: dict[str, Any]) -> dict[int, str]:
    """What any route may answer that takes what this one takes. What else it may, the route itself says."""
    found = {422: "The request is not valid: `errors` says what of it.", 503: _NOT_NOW}
    if "security" in operation:
        found |= _WITHOUT_TOKEN
    if "requestBody" in operation:
        found |= _TO_A_BODY
    return found


class DocumentsPolicy:
    """Lets the pages of the documents load what comes from here, and nothing from elsewhere."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in (DOCS, REDOC):
            await self._app(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", _POLICY.encode()),
                ]
            await send(message)

        await self._app(scope, receive, send_with_policy)
