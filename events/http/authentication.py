"""Who asks, and whether they may: the identity behind a request, and what each route takes.

A route names the roles it is for (`dependencies=[OPERATOR]`), and learns who asks as `Annotated[Identity,
OPERATOR]`. One that names none is refused when the application is made.

The tracker acts at services for people who signed in to its board: it shows its own token, and states who
that is in a header that is signed for this one request and good for seconds.
"""

import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, get_type_hints
from urllib.parse import quote

from fastapi import Depends, Request, Security, params
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from itsdangerous import BadData, URLSafeSerializer
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from events.http.problems import Problem
from events.http.sessions import CSRF_HEADER, SAFE_METHODS, check_csrf, signed_in
from events.http.tokens import NAMED_ROLES, Role, Tokens
from events.runtime.settings import ProcessSettings

ADMIN_TOKEN, TOKEN, NOBODY = "admin token", "named token", "not signed in"
SCHEME = "token"
SIGN_IN = "/sign-in"
ACTING_HEADER = "Murmuration-Acting-For"
_REALM = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks: by name, in which role, and how that is known."""

    name: str
    role: Role
    signed_in_by: str

    @property
    def client(self) -> str | None:
        """Whose orders they place; None of nobody in particular."""
        return None if self.signed_in_by in (NOBODY, ADMIN_TOKEN) else self.name

    @property
    def sees_own_orders_alone(self) -> bool:
        """Whether orders that others placed are none of their business."""
        return self.role is Role.CLIENT and self.client is not None

    def may(self, roles: Sequence[str]) -> bool:
        """Whether one of these roles is theirs, or below theirs."""
        return any(self.role.covers(Role(role)) for role in roles)


class SignedAct(BaseModel):
    """The body of an act. Who acts is who signed in, so it has no place for a name."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _nobody_is_named(cls, given: Any) -> Any:
        if isinstance(given, dict) and "by" in given:
            raise PydanticCustomError("typed_by", "leave out `by`: it is who the token or the session is of")
        return given


class Acting:
    """States for whom the tracker acts at a service, and reads that there; neither without a secret."""

    def __init__(self, settings: ProcessSettings) -> None:
        given = settings.acting_secret or settings.admin_token
        # Not the secret itself, which may be good for something else.
        key = given and hmac.new(given.get_secret_value().encode(), b"murmuration acting", sha256).hexdigest()
        self._signer = key and URLSafeSerializer(key, ACTING_HEADER, signer_kwargs={"digest_method": sha256})
        self._seconds = settings.acting_seconds

    def __bool__(self) -> bool:
        return bool(self._signer)

    def sign(self, who: Identity, method: str, path: str) -> str:
        """Who acts, for one request to a service and a short time."""
        assert self._signer, "there is a secret"
        claims = {"name": who.name, "role": who.role, "how": who.signed_in_by}
        return str(self._signer.dumps(claims | {"for": f"{method} {path}", "at": int(time.time())}))

    def read(self, assertion: str, method: str, path: str) -> Identity:
        """Who acts. Raises Problem for what was not signed for this request, or not just now."""
        try:
            claims = self._signer.loads(assertion) if self._signer else None
        except BadData:
            claims = None
        if claims is None or claims["for"] != f"{method} {path}":
            raise Problem(401, f"{ACTING_HEADER} was not signed for this request", headers=_REALM)
        if abs(time.time() - claims["at"]) > self._seconds:
            why = f"{ACTING_HEADER} is older than {self._seconds} s, or the clocks differ by more"
            raise Problem(401, why, headers=_REALM)
        role = Role(claims["role"])
        if role not in NAMED_ROLES:
            raise Problem(403, f"{role} is nobody's role")
        return Identity(claims["name"], role, f"{claims['how']}, at the tracker")


class Authentication:
    """Finds who is behind a request of one process."""

    def __init__(self, settings: ProcessSettings) -> None:
        self._tokens = Tokens(settings.tokens, settings.tokens_file)
        admin = settings.admin_token
        self._admin_token = admin.get_secret_value().encode() if admin else b""
        self._reading_is_open = settings.auth == "open"
        self._orders_are_internal = settings.orders == "internal"
        self.acting = Acting(settings)

    def admit(self, roles: Sequence[str], token: str | None, session: Identity | None) -> Identity:
        """Who asks, if one of these roles is theirs. Raises Problem: 401 for nobody, 403 for who may not."""
        identity = self._of_token(token) if token is not None else session
        if identity is None:
            identity = self._unknown(roles)
        if not identity.may(roles):
            raise Problem(
                403, f"this takes the role {' or '.join(roles)}; {identity.name} is {identity.role}"
            )
        return identity

    def acted_for(self, request: Request, assertion: str, token: str | None) -> Identity:
        """For whom a machine of the system acts. Raises Problem for anybody else who says that."""
        if token is None or self._of_token(token).role is not Role.MACHINE:
            raise Problem(403, f"{ACTING_HEADER} is the tracker's alone to say")
        return self.acting.read(assertion, request.method, request.url.path)

    def named(self, token: str) -> Identity | None:
        """Whose named token this is."""
        found = self._tokens.find(token)
        return Identity(found.name, found.role, TOKEN) if found else None

    def _of_token(self, token: str) -> Identity:
        if (found := self.named(token)) is not None:
            return found
        if self._admin_token and hmac.compare_digest(token.encode(), self._admin_token):
            return Identity("machine", Role.MACHINE, ADMIN_TOKEN)
        self._demand_any()
        raise Problem(401, "nobody has this bearer token", headers=_REALM)

    def _unknown(self, roles: Sequence[str]) -> Identity:
        """Who did not say who they are, where that is enough."""
        if self._orders_are_internal and Role.CLIENT in roles:
            return Identity("anonymous", Role.CLIENT, NOBODY)
        if self._reading_is_open and Role.VIEWER in roles:
            return Identity("anonymous", Role.VIEWER, NOBODY)
        self._demand_any()
        raise Problem(401, "a bearer token is required", headers=_REALM)

    def _demand_any(self) -> None:
        if not (self._admin_token or self._tokens):
            why = "neither MURMURATION_TOKENS_FILE nor MURMURATION_ADMIN_TOKEN has a token"
            raise Problem(403, f"nobody can come in here: {why}")


_bearer = HTTPBearer(
    auto_error=False,
    scheme_name=SCHEME,
    description="A named token (`make token`), or for the system itself MURMURATION_ADMIN_TOKEN."
    " Of the roles that a route names, one is enough, and a higher one is too.",
)


async def identified(
    request: Request,
    roles: SecurityScopes,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Identity:
    """Who asks. Raises Problem where they may not."""
    authentication: Authentication = request.app.state.authentication
    session = signed_in(request)
    if given is None and session is not None and request.method not in SAFE_METHODS:
        check_csrf(request, request.headers.get(CSRF_HEADER))
    try:
        token = given.credentials if given else None
        if (assertion := request.headers.get(ACTING_HEADER)) is not None:
            return authentication.admit(
                roles.scopes, None, authentication.acted_for(request, assertion, token)
            )
        return authentication.admit(roles.scopes, token, Identity(*session) if session else None)
    except Problem:
        if session is None and given is None and _is_of_a_browser(request):
            where = f"{SIGN_IN}?next={quote(request.url.path)}"
            raise Problem(303, "sign in first", headers={"Location": where}) from None
        raise


def _is_of_a_browser(request: Request) -> bool:
    """Whether a person may sign in, and is shown a page."""
    return "session" in request.scope and "text/html" in request.headers.get("accept", "")


async def public() -> None:
    """Also for who did not say who they are, whatever the settings are."""


def _for(*roles: Role) -> Any:
    return Security(identified, scopes=[*roles])


PUBLIC = Depends(public)
# Reading what holds no personal data and no secret.
VIEWER = _for(Role.VIEWER, Role.MACHINE)
# A customer's order, for who placed it.
CLIENT = _for(Role.CLIENT)
OWN_ORDER = _for(Role.VIEWER, Role.CLIENT, Role.MACHINE)
# What the tracker asks of the services.
MACHINE = _for(Role.MACHINE)
# What a warehouse's system may do as well as a person.
STOCK = _for(Role.OPERATOR, Role.MACHINE)
OPERATOR = _for(Role.OPERATOR)
# What moves money.
APPROVER = _for(Role.APPROVER)

Viewer = Annotated[Identity, VIEWER]
Operator = Annotated[Identity, OPERATOR]
Approver = Annotated[Identity, APPROVER]
Client = Annotated[Identity, CLIENT]


def roles_of(route: APIRoute) -> list[str] | None:
    """The roles that a route names, none of a public one. None where somebody forgot to name any."""
    hints = get_type_hints(route.endpoint, include_extras=True).values()
    taken = [what for hint in hints for what in getattr(hint, "__metadata__", ())]
    for what in (*route.dependencies, *taken):
        if isinstance(what, params.Security) and what.dependency is identified:
            return list(what.scopes or ())
        if isinstance(what, params.Depends) and what.dependency is public:
            return []
    return None
