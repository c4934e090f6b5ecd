"""Short drills on a real system: one that passes, and bugs that are caught."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from compose.demo.shop import Item
from compose.drills.catalogue import provider, servers, services
from compose.drills.catalogue.servers import cutting_off_from_broker
from compose.drills.catalogue.services import killing_services
from compose.drills.command import Harness
from compose.drills.judge import ALL_WELL
from compose.drills.load import Kind
from compose.drills.local_rig import LocalDrillRig
from compose.drills.outcome import Report
from compose.drills.report import write_reports
from compose.drills.stage import Drill, Stage, Victims, paused
from saga_tracker.consistency.rules import INVARIANTS
from tests.drills.servers import look_at_both

SEED = 4
# What Stripe saved as an error is given up soon.
BRIEF = {
    "MURMURATION_CALL_ATTEMPTS": "8",
    "MURMURATION_UNDO_ATTEMPTS": "8",
    "MURMURATION_CALL_BACKOFF_CAP_SECONDS": "1",
    "MURMURATION_UNDO_BACKOFF_CAP_SECONDS": "1",
}
SHORT_DRILLS = (
    servers.killing_broker(5.0),
    cutting_off_from_broker(Victims({"order": 6.0})),
    provider.LOST_ANSWERS,
    provider.PROVIDER_LIMITS,
    provider.WEBHOOKS_LATE,
    provider.PENDING_REFUNDS,
    provider.charging_once(300, **BRIEF),
    services.EVERYTHING_TWICE,
    services.POISON,
)
PATIENCE_SECONDS = 4.0
POLL_SECONDS = 0.1
GOOD = Kind("COMPLETED")
FORGET_FENCES = """
    CREATE FUNCTION forget_fence() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER forget_fences BEFORE INSERT ON payments FOR EACH ROW WHEN (NEW.status = 'fenced')
    EXECUTE FUNCTION forget_fence();
"""
REMEMBER_FENCES = "DROP TRIGGER forget_fences ON payments; DROP FUNCTION forget_fence"


def harness_on(rig: LocalDrillRig, limit_seconds: float = 60.0) -> Harness:
    return Harness(rig, SEED, 10.0, limit_seconds=limit_seconds, patience_seconds=PATIENCE_SECONDS)


@asynccontextmanager
async def fences_forgotten(rig: LocalDrillRig) -> AsyncIterator[None]:
    """Inside, payment's database quietly drops what payment must remember of an order withdrawn early."""
    url = rig.where.database_url("payment")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(FORGET_FENCES.encode())
        try:
            yield
        finally:
            await connection.execute(REMEMBER_FENCES.encode())


async def test_a_service_is_killed_and_the_report_says_how_that_went(
    rig: LocalDrillRig, tmp_path: Path
) -> None:
    outcome = await harness_on(rig).run(killing_services(["payment"], {}))
    assert outcome.result == "pass", outcome.problems
    assert outcome.accepted == sum(outcome.ends.values()) > 0
    assert {rule.sentence for rule in INVARIANTS} <= {check.sentence for check in outcome.checks}
    assert outcome.services["payment"].startswith("ready, ")
    [fault] = outcome.timeline.faults
    assert fault.label == "payment dead"
    assert outcome.timeline.samples[-1].ended == outcome.accepted

    written = write_reports(Report(rig.name, SEED, "now", 1.0, [outcome]), tmp_path / "report")
    summary, page, record = (file.read_text() for file in written)
    assert "| kill-services | kill -9 of each service | pass |" in summary
    assert f"seed {SEED}" in summary
    assert f"- pass {INVARIANTS[0].sentence}" in summary
    assert "payment dead" in page
    assert 'id="accepted"' in page
    [drill] = json.loads(record)["drills"]
    assert drill["recovery"]["kept"] == 1.0
    assert drill["recovery"]["manual"] == 0


@pytest.mark.parametrize("drill", SHORT_DRILLS, ids=lambda drill: drill.name)
async def test_a_short_selection_passes(rig: LocalDrillRig, drill: Drill) -> None:
    """Of `make drills`: the others take longer, or break what the system's own tests break, too."""
    outcome = await harness_on(rig, limit_seconds=90.0).run(drill)
    assert outcome.result == "pass", outcome.problems


async def test_a_service_that_stays_dead_fails_the_drill(rig: LocalDrillRig) -> None:
    async def strike(stage: Stage) -> None:
        await stage.rig.kill("notification")

    outcome = await harness_on(rig).run(Drill("careless", "nobody heals", strike))
    assert outcome.result == "FAIL"
    [problem] = next(check.problems for check in outcome.checks if check.sentence == ALL_WELL)
    assert problem == "notification is stopped"


async def test_an_alarm_and_read_only_are_there_and_gone_again(rig: LocalDrillRig) -> None:
    await look_at_both(rig)


async def test_an_order_that_should_have_completed_and_did_not_fails_the_drill(rig: LocalDrillRig) -> None:
    """Cancelled as by a customer, of whom the load knows nothing."""

    async def strike(stage: Stage) -> None:
        with stage.broken("orders cancelled"):
            async with paused(stage.rig, "inventory"):
                for order_id in await place(stage, GOOD, 10):
                    await stage.shop.cancel(order_id)

    outcome = await harness_on(rig).run(Drill("cancelled", "good orders are cancelled", strike))
    assert outcome.recovery is not None
    assert outcome.recovery.sound - outcome.recovery.completed == 10
    assert outcome.recovery.manual == 0
    [problem] = outcome.problems
    assert f"10 of {outcome.recovery.sound} did not complete" in problem


async def place(stage: Stage, kind: Kind, orders: int) -> list[UUID]:
    """So many orders of a kind, of what there is."""
    placed = [await stage.load.place(kind, Item(f"{stage.run_name}-0", 1, 500)) for _ in range(orders)]
    return [order_id for order_id in placed if order_id is not None]


async def withdrawn_before_payment_knew(stage: Stage) -> None:
    """Orders are cancelled by their customers while inventory is frozen: payment learns of that first."""
    with stage.broken("customers cancel, inventory frozen"):
        async with paused(stage.rig, "inventory"):
            order_ids = await place(stage, GOOD, 10)
            for order_id in order_ids:
                await stage.load.cancel(order_id)
            url = stage.rig.where.database_url("payment")
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                while True:
                    query = "SELECT count(*) FROM inbox WHERE order_id = ANY(%s)"
                    if await (await connection.execute(query, [order_ids])).fetchone() == (len(order_ids),):
                        break
                    await asyncio.sleep(POLL_SECONDS)


# The last one: what it leaves behind is wrong for good.
async def test_a_fence_that_is_forgotten_fails_the_drill(rig: LocalDrillRig) -> None:
    drill = Drill("withdrawn", "orders are cancelled early", withdrawn_before_payment_knew)
    async with fences_forgotten(rig):
        outcome = await harness_on(rig).run(drill)
    assert outcome.result == "FAIL"
    broken = {check.sentence for check in outcome.checks if check.problems}
    assert "A cancelled order leaves nothing behind: no reservation, no charge, no shipment." in broken
    assert any("its money is not back" in problem for problem in outcome.problems)
