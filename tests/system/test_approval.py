"""An order above the limit waits for a person, whatever restarts meanwhile, and for no longer than it may."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientSession, CookieJar

from compose.demo.shop import Item, Refused
from events.http.tokens import make
from payment_svc.service import DEFAULT_APPROVAL_LIMIT_MINOR
from tests.system.stage import System, until

TOO_MUCH = DEFAULT_APPROVAL_LIMIT_MINOR + 1


async def _held(system: System) -> UUID:
    order_id = await system.shop.place("cust_ada", "tok_ok", Item(await system.new_sku(1), 1, TOO_MUCH))
    await until(partial(_stands, system, order_id, "AWAITING_APPROVAL"))
    return order_id


async def _stands(system: System, order_id: UUID, state: str) -> bool:
    saga = await system.shop.saga(order_id)
    return saga is not None and saga["state"] == state


async def _is_let_in(system: System, token: str) -> bool:
    headers = {"Authorization": f"Bearer {token}"}
    try:
        await system.shop.ask("payment", "GET", f"/payments/{uuid4()}", headers=headers)
    except Refused as refused:
        return refused.status == 404
    return False


@pytest.mark.usefixtures("own_servers")
async def test_it_stays_held_while_everything_restarts(system: System) -> None:
    approved, rejected = await _held(system), await _held(system)
    await asyncio.to_thread(system.rig.down)
    await asyncio.to_thread(system.rig.up)
    await until(partial(_stands, system, approved, "AWAITING_APPROVAL"))
    decision = {"note": "a known customer"}
    adas = make(system.rig.addresses.tokens_file, "ada", "approver")

    async def decide(order_id: UUID, verb: str) -> None:
        path, headers = f"/payments/{order_id}/{verb}", {"Authorization": f"Bearer {adas}"}
        await system.shop.ask("payment", "POST", path, body=decision, headers=headers)

    # A second, and every process knows a token that was made while it ran.
    await until(lambda: _is_let_in(system, adas))
    await decide(approved, "approve")
    await decide(rejected, "reject")
    await system.settle({approved: "COMPLETED", rejected: "CANCELLED"})
    payment = await system.shop.ask("payment", "GET", f"/payments/{approved}")
    assert (payment["decided_by"], payment["decision_note"]) == ("ada", "a known customer")


@asynccontextmanager
async def _signed_in(system: System, name: str, role: str) -> AsyncIterator[tuple[ClientSession, str]]:
    """A session on the board, and what its forms send along."""
    token = make(system.rig.addresses.tokens_file, name, role)
    jar = CookieJar(unsafe=True)  # of a host without a name, too
    async with ClientSession(system.where.http("tracker"), cookie_jar=jar) as browser:

        async def entered() -> bool:
            page = await (await browser.get("/sign-in")).text()
            form = {"csrf_token": _csrf_in(page), "token": token, "next": "/"}
            return (await browser.post("/sign-in", data=form, allow_redirects=False)).status == 303

        await until(entered, "the tracker learns of the token")
        yield browser, _csrf_in(await (await browser.get("/sign-in")).text())


def _csrf_in(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    return found[1]


async def test_who_signed_in_decides_on_the_board_in_their_own_name(system: System) -> None:
    approved, rejected, cancelled = [await _held(system) for _ in range(3)]
    acts = {"approve": approved, "reject": rejected, "cancel": cancelled}
    for name, role, expected in (
        ("ben", "operator", {"approve": 403, "reject": 403, "cancel": 303}),
        ("ada", "approver", {"approve": 303, "reject": 303}),
    ):
        async with _signed_in(system, name, role) as (browser, csrf):
            for verb, status in expected.items():
                form = {"csrf_token": csrf, "note": f"{verb} it", "confirm": "yes"}
                path = f"/ui/sagas/{acts[verb]}/{verb}"
                answer = await browser.post(path, data=form, allow_redirects=False)
                assert answer.status == status, await answer.text()
    await system.settle({approved: "COMPLETED", rejected: "CANCELLED", cancelled: "CANCELLED"})
    for verb, action, by in (
        ("approve", "approved", "ada"),
        ("reject", "rejected", "ada"),
        ("cancel", "cancelled", "ben"),
    ):
        audit = await system.shop.ask("tracker", "GET", f"/audit?order_id={acts[verb]}")
        entries = [(entry["by"], entry["action"], entry["note"]) for entry in audit["entries"]]
        assert entries == [(by, action, f"{verb} it")]
        if by == "ada":
            payment = await system.shop.ask("payment", "GET", f"/payments/{acts[verb]}")
            assert (payment["decided_by"], payment["decision_note"]) == ("ada", f"{verb} it")


async def test_nobody_decides_in_time(system: System) -> None:
    await system.stop("tracker")
    soon = {"MURMURATION_APPROVAL_DEADLINE_SECONDS": "1"}
    await system.start("tracker", extra_environment=soon)
    try:
        order_id = await system.shop.place("cust_ada", "tok_ok", Item(await system.new_sku(1), 1, TOO_MUCH))
        await until(partial(_stands, system, order_id, "CANCELLED"))
    finally:
        await system.stop("tracker")
        await system.start("tracker")
    await system.settle({order_id: "CANCELLED"})
    payment = await system.shop.ask("payment", "GET", f"/payments/{order_id}")
    assert (payment["status"], payment["reason"]) == ("declined", "approval_expired")
    with pytest.raises(Refused, match=r"409: .* nobody decided about it in time"):
        await system.shop.approve(order_id, "too late")
