"""`make check` and `make demo`: what they print, when they fail, and fairness to orders on their way."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from rich.console import Console

from compose.check import SENTENCE, check, examine
from compose.demo import command
from compose.demo.play import WRONG_CONSTRAINT, sabotage_of
from compose.demo.scenarios import SCENARIOS
from compose.demo.shop import Item
from compose.local.commands import RigError
from compose.local.rig import LocalRig
from compose.snapshot import Reader, sources_of
from saga_tracker.consistency.rules import INVARIANTS
from tests.system.burst import new_burst
from tests.system.stage import System, until

PATIENCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plant:
    """Something wrong: in whose database, how it gets there and away again, and what must be found."""

    service: str
    plant: str
    undo: str
    found: str


PLANTS = {
    "a reservation that holds more than is reserved": Plant(
        "inventory",
        "UPDATE reservations SET units = jsonb_build_object(%(sku)s::text, 2) WHERE order_id = %(order)s",
        "UPDATE reservations SET units = jsonb_build_object(%(sku)s::text, 1) WHERE order_id = %(order)s",
        "stock_has_its_orders",
    ),
    "a payment that does not know of its charge": Plant(
        "payment",
        "UPDATE payments SET status = 'declined' WHERE order_id = %(order)s",
        "UPDATE payments SET status = 'captured' WHERE order_id = %(order)s",
        "payment_matches_the_provider",
    ),
    "an order cancelled after its goods left": Plant(
        "order",
        "UPDATE orders SET status = 'cancelled' WHERE order_id = %(order)s",
        "UPDATE orders SET status = 'confirmed' WHERE order_id = %(order)s",
        "nothing_leaves_early",
    ),
    "a customer who was not told": Plant(
        "notification",
        "UPDATE notices SET status = 'sending' WHERE order_id = %(order)s",
        "UPDATE notices SET status = 'notified' WHERE order_id = %(order)s",
        "customer_is_notified",
    ),
    "a tracker that lags for good": Plant(
        "tracker",
        "UPDATE sagas SET state = 'PENDING_PAYMENT' WHERE order_id = %(order)s",
        "UPDATE sagas SET state = 'COMPLETED' WHERE order_id = %(order)s",
        "tracker_agrees",
    ),
    "an order that nobody ever heard of": Plant(
        "order",
        "INSERT INTO orders (order_id, status, lines, amount_minor) VALUES (%(other)s, 'placed', '[]', 1)",
        "DELETE FROM orders WHERE order_id = %(other)s",
        "every_order_ends",
    ),
}


@asynccontextmanager
async def planted(system: System, plant: Plant) -> AsyncIterator[None]:
    sku = await system.new_sku(5)
    order_id = await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 100))
    await system.settle({order_id: "COMPLETED"})
    names = {"order": order_id, "other": uuid4(), "sku": sku}
    await system.execute(plant.service, plant.plant, names)
    try:
        yield
    finally:
        await system.execute(plant.service, plant.undo, names)


def environment_for(rig: LocalRig) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MURMURATION_")}
    return {**ours, "MURMURATION_STATE_DIR": str(rig.state_dir)}


def run_command(rig: LocalRig, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "compose", *arguments],
        env=environment_for(rig),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
async def test_it_finds_what_is_wrong(system: System, plant: Plant) -> None:
    async with planted(system, plant), Reader(sources_of(system.rig.addresses)) as reader:
        findings = await examine(reader, PATIENCE_SECONDS)
    assert plant.found in {violation.invariant.name for violation in findings.violations}
    await system.settle()


async def test_the_command_says_what_is_wrong_and_fails(system: System) -> None:
    async with planted(system, PLANTS["a payment that does not know of its charge"]):
        bad = await asyncio.to_thread(run_command, system.rig, "check", "--patience", "0")
    assert bad.returncode == 1, bad.stdout + bad.stderr
    assert "FAIL Payment and the provider's ledger agree on an order's money" in bad.stdout
    assert "payment_matches_the_provider: order " in bad.stdout
    good = await asyncio.to_thread(run_command, system.rig, "check")
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.count("\n  ok   ") == len(INVARIANTS) + 1
    assert f"\n  ok   {SENTENCE}\n" in good.stdout


async def test_orders_on_their_way_are_no_violation(system: System) -> None:
    """However often it looks at a system that is never quiet."""
    burst = await new_burst(system, 240, 8)
    async with asyncio.TaskGroup() as group, Reader(sources_of(system.rig.addresses)) as reader:
        running = group.create_task(burst.run())
        await burst.accepted(10)
        while not running.done():
            findings = await examine(reader, patience_seconds=0)
            assert not findings.violations, "\n".join(map(str, findings.violations))
    await system.settle(burst.ends)


def test_nothing_running_is_shown_so(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="nothing is running"):
        check(LocalRig(tmp_path / "none"), Console(file=StringIO()))


async def test_a_system_with_a_part_missing_is_shown_so(system: System) -> None:
    await system.stop("notification")
    try:
        answer = await asyncio.to_thread(run_command, system.rig, "check")
    finally:
        await system.start("notification")
    assert answer.returncode == 1
    assert "only a part of the system is running: notification is not" in answer.stderr


async def test_the_demo_tells_every_saga_and_leaves_a_running_system_running(system: System) -> None:
    """Some of them: test_scenarios.py plays all."""
    names = ("in_stock", "not_served", "manual", "late_fact")
    played = [scenario for scenario in SCENARIOS if scenario.name in names]
    before = {component.name: component.pid for component in system.rig.status()}
    only = [f"--only={scenario.name}" for scenario in played]
    answer = await asyncio.to_thread(run_command, system.rig, "demo", *only)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for number, scenario in enumerate(played, 1):
        assert answer.stdout.count(f"{number}  {scenario.title}  ") == 1, scenario.title
        assert f"{number} {scenario.fault} " in answer.stdout
    assert "<- fulfillment.shipment_rejected" in answer.stdout
    assert answer.stdout.count(" hold       pass\n") == len(played)
    assert f"{len(played)} of {len(played)} orders ended as expected" in answer.stdout
    assert max(map(len, answer.stdout.splitlines())) <= 100
    assert "\x1b" not in answer.stdout
    assert {component.name: component.pid for component in system.rig.status()} == before


@pytest.mark.usefixtures("system")
def test_the_demo_fails_when_an_order_ends_otherwise(rig: LocalRig, monkeypatch: pytest.MonkeyPatch) -> None:
    [declined] = [scenario for scenario in SCENARIOS if scenario.name == "declined"]
    wrong = replace(declined, end="COMPLETED", statuses={**declined.statuses, "inventory": "sold"})
    monkeypatch.setattr(command, "SCENARIOS", (wrong,))
    output = StringIO()
    assert not command.demo(rig, Console(file=output, width=100))
    assert (
        "\nended otherwise: Card declined: the tracker says CANCELLED, not COMPLETED; "
        "inventory says released, not sold\n0 of 1 orders ended as expected"
    ) in output.getvalue()


async def test_a_demo_that_is_interrupted_mends_what_it_broke(system: System) -> None:
    payment = psutil.Process(system.rig.pid("payment"))

    async def frozen() -> bool:
        return bool(payment.status() == psutil.STATUS_STOPPED)

    line = sys.executable, "-m", "compose", "demo", "--only=timed_out"
    demo = await asyncio.create_subprocess_exec(
        *line, env=environment_for(system.rig), stdout=subprocess.DEVNULL
    )
    try:
        await until(frozen)
    finally:
        demo.send_signal(signal.SIGINT)
        code = await demo.wait()
    assert code == 128 + signal.SIGINT
    assert not await frozen()
    await system.settle()


async def test_whatever_happens_the_wrong_constraint_goes(system: System) -> None:
    async def known() -> bool:
        query = "SELECT 1 FROM pg_constraint WHERE conname = %s"
        return bool(await system.execute("fulfillment", query, [WRONG_CONSTRAINT]))

    async def break_off() -> None:
        with sabotage_of(system.rig) as sabotage:
            await sabotage.constrain_dispatches()
            assert await known()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await break_off()
    assert not await known()


def test_a_scenario_that_nobody_wrote_is_refused(rig: LocalRig) -> None:
    with pytest.raises(RigError, match="there is no scenario flood"):
        command.demo(rig, Console(file=StringIO()), only=["flood"])
