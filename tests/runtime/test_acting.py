"""The tracker acts at a service for who signed in there: what it states of them is signed, and soon void."""

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from fastapi import APIRouter, FastAPI
from itsdangerous import URLSafeSerializer
from pydantic import SecretStr

from events.http.authentication import (
    ACTING_HEADER,
    ADMIN_TOKEN,
    TOKEN,
    Acting,
    Approver,
    Authentication,
    Identity,
)
from events.http.problems import answer_with_problems
from events.http.tokens import Role, named
from events.runtime.settings import ProcessSettings
from tests.tracker.watch import Answer, ask

MACHINES = "the-machines"
PATH = f"/payments/{uuid4()}/approve"
ADA = Identity("ada", Role.APPROVER, "OpenID Connect")
BEN = Identity("ben", Role.OPERATOR, TOKEN)


def settings(**changes: Any) -> ProcessSettings:
    given: dict[str, Any] = {"broker_url": "", "database_url": "", "http_port": 0, "orders": "clients"}
    tokens = str(named("carla", "admin", "carlas"))
    return ProcessSettings(**given | {"admin_token": SecretStr(MACHINES), "tokens": tokens} | changes)


def service(**changes: Any) -> FastAPI:
    """Answers who it takes its caller for."""
    router = APIRouter()

    @router.post("/payments/{order_id}/approve")
    async def approve(who: Approver) -> dict[str, str]:
        return {"by": who.name, "role": who.role, "signed_in_by": who.signed_in_by}

    app = FastAPI()
    app.state.authentication = Authentication(settings(**changes))
    app.include_router(router)
    answer_with_problems(app)
    return app


async def acts(app: FastAPI, assertion: str, token: str | None = MACHINES, path: str = PATH) -> Answer:
    return await ask(app, "POST", path, token=token, headers={ACTING_HEADER.lower(): assertion})


async def test_who_is_acted_for_is_who_acts() -> None:
    assertion = Acting(settings()).sign(ADA, "POST", PATH)
    answer = await acts(service(), assertion)
    assert answer.json() == {
        "by": "ada",
        "role": "approver",
        "signed_in_by": "OpenID Connect, at the tracker",
    }


async def test_their_role_counts_and_not_that_of_the_tracker() -> None:
    answer = await acts(service(), Acting(settings()).sign(BEN, "POST", PATH))
    assert answer.status == 403
    assert answer.json()["detail"] == "this takes the role approver; ben is operator"
    machine = Identity("machine", Role.MACHINE, ADMIN_TOKEN)
    answer = await acts(service(), Acting(settings()).sign(machine, "POST", PATH))
    assert answer.status == 403


def with_another_key(assertion: Callable[..., str]) -> str:
    del assertion
    return Acting(settings(admin_token=SecretStr("guessed"))).sign(ADA, "POST", PATH)


def with_no_key(assertion: Callable[..., str]) -> str:
    del assertion
    claims = {"name": "ada", "role": "admin", "how": TOKEN, "for": f"POST {PATH}", "at": int(time.time())}
    return str(URLSafeSerializer("", ACTING_HEADER).dumps(claims))


def altered(assertion: Callable[..., str]) -> str:
    payload, _, signature = assertion(BEN, "POST", PATH).rpartition(".")
    others = assertion(ADA, "POST", PATH).rpartition(".")[0]
    assert payload != others
    return f"{others}.{signature}"


FORGED: list[Callable[[Callable[..., str]], str]] = [
    with_another_key,
    with_no_key,
    altered,
    lambda assertion: str(assertion(ADA, "POST", f"/payments/{uuid4()}/approve")),
    lambda assertion: str(assertion(ADA, "POST", PATH.replace("approve", "reject"))),
    lambda assertion: str(assertion(ADA, "GET", PATH)),
    lambda _: "",
    lambda _: "ada",
]


@pytest.mark.parametrize("forge", FORGED)
async def test_what_was_not_signed_for_this_request_is_refused(forge: Callable[[Any], str]) -> None:
    answer = await acts(service(), forge(Acting(settings()).sign))
    assert answer.status == 401
    assert answer.json()["detail"] == f"{ACTING_HEADER} was not signed for this request"


@pytest.mark.parametrize("seconds", [-31, 31])
async def test_what_was_not_signed_just_now_is_refused(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    assertion = Acting(settings()).sign(ADA, "POST", PATH)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + seconds)
    answer = await acts(service(), assertion)
    assert answer.status == 401
    assert "is older than 30 s" in answer.json()["detail"]
    monkeypatch.setattr(time, "time", lambda: now + seconds - seconds // 10)
    assert (await acts(service(), assertion)).status == 200


@pytest.mark.parametrize(("token", "status"), [(None, 403), ("carlas", 403), ("guessed", 401)])
async def test_nobody_but_the_tracker_says_for_whom_it_acts(token: str | None, status: int) -> None:
    assertion = Acting(settings()).sign(ADA, "POST", PATH)
    assert (await acts(service(), assertion, token)).status == status


async def test_a_secret_of_its_own_counts_instead_of_the_admin_token() -> None:
    own = {"acting_secret": SecretStr("between tracker and services")}
    assert (await acts(service(**own), Acting(settings(**own)).sign(ADA, "POST", PATH))).status == 200
    assert (await acts(service(**own), Acting(settings()).sign(ADA, "POST", PATH))).status == 401


async def test_without_a_secret_nobody_is_acted_for() -> None:
    none = Acting(settings(admin_token=None))
    assert not none
    assertion = Acting(settings()).sign(ADA, "POST", PATH)
    assert (await acts(service(admin_token=None), assertion, "carlas")).status == 403
