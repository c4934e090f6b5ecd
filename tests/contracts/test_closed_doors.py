"""Every door of every process says which roles it is for, and lets nobody else in.

An endpoint that is not in the table fails here: whoever adds one says in it whom the endpoint is for.
"""

import runpy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from pydantic import SecretStr
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from compose.local.provision import SANDBOX
from compose.sandbox.app import Sandbox, SandboxSettings
from compose.system import PROCESSES
from events.http.application import create_app
from events.http.authentication import roles_of
from events.http.tokens import NAMED_ROLES, Role, named
from events.runtime import process
from events.runtime.settings import ProcessSettings
from saga_tracker.service import ROUTERS

TOKEN = "the-machines"
NAMED: dict[Role, str] = {role: f"a-token-of-the-{role}" for role in NAMED_ROLES}
BEARERS: Mapping[Role, str] = NAMED | {Role.MACHINE: TOKEN}
ORDER = "00000000-0000-4000-8000-000000000001"
MAX_BYTES = 10_000
HARMLESS = {"GET", "HEAD", "OPTIONS"}
SERVICE_PROCESSES = [spec for spec in PROCESSES if spec.name not in ("tracker", SANDBOX)]
CLIENTS, VIEWERS, MACHINES = ("client",), ("viewer", "machine"), ("machine",)
OPERATORS, APPROVERS = ("operator",), ("approver",)
OWN = ("viewer", "client", "machine")
STOCK = ("operator", "machine")
# Of all services the same: how they are, and the documents of what they take.
PUBLIC = {
    "/ui/static/{name}",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    # For whoever signs with the secret of the provider's webhooks: looked at within.
    "/webhooks/stripe",
}
ROLES = {
    ("order", "POST", "/orders"): CLIENTS,
    ("order", "GET", "/orders/{order_id}"): OWN,
    ("order", "POST", "/orders/{order_id}/cancel"): CLIENTS,
    ("inventory", "PUT", "/stock/{sku}"): STOCK,
    ("inventory", "GET", "/stock"): VIEWERS,
    ("payment", "GET", "/payments/{order_id}"): VIEWERS,
    ("payment", "POST", "/payments/{order_id}/approve"): APPROVERS,
    ("payment", "POST", "/payments/{order_id}/reject"): APPROVERS,
    ("fulfillment", "GET", "/shipments/{order_id}"): VIEWERS,
    ("notification", "POST", "/bounces"): CLIENTS,
    **{(spec.name, "GET", "/asyncapi.json"): VIEWERS for spec in SERVICE_PROCESSES},
    **{(spec.name, "GET", "/states"): VIEWERS for spec in SERVICE_PROCESSES},
    **{(spec.name, "GET", "/causes"): VIEWERS for spec in SERVICE_PROCESSES},
    **{(spec.name, "GET", "/outside"): MACHINES for spec in SERVICE_PROCESSES},
    **{(spec.name, "GET", "/states/orders"): MACHINES for spec in SERVICE_PROCESSES},
    **{(spec.name, "POST", "/states/forget"): MACHINES for spec in SERVICE_PROCESSES},
    ("tracker", "GET", "/sagas"): VIEWERS,
    ("tracker", "GET", "/sagas/{order_id}"): VIEWERS,
    ("tracker", "POST", "/sagas/{order_id}/redrive"): OPERATORS,
    ("tracker", "POST", "/sagas/{order_id}/settle"): APPROVERS,
    ("tracker", "GET", "/stats"): VIEWERS,
    ("tracker", "GET", "/audit"): VIEWERS,
    ("tracker", "GET", "/dead-letters"): VIEWERS,
    ("tracker", "GET", "/dead-letters/groups"): VIEWERS,
    ("tracker", "GET", "/dead-letters/{letter_id}"): OPERATORS,
    ("tracker", "POST", "/dead-letters/replay"): OPERATORS,
    ("tracker", "POST", "/dead-letters/{letter_id}/replay"): OPERATORS,
    ("tracker", "POST", "/dead-letters/{letter_id}/discard"): OPERATORS,
    ("tracker", "GET", "/reconciliation"): VIEWERS,
    ("tracker", "POST", "/reconciliation/run"): STOCK,
    ("tracker", "GET", "/"): VIEWERS,
    ("tracker", "GET", "/ui/sagas"): VIEWERS,
    ("tracker", "GET", "/ui/sagas/{order_id}"): VIEWERS,
    ("tracker", "GET", "/ui/dead-letters"): VIEWERS,
    ("tracker", "GET", "/ui/dead-letters/{letter_id}"): VIEWERS,
    **{
        ("tracker", "GET", f"/ui/{page}"): VIEWERS
        for page in (
            *("events", "manual", "reconciliation", "audit", "services", "facts/{wire_name}", "selections"),
            *("selections/{selection_id}", "sagas/export.{form}", "sagas/{order_id}/facts/{fact_id}"),
        )
    },
}
# The board's forms, which carry a token or come with a session: who sends them is looked at within.
FORMS = {
    "/ui/sagas/{order_id}/redrive": OPERATORS,
    "/ui/sagas/{order_id}/settle": APPROVERS,
    "/ui/sagas/{order_id}/approve": APPROVERS,
    "/ui/sagas/{order_id}/reject": APPROVERS,
    "/ui/sagas/{order_id}/cancel": OPERATORS,
    "/ui/dead-letters/{letter_id}": OPERATORS,
    "/ui/dead-letters/{letter_id}/replay": OPERATORS,
    "/ui/dead-letters/{letter_id}/discard": OPERATORS,
    "/ui/dead-letters/{letter_id}/edit": OPERATORS,
    "/ui/manual/{order_id}/claim": OPERATORS,
    "/ui/manual/{order_id}/unclaim": OPERATORS,
    "/ui/manual/{order_id}/note": OPERATORS,
    "/ui/selections": OPERATORS,
    "/ui/selections/{selection_id}/replay": OPERATORS,
}
# The sandbox plays parties outside the system, whose own doors are not ours to guard; its faults are.
OUTSIDE = {
    (SANDBOX, "POST", path)
    for path in (
        *("/provider/authorisations", "/provider/captures", "/provider/voids", "/provider/refunds"),
        *("/provider/credit-notes", "/carrier/shipments", "/carrier/cancellations", "/carrier/dispatches"),
        "/push/messages",
        *("/v1/payment_intents", "/v1/refunds", "/v1/customers/{id}/balance_transactions"),
        *(f"/v1/payment_intents/{{id}}/{what}" for what in ("confirm", "capture", "cancel")),
    )
}
SANDBOX_ADMINS = {
    (SANDBOX, "PUT", "/faults"),
    (SANDBOX, "DELETE", "/faults"),
    (SANDBOX, "PUT", "/stripe/clock"),
}
SETTINGS = {
    "BROKER_URL": "amqp://nobody@127.0.0.1:1/",
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
    "HTTP_PORT": "1",
    "MAX_REQUEST_BYTES": str(MAX_BYTES),
    "PROVIDER_URL": "http://127.0.0.1:1/provider",
    "CARRIER_URL": "http://127.0.0.1:1/carrier",
    "DIRECTORY_URL": "http://127.0.0.1:1/directory",
    "PUSH_URL": "http://127.0.0.1:1/push",
    "SMTP_URL": "smtp://127.0.0.1:1",
}


class Door(NamedTuple):
    """One method of one path of one process."""

    process: str
    method: str
    path: str


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]


def app_of(name: str, package: str, token: str | None, folder: Path) -> Any:
    """The ASGI app that `python -m package` would serve, not started."""
    environment = {f"MURMURATION_{setting}": value for setting, value in SETTINGS.items()}
    if token is not None:
        environment["MURMURATION_ADMIN_TOKEN"] = token
    if token:
        entries = (str(named(f"the-{role}", role, bearer)) for role, bearer in NAMED.items())
        environment["MURMURATION_TOKENS"] = " ".join(entries)
    with mock.patch.dict("os.environ", environment):
        if name == SANDBOX:
            return Sandbox(SandboxSettings(sandbox_ledger=folder / f"{token}.sqlite3")).app()
        served: list[Any] = []

        def keep(app: Any, _: object) -> mock.Mock:
            served.append(app)
            return mock.Mock()

        with ExitStack() as patches:
            for what in ("uvloop", "configure_logging", "collect_garbage_rarely"):
                patches.enter_context(mock.patch.object(process, what))
            patches.enter_context(mock.patch.object(process, "uvicorn_server", keep))
            patches.enter_context(mock.patch.object(process, "_serve", mock.Mock()))
            patches.enter_context(mock.patch("sys.argv", [package]))
            runpy.run_module(package, run_name="__main__", alter_sys=False)
        [app] = served
        return app


@pytest.fixture(scope="module")
async def apps(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[str, str | None], Any]:
    """Every process's app: with a token, without one, and with one that is empty."""
    folder = tmp_path_factory.mktemp("sandboxes")
    return {
        (spec.name, token): app_of(spec.name, spec.package, token, folder)
        for spec in PROCESSES
        for token in (TOKEN, None, "")
    }


def doors_of(name: str, routes: Iterable[Any], prefix: str = "") -> Iterator[Door]:
    for route in routes:
        if hasattr(route, "original_router"):
            yield from doors_of(name, route.original_router.routes, prefix + route.include_context.prefix)
            continue
        if isinstance(route, Mount) and isinstance(route.app, StaticFiles):
            # What the pages of the documents load: it answers GET alone.
            yield Door(name, "GET", f"{prefix}{route.path}/favicon.png")
            continue
        assert isinstance(route, Route), f"{route} of {name} is none of the kinds this test knows"
        for method in route.methods or ():
            yield Door(name, method, prefix + route.path)


@pytest.fixture(scope="module")
def doors(apps: Mapping[tuple[str, str | None], Any]) -> list[Door]:
    return [
        door for (name, token), app in apps.items() if token == TOKEN for door in doors_of(name, app.routes)
    ]


async def knock(
    app: Any, door: Door, token: str | None = None, length: int | None = None, form: bytes | None = None
) -> Answer:
    """Ask with a body that is JSON at least, or a form; or announce one of so many bytes."""
    path = door.path.replace("{sku}", "apple").replace(":path}", "}")
    while "{" in path:
        path = path[: path.index("{")] + ORDER + path[path.index("}") + 1 :]
    headers = [
        (b"content-type", b"application/json" if form is None else b"application/x-www-form-urlencoded"),
        (b"content-length", str(length or len(form or b"{}")).encode()),
        (b"idempotency-key", b"knock"),
    ]
    if token is not None:
        headers.append((b"authorization", f"Bearer {token}".encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": door.method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    started: dict[str, Any] = {}
    body = b"x" * length if length is not None else form or b"{}"
    # Then it hangs up, for a stream of events has no end.
    received = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        return next(received, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.update(message)

    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in started["headers"]}
    return Answer(started["status"], found)


def closed(doors: list[Door]) -> list[Door]:
    """Of the sandbox, which is outside, its faults; of every other process whatever is not for everybody."""
    return [door for door in doors if door in SANDBOX_ADMINS or is_ours(door)]


def is_ours(door: Door) -> bool:
    public = door.path in PUBLIC or door.path.startswith("/static-offline-docs")
    to_sign_in = door.path.startswith(("/sign-in", "/sign-out"))
    return door.process != SANDBOX and door.method != "HEAD" and not (public or to_sign_in or is_form(door))


def is_form(door: Door) -> bool:
    """Of the board, and the page of an address that leads nowhere, which is for everybody."""
    return door.path.startswith("/ui/") and (door.method == "POST" or door.path == "/ui/{rest:path}")


def wants(door: Door) -> tuple[str, ...]:
    return MACHINES if door in SANDBOX_ADMINS else ROLES[door]


def test_every_door_is_in_the_table_and_for_whom_it_says(
    apps: Mapping[tuple[str, str | None], Any], doors: list[Door]
) -> None:
    found = {
        Door(name, method, prefix + route.path): tuple(roles_of(route) or ())
        for (name, token), app in apps.items()
        if token == TOKEN and name != SANDBOX
        for prefix, route in api_routes_of(app.routes)
        for method in route.methods or ()
    }
    assert {door: roles for door, roles in found.items() if is_ours(door)} == ROLES
    assert {door.process for door in doors} == {spec.name for spec in PROCESSES}
    assert {door for door in doors if is_ours(door)} == ROLES.keys(), "a route that is none of FastAPI's"
    assert not (OUTSIDE | SANDBOX_ADMINS) - set(doors), "a door that is listed is no more"
    assert len([door for door in doors if door.process == "tracker"]) >= sum(len(r.routes) for r in ROUTERS)


def api_routes_of(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, APIRoute]]:
    for route in routes:
        if hasattr(route, "original_router"):
            yield from api_routes_of(route.original_router.routes, prefix + route.include_context.prefix)
        elif isinstance(route, APIRoute):
            yield prefix, route


def test_a_door_that_does_not_say_whom_it_is_for_is_noticed() -> None:
    router = APIRouter(prefix="/stock")

    @router.delete("/{sku}")
    async def forget(sku: str) -> dict[str, str]:
        """Somebody forgot the roles."""
        return {"forgotten": sku}

    settings = ProcessSettings(broker_url="", database_url="", http_port=1, admin_token=SecretStr(TOKEN))
    with pytest.raises(TypeError, match="does not say whom it is for"):
        create_app("careless", "", settings, mock.Mock(), [router])


async def test_nobody_gets_in_without_a_token(
    apps: Mapping[tuple[str, str | None], Any], doors: list[Door]
) -> None:
    found = {}
    for door in closed(doors):
        app = apps[door.process, TOKEN]
        found[door] = [await knock(app, door), await knock(app, door, "guessed"), await knock(app, door, "")]
    open_doors = {door: answers for door, answers in found.items() if {a.status for a in answers} != {401}}
    assert not open_doors, open_doors
    assert all(answer.headers["www-authenticate"] == "Bearer" for each in found.values() for answer in each)


@pytest.mark.parametrize("role", NAMED_ROLES)
async def test_every_door_refuses_the_roles_that_it_is_not_for(
    apps: Mapping[tuple[str, str | None], Any], doors: list[Door], role: Role
) -> None:
    ours = [door for door in doors if is_ours(door)]
    refused = {door for door in ours if (await knock_as(apps, door, role)).status == 403}
    assert refused == {door for door in ours if not any(role.covers(Role(each)) for each in wants(door))}


def test_every_form_is_in_the_table(doors: list[Door]) -> None:
    posted = {door.path for door in doors if is_form(door) and door.method == "POST"}
    assert posted == {path if path in posted else f"{path.rpartition('/')[0]}/{{verb}}" for path in FORMS}


@pytest.mark.parametrize("path", FORMS)
async def test_a_form_is_refused_without_a_token_and_with_one_of_another_role(
    apps: Mapping[tuple[str, str | None], Any], path: str
) -> None:
    app, door = apps["tracker", TOKEN], Door("tracker", "POST", path)
    assert (await knock(app, door, form=b"confirm=yes&note=x")).status == 401
    assert (await knock(app, door, form=b"confirm=yes&note=x&token=guessed")).status == 401
    refused = {
        role
        for role in (*NAMED_ROLES, Role.MACHINE)
        if (await knock(app, door, form=f"confirm=yes&note=x&token={BEARERS[role]}".encode())).status == 403
    }
    wanted = [Role(each) for each in FORMS[path]]
    assert refused == {r for r in (*NAMED_ROLES, Role.MACHINE) if not any(r.covers(each) for each in wanted)}


async def test_the_machines_token_is_nobodys_in_an_act(
    apps: Mapping[tuple[str, str | None], Any], doors: list[Door]
) -> None:
    ours = [door for door in doors if is_ours(door)]
    refused = {door for door in ours if (await knock_as(apps, door, Role.MACHINE)).status == 403}
    assert refused == {door for door in ours if "machine" not in wants(door)}
    assert {
        ("payment", "POST", "/payments/{order_id}/approve"),
        ("tracker", "POST", "/dead-letters/replay"),
    } < refused


async def knock_as(apps: Mapping[tuple[str, str | None], Any], door: Door, role: Role) -> Answer:
    """Whoever gets in finds nothing started, which is an answer too."""
    return await knock(apps[door.process, TOKEN], door, BEARERS[role])


@pytest.mark.parametrize("token", [None, ""], ids=["no token", "an empty token"])
async def test_without_a_token_configured_every_door_is_closed(
    apps: Mapping[tuple[str, str | None], Any], doors: list[Door], token: str | None
) -> None:
    for door in closed(doors):
        app = apps[door.process, token]
        assert [(await knock(app, door, guess)).status for guess in (None, "", "None")] == [403] * 3, door


async def test_no_body_is_larger_than_the_bound(
    apps: Mapping[tuple[str, str | None], Any], doors: list[Door]
) -> None:
    """Also where the token is right, and where nobody expects a body."""
    bound = SandboxSettings.model_fields["sandbox_body_limit_bytes"].default
    for door in doors:
        if door.method in HARMLESS or door == (SANDBOX, "DELETE", "/faults"):
            continue
        length = (bound if door.process == SANDBOX else MAX_BYTES) + 1
        answer = await knock(apps[door.process, TOKEN], door, TOKEN, length)
        assert answer.status == 413, (door, answer)
