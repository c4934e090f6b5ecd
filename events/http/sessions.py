"""Sessions of people in a browser: a signed cookie that says who signed in, and what protects it.

Nothing of a session is kept on a server: several trackers with the same secret know the same sessions. It
ends by itself after a time, however often it is used.
"""

import hmac
import secrets
import time
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Self

from fastapi import FastAPI, Request
from itsdangerous import BadData, URLSafeTimedSerializer
from pydantic import Field, SecretStr, model_validator
from starlette.middleware.sessions import SessionMiddleware

from events.http.problems import Problem
from events.http.tokens import Role
from events.runtime.settings import ENV_PREFIX, ProcessSettings

COOKIE = "murmuration_session"
CSRF_HEADER = "X-CSRF-Token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LINK = "sign-in link"
_WHO, _CSRF = "who", "csrf"


class SessionSettings(ProcessSettings):
    """What a process reads besides that has pages, and people who sign in to them."""

    # Signs the cookies; without one it follows from the admin token, and is drawn at random without either.
    session_secret: SecretStr | None = None
    session_seconds: int = Field(default=8 * 3_600, gt=0)
    # A link that signs its user in as an admin, once. For a system on one machine alone.
    sign_in_link: bool = False
    sign_in_link_seconds: int = Field(default=900, gt=0)

    @model_validator(mode="after")
    def _links_at_home_alone(self) -> Self:
        if self.sign_in_link and not is_loopback(self.http_host):
            raise ValueError(f"{ENV_PREFIX}SIGN_IN_LINK is for a process that listens on loopback alone")
        return self

    @property
    def session_key(self) -> str:
        given = self.session_secret or self.admin_token
        return session_key(given.get_secret_value()) if given else secrets.token_hex(32)


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def session_key(secret: str) -> str:
    """Not the secret itself, which may be good for something else."""
    return hmac.new(secret.encode(), b"murmuration sessions", "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Links:
    """Makes and reads sign-in links' tokens: whose, until when, and a number that is used once."""

    key: str
    seconds: int = 900

    def make(self, name: str) -> str:
        return self._serializer.dumps({"name": name, "once": secrets.token_hex(16)})

    def read(self, token: str) -> tuple[str, str] | None:
        """The name and the number; None of what was not made here, or too long ago."""
        try:
            found = self._serializer.loads(token, max_age=self.seconds)
        except BadData:
            return None
        return found["name"], found["once"]

    @property
    def _serializer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self.key, salt=LINK, signer_kwargs={"digest_method": sha256})


def add_sessions(app: FastAPI, settings: SessionSettings) -> None:
    """Have the app know who signed in. Lax: a link from elsewhere leads in, a form from there does not."""
    key = settings.session_key
    app.state.links = Links(key, settings.sign_in_link_seconds) if settings.sign_in_link else None
    app.add_middleware(
        SessionMiddleware,
        secret_key=key,
        session_cookie=COOKIE,
        max_age=settings.session_seconds,
        same_site="lax",
        https_only=not is_loopback(settings.http_host),
    )


def sign_in(request: Request, name: str, role: Role, how: str) -> None:
    """Begin a session, and with it a new cookie: nothing of one before is in it."""
    settings: SessionSettings = request.app.state.settings
    until = int(time.time()) + settings.session_seconds
    request.session.clear()
    request.session[_WHO] = {"name": name, "role": role, "how": how, "until": until}
    request.session[_CSRF] = secrets.token_urlsafe()


def sign_out(request: Request) -> None:
    """End it."""
    request.session.clear()


def signed_in(request: Request) -> tuple[str, Role, str] | None:
    """Who signed in, in which role and how; None where nobody did, or too long ago."""
    who: dict[str, Any] | None = request.scope.get("session", {}).get(_WHO)
    if who is None or who["until"] < time.time():
        return None
    return who["name"], Role(who["role"]), who["how"]


def csrf_token(request: Request) -> str:
    """What a form or a script of our own pages sends along, for no other page knows it."""
    if _CSRF not in request.session:
        request.session[_CSRF] = secrets.token_urlsafe()
    token: str = request.session[_CSRF]
    return token


def check_csrf(request: Request, given: str | None) -> None:
    """Whether a request that changes something was made by a page of ours. Raises Problem."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    expected: str = request.session.get(_CSRF, "")
    same = hmac.compare_digest(expected.encode(), (given or "").encode())
    if site != "same-origin" or not expected or not same:
        raise Problem(403, f"a session acts with its page's {CSRF_HEADER}, from that page alone")
