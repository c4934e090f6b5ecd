"""What changes something beyond a customer's own order needs the admin's token, in every process.

An endpoint that nobody listed as open has to be closed: a new one fails here until it is guarded, or listed.
"""

import runpy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from fastapi import APIRouter
from pydantic import SecretStr
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from compose.local.provision import SANDBOX
from compose.sandbox.app import Sandbox, SandboxSettings
from compose.system import PROCESSES
from events.http.application import create_app
from events.runtime import process
from events.runtime.settings import ProcessSettings
from saga_tracker.service import ROUTERS

TOKEN = "the-admins"
ORDER = "00000000-0000-4000-8000-000000000001"
MAX_BYTES = 10_000
HARMLESS = {"GET", "HEAD", "OPTIONS"}
# A customer's own doing. Their order id is what they know and others do not.
CUSTOMERS = {("order", "POST", "/orders"), ("order", "POST", "/orders/{order_id}/cancel")}
# The sandbox plays parties outside the system, whose own doors are not ours to guard; its faults are.
OUTSIDE = {
    (SANDBOX, "POST", path)
    for path in (
        *("/provider/authorisations", "/provider/captures", "/provider/voids", "/provider/refunds"),
        *("/provider/credit-notes", "/carrier/shipments", "/carrier/cancellations", "/carrier/dispatches"),
        "/push/messages",
    )
}
ADMINS_TO_READ = {("tracker", "GET", "/dead-letters/{letter_id}")}
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


async def knock(app: Any, door: Door, token: str | None = None, length: int | None = None) -> Answer:
    """Ask with a body that is JSON at least; or announce one of so many bytes."""
    path = door.path.replace("{sku}", "apple").replace(":path}", "}")
    while "{" in path:
        path = path[: path.index("{")] + ORDER + path[path.index("}") + 1 :]
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(length or 2).encode()),
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
    body = iter([b"{}"] if length is None else [b"x" * length])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": next(body, b""), "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.update(message)

    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in started["headers"]}
    return Answer(started["status"], found)


def closed(doors: list[Door]) -> list[Door]:
    changing = [door for door in doors if door.method not in HARMLESS and door not in CUSTOMERS | OUTSIDE]
    return [*changing, *(door for door in doors if door in ADMINS_TO_READ)]


def test_the_walk_sees_every_door(doors: list[Door]) -> None:
    """Of every process, and those that must not be overlooked."""
    assert {door.process for door in doors} == {spec.name for spec in PROCESSES}
    known = {
        ("inventory", "PUT", "/stock/{sku}"),
        ("payment", "POST", "/payments/{order_id}/approve"),
        ("payment", "POST", "/payments/{order_id}/reject"),
        ("tracker", "POST", "/dead-letters/replay"),
        ("tracker", "POST", "/sagas/{order_id}/settle"),
        ("tracker", "POST", "/reconciliation/run"),
        (SANDBOX, "PUT", "/faults"),
        (SANDBOX, "DELETE", "/faults"),
    }
    assert known <= set(closed(doors))
    listed = CUSTOMERS | OUTSIDE | ADMINS_TO_READ
    assert not listed - set(doors), "a door that is listed is no more"
    assert len([door for door in doors if door.process == "tracker"]) >= sum(len(r.routes) for r in ROUTERS)


async def test_an_unguarded_door_is_noticed() -> None:
    router = APIRouter(prefix="/stock")

    @router.delete("/{sku}")
    async def forget(sku: str) -> dict[str, str]:
        """Somebody forgot the token."""
        return {"forgotten": sku}

    settings = ProcessSettings(broker_url="", database_url="", http_port=1, admin_token=SecretStr(TOKEN))
    app = create_app("careless", "", settings, mock.Mock(), [router])
    [door] = closed(list(doors_of("careless", app.routes)))
    assert door == ("careless", "DELETE", "/stock/{sku}")
    assert (await knock(app, door)).status == 200


async def test_nobody_gets_in_without_the_token(
    apps: Mapping[tuple[str, str | None], Any], doors: list[Door]
) -> None:
    found = {}
    for door in closed(doors):
        app = apps[door.process, TOKEN]
        found[door] = [await knock(app, door), await knock(app, door, "guessed"), await knock(app, door, "")]
    open_doors = {door: answers for door, answers in found.items() if {a.status for a in answers} != {401}}
    assert not open_doors, open_doors
    assert all(answer.headers["www-authenticate"] == "Bearer" for each in found.values() for answer in each)


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
