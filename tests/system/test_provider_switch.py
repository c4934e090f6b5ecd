"""The provider is changed under way, and back: what was begun with one is finished with that one."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientSession

from compose.demo.shop import Item
from compose.drills.stage import misbehaving
from compose.local.rig import LocalRig
from payment_svc.payment import SANDBOX, STRIPE
from tests.system.conftest import rig_of_its_own
from tests.system.stage import System, until

LATE = 300
# Nothing is late while processes are restarted on a machine that is busy.
PATIENT = {
    "MURMURATION_STEP_DEADLINE_SECONDS": f'{{"payment": {LATE}, "fulfillment": {LATE}, "order": {LATE}}}',
    "MURMURATION_SAGA_DEADLINE_SECONDS": str(2 * LATE),
}
ABOVE_THE_LIMIT_MINOR = 1_000_001
AMOUNT_MINOR = 1_250
TOKENS = {SANDBOX: "tok_ok", STRIPE: "pm_card_visa"}
Movements = Mapping[UUID, list[str]]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def rig() -> Iterator[LocalRig]:
    """A system of its own, for its payments are held up and its processes restarted."""
    with rig_of_its_own(PATIENT) as rig:
        yield rig


@dataclass(frozen=True)
class Begun:
    """Orders whose payments were begun with one provider, and are to be finished: how, says each's name."""

    completed: UUID
    approved: UUID
    refunded: UUID
    voided: UUID

    @property
    def all(self) -> tuple[UUID, ...]:
        return self.completed, self.approved, self.refunded, self.voided

    @property
    def ends(self) -> dict[UUID, str]:
        return {
            self.completed: "COMPLETED",
            self.approved: "COMPLETED",
            self.refunded: "CANCELLED",
            self.voided: "CANCELLED",
        }


async def payment_is(system: System, order_id: UUID, so: Callable[[dict[str, Any]], bool]) -> None:
    async def look() -> bool:
        rows = await system.execute(
            "payment",
            "SELECT row_to_json(payments) FROM payments WHERE order_id = %s",
            [order_id],
        )
        return bool(rows) and so(rows[0][0])

    await until(look, f"the payment of {order_id}")


async def begin(system: System, provider: str) -> Begun:
    """Four orders, which stand at four points of their way. The carrier does not work, so they stay there."""
    token, sku = TOKENS[provider], await system.new_sku(10)
    cheap, dear = Item(sku, 1, AMOUNT_MINOR), Item(sku, 1, ABOVE_THE_LIMIT_MINOR)
    completed = await system.shop.place("cust_ada", token, cheap)
    refunded = await system.shop.place("cust_refused", token, cheap)
    approved = await system.shop.place("cust_ada", token, dear)
    for order_id, status in ((completed, "captured"), (refunded, "captured"), (approved, "held")):
        await payment_is(system, order_id, lambda row, status=status: row["status"] == status)  # type: ignore[misc]
    async with misbehaving(system.where, "provider", fail_rate=1):
        voided = await system.shop.place("cust_ada", token, cheap)
        await payment_is(system, voided, lambda row: row["status"] == "authorising")
        await system.shop.cancel(voided)
        await payment_is(system, voided, lambda row: bool(row["withdrawn"]))
        await system.stop("payment")
    return Begun(completed, approved, refunded, voided)


@asynccontextmanager
async def carrier_away(system: System) -> AsyncIterator[None]:
    async with misbehaving(system.where, "carrier", fail_rate=1):
        yield


async def begun_and_switched(system: System, before: str, after: str) -> Begun:
    """What was begun with the one, once payments are begun with the other."""
    async with carrier_away(system):
        begun = await begin(system, before)
        await system.start("payment", extra_environment={"MURMURATION_PROVIDER": after})
    return begun


async def at_stripe(system: System, order_id: UUID) -> str | None:
    """How the payment stands there; None where it was never there."""
    [(intent,)] = await system.execute(
        "payment", "SELECT provider_payment FROM payments WHERE order_id = %s", [order_id]
    )
    if intent is None:
        return None
    headers = {"Authorization": "Bearer sk_test_look"}
    async with (
        ClientSession(system.where.http("sandbox"), headers=headers) as session,
        session.get(f"/v1/payment_intents/{intent}?expand[0]=latest_charge") as answer,
    ):
        found = await answer.json()
    assert found["metadata"] == {"order_id": str(order_id)}
    charge = found["latest_charge"] or {}
    return "refunded" if charge.get("refunded") else str(found["status"])


async def intents_at_stripe(system: System) -> int:
    async with (
        ClientSession(system.where.http("sandbox")) as session,
        session.get("/stripe/books") as answer,
    ):
        counted: dict[str, int] = (await answer.json())["objects"].get("payment_intent", {})
        return sum(counted.values())


@pytest.mark.usefixtures("own_servers")
async def test_what_was_begun_with_a_provider_is_finished_with_it(system: System) -> None:
    with_sandbox = await begun_and_switched(system, SANDBOX, STRIPE)
    # From here on with the other, and what is under way goes on with the first.
    await system.shop.approve(with_sandbox.approved, "a customer of ten years")
    ended = await system.settle(with_sandbox.ends)
    assert [await at_stripe(system, order_id) for order_id in with_sandbox.all] == [None] * 4
    assert await intents_at_stripe(system) == 0
    for order_id, expected in (
        (with_sandbox.completed, ["authorised", "captured"]),
        (with_sandbox.approved, ["authorised", "captured"]),
        (with_sandbox.refunded, ["authorised", "captured", "refunded"]),
        (with_sandbox.voided, ["authorised", "voided"]),
    ):
        assert [movement.kind for movement in ended[order_id].money.movements] == expected

    with_stripe = await begun_and_switched(system, STRIPE, SANDBOX)
    await system.shop.approve(with_stripe.approved, "a customer of ten years")
    last = await system.shop.place("cust_ada", "tok_ok", Item(await system.new_sku(1), 1, AMOUNT_MINOR))
    ended = await system.settle(with_stripe.ends | {last: "COMPLETED"})
    stands = [await at_stripe(system, order_id) for order_id in (*with_stripe.all, last)]
    assert stands == ["succeeded", "succeeded", "refunded", "canceled", None]
    assert await intents_at_stripe(system) == 4
    for order_id, expected in (
        (with_stripe.completed, ["authorised", "captured"]),
        (with_stripe.approved, ["authorised", "captured"]),
        (with_stripe.refunded, ["authorised", "captured", "refunded"]),
        # Registered, and cancelled before any money was asked for.
        (with_stripe.voided, []),
    ):
        assert [movement.kind for movement in ended[order_id].money.movements] == expected
