"""Two of every service and of the tracker: still correct, and how fast."""

from tests.bench.results import Round
from tests.bench.scenarios.scenario import Scenario
from tests.bench.stage import Stage

SECONDS = 20.0
IN_FLIGHT = 300


async def play(stage: Stage) -> Round:
    """POSTs go to both instances of order_svc."""
    in_flight = stage.choices.in_flight or IN_FLIGHT
    found = await stage.keep(in_flight, SECONDS)
    found.figures = {"in_flight": in_flight, **found.figures}
    return found


SCENARIOS = [
    Scenario(
        "two-instances",
        f"two instances of each service and of the tracker, for {SECONDS:.0f} s",
        play,
        about_seconds=25,
        instances=2,
    )
]
