"""Very many buyers of very few units: one hot row, and nearly everybody is refused."""

from uuid import uuid4

from aiohttp import ClientSession

from events.facts.inventory import StockRejected, StockReserved
from events.messaging.topology import PUBLISHER
from tests.bench.orders import Kind
from tests.bench.publisher import publish_orders
from tests.bench.results import Round, Target
from tests.bench.scenarios.scenario import PATIENT, Scenario
from tests.bench.stage import Stage, drained_figures

UNITS, BUYERS = 10, 10_000
DECISIONS = (StockReserved.wire_name, StockRejected.wire_name)


async def play(stage: Stage) -> Round:
    """All buyers at once, as facts, so that inventory's speed shows and not intake's."""
    sku = f"bargain-{uuid4().hex[:8]}"
    await _stock(stage, sku, "PUT", {"stocked": UNITS})
    for name in DECISIONS:
        stage.completions.received_at.pop(name, None)
    publishing = publish_orders(stage.where.broker_url(PUBLISHER), [Kind(skus=(sku,))], BUYERS)
    found = drained_figures(await stage.measure(publishing, drained=True))
    decided = sorted(at for name in DECISIONS for at in stage.completions.received_at.get(name, ()))
    found.figures["decided_per_second"] = len(decided) / (decided[-1] - decided[0])
    found.figures["sold"] = sold = (await _stock(stage, sku, "GET"))["sold"]
    if sold != UNITS:
        found.problems.append(f"{sold} units were sold of {UNITS}")
    return found


async def _stock(stage: Stage, sku: str, method: str, body: object = None) -> dict[str, int]:
    where = stage.where
    headers = {"Authorization": f"Bearer {where.admin_token}"}
    path = f"/stock/{sku}" if method == "PUT" else f"/stock?after={sku[:-1]}&limit=1"
    async with (
        ClientSession(headers=headers) as session,
        session.request(method, where.http("inventory") + path, json=body) as response,
    ):
        response.raise_for_status()
        answer = await response.json()
    row: dict[str, int] = answer if method == "PUT" else answer["stock"][0]
    return row


SCENARIOS = [
    Scenario(
        "flash-sale",
        f"{UNITS} units, {BUYERS:,} buyers at once",
        play,
        about_seconds=40,
        targets=[
            Target("decided_per_second", at_least=1_000),
            Target("sold", at_least=UNITS, at_most=UNITS),
        ],
        settings=PATIENT,
        also=DECISIONS,
    )
]
