"""How a person signs in to the board: by OpenID Connect, with a named token, or by a link of `make up`."""

from datetime import timedelta
from typing import Annotated, Any, Protocol
from urllib.parse import parse_qs

import httpx2
from authlib.integrations.starlette_client import OAuth, OAuthError
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from joserfc.errors import JoseError
from sqlalchemy import bindparam, delete, func
from sqlalchemy.dialects.postgresql import insert

from events.http.authentication import PUBLIC, SIGN_IN, Authentication
from events.http.problems import Problem
from events.http.sessions import LINK, Links, check_csrf, csrf_token, sign_in, sign_out
from events.http.tokens import Role
from events.storage.database import Database
from events.storage.sql import compiled
from events.telemetry.log import log
from events.telemetry.redaction import in_words
from saga_tracker.board.render import HEADERS, rendered
from saga_tracker.settings import TrackerSettings
from saga_tracker.tables import used_links

OPENID = "OpenID Connect"
SECONDS = 5.0
MAX_TEXT = 2_000
# From the least to the most.
_LADDER = (Role.CLIENT, Role.VIEWER, Role.OPERATOR, Role.APPROVER, Role.ADMIN)
_OLD = delete(used_links).where(used_links.c.used_at < func.now() - timedelta(days=1))
_USE = compiled(
    insert(used_links)
    .values(once=bindparam("once"))
    .on_conflict_do_nothing()
    .returning(used_links.c.once)
    .add_cte(_OLD.cte("old"))
)

router = APIRouter(include_in_schema=False, dependencies=[PUBLIC])
_NO_TRACE = {**HEADERS, "Referrer-Policy": "no-referrer"}

Next = Annotated[str, Query(max_length=MAX_TEXT)]


class Porter(Protocol):
    """What the routes need of the running tracker."""

    @property
    def database(self) -> Database: ...

    @property
    def settings(self) -> TrackerSettings: ...


def _porter(request: Request) -> Porter:
    porter: Porter = request.app.state.runtime
    return porter


Tracker = Annotated[Porter, Depends(_porter)]


@router.get(SIGN_IN)
async def ask(request: Request, tracker: Tracker, next: Next = "/") -> HTMLResponse:  # noqa: A002
    """The ways to sign in."""
    return _page(request, tracker, next)


@router.post(SIGN_IN)
async def with_token(request: Request, tracker: Tracker) -> Response:
    """Sign in with a named token, once for the session. What is not of this page's own form is refused."""
    given = await _form_of(request)
    authentication: Authentication = request.app.state.authentication
    found = authentication.named(given.get("token", "").strip())
    if found is None:
        return _page(request, tracker, given.get("next", "/"), "Nobody has this token.", status=403)
    return _enter(request, found.name, found.role, found.signed_in_by, given.get("next", "/"))


@router.post("/sign-out")
async def leave(request: Request) -> RedirectResponse:
    """End the session."""
    await _form_of(request)
    sign_out(request)
    return RedirectResponse(SIGN_IN, 303)


async def _form_of(request: Request) -> dict[str, str]:
    """The fields of a form of these pages. Raises Problem for one that is not."""
    form = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
    given = {name: values[0] for name, values in form.items()}
    check_csrf(request, given.get("csrf_token"))
    return given


@router.get("/sign-in/link")
async def by_link(
    request: Request, tracker: Tracker, token: Annotated[str, Query(max_length=MAX_TEXT)]
) -> Response:
    """Sign in as an admin by a link that is good once."""
    links: Links | None = request.app.state.links
    found = links.read(token) if links is not None else None
    if found is None or not await tracker.database.rows(_USE, once=found[1]):
        why = "This link was used, or is too old: make up prints another one."
        return _page(request, tracker, "/", why, status=403)
    return _enter(request, found[0], Role.ADMIN, LINK, "/")


@router.get("/sign-in/oidc")
async def to_provider(request: Request, tracker: Tracker, next: Next = "/") -> Response:  # noqa: A002
    """To the provider: with a state, a nonce, and PKCE's challenge."""
    client = _client(request, tracker.settings)
    request.session["next"] = _local(next)
    try:
        sent: Response = await client.authorize_redirect(request, _callback(request, tracker.settings))
    except httpx2.HTTPError as error:
        return _refused(request, tracker, error)
    return sent


@router.get("/sign-in/oidc/callback")
async def from_provider(request: Request, tracker: Tracker) -> Response:
    """Back from the provider, with a code for what it says of who signed in there."""
    settings = tracker.settings
    try:
        given = await _client(request, settings).authorize_access_token(request)
    except (OAuthError, JoseError, httpx2.HTTPError) as error:
        return _refused(request, tracker, error)
    claims: dict[str, Any] = given.get("userinfo") or {}
    name, role = claims.get(settings.oidc_name_claim), role_in(claims, settings)
    if not isinstance(name, str) or not 0 < len(name) <= 100 or not _is_theirs(claims, settings):
        return _page(request, tracker, "/", "The provider does not say who you are.", status=403)
    if role is None:
        return _page(request, tracker, "/", "None of your roles at the provider is one here.", status=403)
    return _enter(request, name, role, OPENID, request.session.get("next", "/"))


def role_in(claims: dict[str, Any], settings: TrackerSettings) -> Role | None:
    """The highest role of those that the provider gives somebody."""
    found: Any = claims
    for part in settings.oidc_role_claim.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    given = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    roles = {
        settings.oidc_roles[each] for each in given if isinstance(each, str) and each in settings.oidc_roles
    }
    return max(roles, key=_LADDER.index, default=None)


def _is_theirs(claims: dict[str, Any], settings: TrackerSettings) -> bool:
    return settings.oidc_name_claim != "email" or claims.get("email_verified") is not False


def _client(request: Request, settings: TrackerSettings) -> Any:
    """Kept with the app, for the provider's metadata and keys. Raises Problem where there is no provider."""
    if settings.oidc_issuer is None:
        raise Problem(404, "MURMURATION_OIDC_ISSUER is not set")
    if not hasattr(request.app.state, "oidc"):
        secret = settings.oidc_client_secret
        request.app.state.oidc = OAuth().register(
            "oidc",
            client_id=settings.oidc_client_id,
            client_secret=secret.get_secret_value() if secret else None,
            server_metadata_url=f"{settings.oidc_issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={
                "scope": settings.oidc_scopes,
                "code_challenge_method": "S256",
                "timeout": SECONDS,
            },
        )
    return request.app.state.oidc


def _callback(request: Request, settings: TrackerSettings) -> str:
    """Behind a proxy a process does not know by which name it is reached."""
    return f"{(settings.public_url or str(request.base_url)).rstrip('/')}/sign-in/oidc/callback"


def _refused(request: Request, tracker: Porter, error: Exception) -> HTMLResponse:
    log.warning("sign_in_failed", why=f"{type(error).__name__}: {in_words(error)}")
    return _page(request, tracker, "/", "The provider did not sign you in. Try again.", status=403)


def _enter(request: Request, name: str, role: Role, how: str, then: str) -> RedirectResponse:
    sign_in(request, name, role, how)
    log.info("signed_in", by=name, role=role, how=how)
    return RedirectResponse(_local(then), 303, headers=_NO_TRACE)


def _local(path: str) -> str:
    """Nobody is sent elsewhere: not by `//elsewhere` either, nor by what a browser takes for that."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"


def _page(request: Request, tracker: Porter, then: str, problem: str = "", status: int = 200) -> HTMLResponse:
    page = rendered(
        "sign_in",
        title="Sign in",
        problem=problem,
        oidc=tracker.settings.oidc_issuer is not None,
        csrf_token=csrf_token(request),
        next=_local(then),
    )
    return HTMLResponse(page, status, headers=_NO_TRACE)
