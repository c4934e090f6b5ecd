"""How a page is made: templates, times and spans, what it may load, and pages for what goes wrong."""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from events.facts.base import in_words
from events.http.authentication import PUBLIC
from events.http.problems import Problem, problem_of
from events.http.sessions import csrf_token, signed_in
from saga_tracker.http.views import MASKED
from saga_tracker.projection import State

READ_LATE_SECONDS = 5
MAX_FORM_FIELDS = 2_000
FORM_TYPE = "application/x-www-form-urlencoded"

# No script and no style but the board's own files; nothing is evaluated, framed, or sent elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept",
}
STATE_CLASSES = {
    State.COMPLETED: "ok",
    State.COMPENSATING: "back",
    State.CANCELLED: "back",
    State.NEEDS_MANUAL: "bad",
    State.AWAITING_APPROVAL: "back",
}
NAVIGATION = (
    ("/", "Home"),
    ("/ui/sagas", "Sagas"),
    ("/ui/dead-letters", "Dead letters"),
    ("/ui/manual", "Manual cases"),
    ("/ui/reconciliation", "Reconciliation"),
    ("/ui/audit", "Audit"),
    ("/ui/services", "Services"),
)
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", "": "text/plain"}

# --- The files that pages load


def _static_files() -> dict[str, bytes]:
    folder = files("saga_tracker.board") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


_STATIC = _static_files()
# A new release is loaded anew; until then a browser keeps what it has.
_VERSION = hashlib.sha256(b"".join(_STATIC[name] for name in sorted(_STATIC))).hexdigest()[:12]

static_router = APIRouter(include_in_schema=False, dependencies=[PUBLIC])


@static_router.get("/ui/static/{name}")
async def static_file(name: str) -> Response:
    """One of the board's own files."""
    if name not in _STATIC:
        raise Problem(404, "there is no such file")
    suffix = re.search(r"\.(css|js|svg)$", name)
    return Response(
        _STATIC[name],
        media_type=_MEDIA_TYPES[suffix[0] if suffix else ""],
        headers={"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"},
    )


def static_url(name: str) -> str:
    return f"/ui/static/{name}?v={_VERSION}"


# --- Templates


def span(seconds: float) -> str:
    """A span of time, in the unit that suits it."""
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    if abs(seconds) < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    if minutes < 120:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"


def ago(at: datetime, now: datetime | None = None) -> str:
    """How long ago an instant was, or in how long it will be."""
    seconds = ((now or datetime.now(UTC)) - at).total_seconds()
    if abs(seconds) < 1:
        return "now"
    short = span(float(round(abs(seconds)))).replace(".0 s", " s")
    return f"{short} ago" if seconds > 0 else f"in {short}"


def _indented(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def _query(**given: Any) -> str:
    """A query of what is given and not empty."""
    kept = {name: value for name, value in given.items() if value not in (None, "", False)}
    return f"?{urlencode(kept, doseq=True)}" if kept else "?"


def _environment() -> Environment:
    """Everything that a template shows is escaped; what it names and nobody gave it is an error."""
    environment = Environment(
        loader=PackageLoader("saga_tracker.board"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "span": span,
        "ago": ago,
        "indented": _indented,
        "money": in_words,
        "drawn": Markup,
    }
    environment.globals |= {
        "state_classes": STATE_CLASSES,
        "read_late_seconds": READ_LATE_SECONDS,
        "navigation": NAVIGATION,
        "static_url": static_url,
        "query": _query,
        "topics": (),
        "masked": MASKED,
        "watched": None,
        "path": "",
    }
    return environment


_TEMPLATES = _environment()


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who signed in, as the page that is made shows it, and what its forms send along."""

    name: str
    role: str
    csrf_token: str


_visitor: ContextVar[Visitor | None] = ContextVar("visitor", default=None)


def visitor_of(request: Request) -> Visitor | None:
    """Who signed in; None where nobody did."""
    who = signed_in(request)
    return Visitor(who[0], who[1].value, csrf_token(request)) if who is not None else None


def rendered(template: str, **shown: Any) -> str:
    """The text of a page. `topics` and `watched` are what it is updated for (`live.py`)."""
    given = {"now": datetime.now(UTC), "visitor": _visitor.get(), **shown}
    return _TEMPLATES.get_template(f"{template}.html.jinja").render(given)


def answer(page: str, status: int = HTTPStatus.OK) -> HTMLResponse:
    """A page as it is sent."""
    return HTMLResponse(page, status, headers=HEADERS)


# --- What goes wrong, and forms


def wants_page(request: Request) -> bool:
    """Whether a browser asks: others are answered with problems in JSON, as everywhere."""
    return "text/html" in request.headers.get("accept", "")


def error_page(problem: Problem) -> HTMLResponse:
    """A page that says what went wrong, and what to do now."""
    response = answer(
        rendered("error", title=HTTPStatus(problem.status).phrase, problem=problem), problem.status
    )
    response.headers.update(problem.headers or {})
    return response


class PageRoute(APIRoute):
    """A route whose pages show who signed in, and whose errors are pages where a browser asks."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """As FastAPI documents it."""
        handle = super().get_route_handler()

        async def handle_with_pages(request: Request) -> Response:
            _visitor.set(visitor_of(request))
            try:
                return await handle(request)
            except Exception as error:
                if not wants_page(request):
                    raise
                return error_page(problem_of(error))

        return handle_with_pages


async def form_of(request: Request) -> Mapping[str, list[str]]:
    """The fields of a form that was posted. Raises Problem for what no form of these pages sends."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != FORM_TYPE:
        raise Problem(415, "a form is sent here")
    try:
        text = (await request.body()).decode("ascii")
        return parse_qs(text, keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS, errors="strict")
    except ValueError:
        raise Problem(422, "the form cannot be read") from None


def field_of(form: Mapping[str, list[str]], name: str) -> str:
    """One field of a form, or nothing."""
    return form.get(name, [""])[0].strip()


missing_router = APIRouter(include_in_schema=False, route_class=PageRoute, dependencies=[PUBLIC])


@missing_router.get("/ui/{rest:path}")
async def missing(rest: str) -> Response:
    """The page of an address that leads nowhere; the first page is not far from `/ui`."""
    if not rest:
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)
    raise Problem(404, f"there is no page /ui/{rest}")
