"""The release before works on the schema and the broker of this one, beside it, before it and after it."""

import asyncio
import os
import subprocess
import sys
from itertools import product
from uuid import UUID

import pytest

from compose.demo.shop import Item
from compose.drills.load import KINDS, Kind
from compose.local.state import CHECKOUT
from compose.system import SERVICE_NAMES
from tests.system.stage import System

NAMES = (*SERVICE_NAMES, "tracker")
ORDERS_OF_EACH_KIND = 3
SETTLE_SECONDS = 90.0


@pytest.fixture
async def sku(system: System) -> str:
    return await system.new_sku(10_000)


async def place(system: System, sku: str) -> dict[UUID, str]:
    """Orders that go every way, and how each ends."""

    async def place_one(kind: Kind) -> tuple[UUID, str]:
        item = Item(sku if kind.in_stock else f"no-{sku}", 1, 700)
        return await system.shop.place(kind.customer, kind.payment_token, item), kind.end

    kinds = [kind for _, kind in product(range(ORDERS_OF_EACH_KIND), KINDS)]
    return dict(await asyncio.gather(*map(place_one, kinds)))


async def all_well(system: System, ends: dict[UUID, str]) -> None:
    """Each ends as it should, and nobody met a message that it could not handle."""
    await system.settle(ends, SETTLE_SECONDS)
    dead_letters = await system.execute(
        "tracker", "SELECT service, reason, detail FROM dead_letters WHERE kind <> 'case'"
    )
    assert dead_letters == []


async def run(system: System, name: str, number: int, release: dict[str, str]) -> None:
    """Have one replica be of this release (nothing is told it), or of the one before."""
    await system.stop(name, instance=number)
    await system.start(name, instance=number, extra_environment=release)


async def run_all(system: System, number: int, release: dict[str, str]) -> None:
    for name in NAMES:
        await run(system, name, number, release)


def test_it_is_the_release_before_that_runs(before: dict[str, str]) -> None:
    for name in ("order_svc", "saga_tracker", "events.runtime.batch"):
        program = f"import importlib; print(importlib.import_module({name!r}).__file__)"
        found = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | before,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.startswith(before["PYTHONPATH"])


async def test_it_works_on_the_new_schema_alone(system: System, before: dict[str, str], sku: str) -> None:
    await run_all(system, 1, before)
    await all_well(system, await place(system, sku))


async def test_it_works_beside_this_one(system: System, before: dict[str, str], sku: str) -> None:
    """Intake is the first replica's: first of the one release, then of the other."""
    await run_all(system, 1, before)
    await run_all(system, 2, {})
    await all_well(system, await place(system, sku))
    await run_all(system, 1, {})
    await run_all(system, 2, before)
    await all_well(system, await place(system, sku))


async def test_each_goes_on_with_what_the_other_began(
    system: System, before: dict[str, str], sku: str
) -> None:
    """Up, as an upgrade does, and back, while orders are on their way; some replicas end by a crash."""
    await run_all(system, 1, before)
    for release in ({}, before):
        ends = await place(system, sku)
        for name in ("payment", "notification"):
            await system.kill(name)
        await run_all(system, 1, release)
        await all_well(system, ends)
