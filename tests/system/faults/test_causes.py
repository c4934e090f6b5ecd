"""The 3 a.m. test: of a planted fault the saga names step, cause and act; and doing the act mends it."""

import html
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from aiohttp import ClientSession, web

from compose.demo.shop import Item
from compose.drills.stage import killed, misbehaving
from compose.waiting import seen_in_time
from tests.servers import serving
from tests.system.faults.test_full_queue import IMPATIENT, crammed
from tests.system.faults.verbs import refusing, restarted
from tests.system.stage import System

KNOWN_SECONDS = 60.0
MENDED_SECONDS = 90.0
POISON_MINOR = 666


Planting = Callable[[System, str], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """Inside `planted` it is there. The saga waits for `service`, and says so in these words.

    `planted` is given the SKU of the order, and may answer what the act is done with.
    """

    planted: Planting
    service: str
    kind: str
    error: str
    act: str
    amount_minor: int = 500
    party: str | None = None


@asynccontextmanager
async def frozen(system: System, _: str) -> AsyncIterator[None]:
    await system.pause("payment")
    try:
        yield
    finally:
        await system.resume("payment")


@asynccontextmanager
async def no_sandbox(system: System, _: str) -> AsyncIterator[None]:
    await system.kill("sandbox")
    try:
        yield
    finally:
        await system.start("sandbox")


@asynccontextmanager
async def no_fulfillment(system: System, _: str) -> AsyncIterator[None]:
    await system.stop("fulfillment")
    try:
        yield
    finally:
        await system.start("fulfillment")


@asynccontextmanager
async def another_provider(status: int, content_type: str, system: System, _: str) -> AsyncIterator[None]:
    """Payment is led to somebody who answers everything so; the act is to lead it back, and restart it."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text="<html>hello</html>", content_type=content_type)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with serving(app) as url, restarted(system, "payment", {"MURMURATION_PROVIDER_URL": url}):
        yield


@asynccontextmanager
async def slow_provider(system: System, _: str) -> AsyncIterator[None]:
    async with misbehaving(system.where, "provider", latency_seconds=20):
        yield


@asynccontextmanager
async def no_mail_nor_push(system: System, _: str) -> AsyncIterator[None]:
    async with (
        misbehaving(system.where, "mail", fail_rate=1),
        misbehaving(system.where, "push", fail_rate=1),
    ):
        yield


@asynccontextmanager
async def poison_in_payment(system: System, _: str) -> AsyncIterator[None]:
    async with refusing(system, "payment", "payments", f"amount_minor <> {POISON_MINOR}"):
        yield


@asynccontextmanager
async def poison_in_inventory(system: System, sku: str) -> AsyncIterator[None]:
    async with refusing(system, "inventory", "reservations", f"NOT units ? '{sku}'"):
        yield


@asynccontextmanager
async def locked_row(system: System, sku: str) -> AsyncIterator[None]:
    url = system.where.database_url("inventory")
    async with await psycopg.AsyncConnection.connect(url, application_name="left open") as somebody:
        await somebody.execute("SELECT FROM stock WHERE sku = %s FOR UPDATE", [sku])
        yield
        # It was ended by then.
        with pytest.raises(psycopg.OperationalError):
            await somebody.execute("SELECT 1")


@asynccontextmanager
async def full_queue(system: System, sku: str) -> AsyncIterator[None]:
    async with (
        restarted(system, "order", IMPATIENT),
        crammed(system, "inventory.facts", 1),
        killed(system, "inventory"),
    ):
        for _ in range(3):
            await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 500))
        yield


FAULTS = {
    "payment frozen": Fault(frozen, "payment", "service", "does not answer", "kill -CONT", party="payment"),
    "sandbox killed": Fault(
        no_sandbox, "payment", "call", "cannot be reached", "MURMURATION_PROVIDER_URL", party="provider"
    ),
    "provider 401": Fault(
        partial(another_provider, 401, "application/json"),
        "payment",
        "call",
        "refuses our credentials",
        "mend MURMURATION_PROVIDER_TOKEN and restart payment",
        party="provider",
    ),
    "provider 200 with HTML": Fault(
        partial(another_provider, 200, "text/html"),
        "payment",
        "call",
        "answered 200 with something else",
        "MURMURATION_PROVIDER_URL",
        party="provider",
    ),
    "provider slow": Fault(
        slow_provider, "payment", "call", "did not answer in time", "slow or hangs", party="provider"
    ),
    "poison in payment": Fault(
        poison_in_payment,
        "payment",
        "message",
        "CheckViolation: wrong of payments",
        "mend what payment fails at",
        amount_minor=POISON_MINOR,
    ),
    "poison in inventory": Fault(
        poison_in_inventory,
        "inventory",
        "message",
        "CheckViolation: wrong of reservations",
        "mend what inventory fails at",
    ),
    "mail and push 503": Fault(
        no_mail_nor_push, "notification", "call", r"(push answered 503|mail server)", "see to it|nobody is"
    ),
    "fulfilment stopped": Fault(
        no_fulfillment, "fulfillment", "service", "is not there", "start it", party="fulfillment"
    ),
    "row locked": Fault(locked_row, "inventory", "lock", "", r"pg_terminate_backend\(\d+\)"),
    "queue full": Fault(
        full_queue, "inventory", "publish", "the broker refuses", "make room in the queue", party="broker"
    ),
}
pytestmark = pytest.mark.usefixtures("own_servers")


@pytest.fixture(scope="module")
async def unhurried(system: System) -> AsyncIterator[None]:
    """Who mends something has the time for it, on a slow machine, too: nobody is late meanwhile."""
    late = {
        "MURMURATION_STEP_DEADLINE_SECONDS": json.dumps({"payment": 90, "inventory": 90, "fulfillment": 90})
    }
    async with restarted(system, "tracker", {**late, "MURMURATION_SAGA_DEADLINE_SECONDS": "300"}):
        yield


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_the_saga_names_step_cause_and_act_and_the_act_mends_it(system: System, fault: Fault) -> None:
    sku = await system.new_sku(10)
    async with fault.planted(system, sku):
        order_id = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, fault.amount_minor))

        wait = await _named(system, order_id, fault)
        await _on_the_page(system, order_id, fault)
        assert wait["cause"]["known_at"] >= wait["cause"]["since"]
        if fault.kind in ("call", "message"):
            # Each attempt by itself, for the picture.
            failed_at = wait["cause"]["failed_at"]
            assert failed_at == sorted(failed_at)
            assert 1 <= len(failed_at) <= wait["cause"]["attempt"]
        assert str(fault.amount_minor) not in json.dumps([wait["cause"]["error"], wait["act"]])
        if pid := re.search(r"pg_terminate_backend\((\d+)\)", wait["act"]):
            # What the act says is done as it says it.
            await system.execute(fault.service, "SELECT pg_terminate_backend(%s)", [int(pid[1])])
    await system.settle({order_id: "COMPLETED"}, MENDED_SECONDS)


def _fits(wait: dict[str, Any], fault: Fault) -> bool:
    cause = wait["cause"]
    return bool(
        cause
        and wait["service"] == fault.service
        and cause["kind"] == fault.kind
        and re.search(fault.error, cause["error"] or "")
        and re.search(fault.act, wait["act"])
        and fault.party in (None, cause["party"])
    )


async def _named(system: System, order_id: UUID, fault: Fault) -> dict[str, Any]:
    """The wait that shows the fault. Fails with what is shown instead."""
    seen: list[dict[str, Any]] = []

    async def look() -> dict[str, Any] | None:
        saga = await system.shop.saga(order_id) or {"waits": []}
        seen[:] = saga["waits"]
        return next((wait for wait in seen if _fits(wait, fault)), None)

    found = await seen_in_time(look, bool, KNOWN_SECONDS)
    assert found, f"not shown; instead {seen}"
    return found


async def _on_the_page(system: System, order_id: UUID, fault: Fault) -> None:
    """The saga's page, too, names step, cause and act. Fails with what it shows instead."""
    seen: list[str] = []

    async def shown() -> bool:
        async with (
            ClientSession(system.where.http("tracker"), headers={"Accept": "text/html"}) as browser,
            browser.get(f"/ui/sagas/{order_id}") as answer,
        ):
            page = await answer.text()
        found = re.search(r"<dt>Waits for</dt><dd>(.*?)</dd>", page, re.DOTALL)
        seen[:] = [html.unescape(re.sub(r"<[^>]+>|\s+", " ", found[1]))] if found else [page[:1_000]]
        step, _, act = seen[0].partition("What to do:")
        return bool(
            fault.service in step and re.search(fault.error or "pid", step) and re.search(fault.act, act)
        )

    assert await seen_in_time(shown, bool, KNOWN_SECONDS), f"not shown; instead {seen}"


@pytest.mark.parametrize(
    ("service", "poison", "amount_minor"),
    [("payment", poison_in_payment, POISON_MINOR), ("inventory", poison_in_inventory, 500)],
)
async def test_a_poison_message_leaves_a_dead_letter_and_a_reason_although_the_deadline_wins(
    system: System, service: str, poison: Planting, amount_minor: int
) -> None:
    sku = await system.new_sku(1)
    # Nobody else orders here, so a service that fails at the one order counts as down.
    impatient = {"MURMURATION_SERVICE_PATIENCE_SECONDS": json.dumps({service: 3})}
    async with restarted(system, "tracker", impatient), poison(system, sku):
        order_id = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, amount_minor))

        async def named() -> dict[str, Any] | None:
            saga = await system.shop.saga(order_id)
            return saga if saga and saga["state"] == "CANCELLED" and saga["dead_letters"] else None

        saga = await seen_in_time(named, bool, 90)
        assert saga, await system.shop.saga(order_id)
    assert saga["timed_out"]
    assert re.match(
        rf"{service} late: it fails at .*, CheckViolation: wrong of \w+, \d attempts", saga["reason"]
    )
    assert {(letter["service"], letter["reason"]) for letter in saga["dead_letters"]} == {
        (service, "CheckViolation")
    }
    await system.settle({order_id: "CANCELLED"})

    async def resolved() -> bool:
        found = await system.shop.ask("tracker", "GET", f"/dead-letters?order_id={order_id}&state=open")
        return not found["dead_letters"]

    assert await seen_in_time(resolved, bool, 60)
    found = await system.shop.ask("tracker", "GET", f"/dead-letters?order_id={order_id}&state=resolved")
    assert found["dead_letters"]
    audit = await system.shop.ask("tracker", "GET", f"/audit?order_id={order_id}")
    assert any("ended without it: CANCELLED" in (entry["note"] or "") for entry in audit["entries"])
