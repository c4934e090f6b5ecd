"""Many orders published as facts at once: a backlog in the queues, and how long it takes to drain."""

from events.messaging.topology import PUBLISHER
from tests.bench.orders import mix
from tests.bench.publisher import publish_orders
from tests.bench.results import Round
from tests.bench.scenarios.scenario import PATIENT, Scenario
from tests.bench.stage import Stage, drained_figures

ORDERS = 10_000


async def play(stage: Stage) -> Round:
    """Publish, confirmed by the broker, and wait for the last end."""
    publishing = publish_orders(stage.where.broker_url(PUBLISHER), mix(), ORDERS)
    return drained_figures(await stage.measure(publishing, drained=True))


SCENARIOS = [
    Scenario(
        "burst",
        f"{ORDERS:,} orders published at once, and drained",
        play,
        about_seconds=60,
        rounds=1,
        settings=PATIENT,
    )
]
