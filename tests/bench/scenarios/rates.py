"""Open loop: so many orders a second, whatever becomes of them."""

from collections.abc import Sequence

from tests.bench.results import Round, Target
from tests.bench.scenarios.scenario import Scenario
from tests.bench.stage import Stage

# The spec's peak: 200 orders a minute.
PEAK_PER_SECOND = 200 / 60
SECONDS = 20.0
# At few orders a second it takes longer until a percentile means something.
PEAK_SECONDS = 45.0


def at_rate(
    per_second: float,
    seconds: float = SECONDS,
    name: str | None = None,
    targets: Sequence[Target] = (),
    *,
    main: bool = False,
) -> Scenario:
    """The scenario of one rate."""

    async def play(stage: Stage) -> Round:
        found = await stage.measure(stage.load.at_rate(per_second, seconds))
        found.figures = {"offered_per_second": per_second, **found.figures}
        return found

    return Scenario(
        name or f"{per_second:.0f}",
        f"{per_second:.3g} orders a second, for {seconds:.0f} s",
        play,
        # Beyond what the system can do, it takes longer to end them than to place them.
        about_seconds=seconds * max(1.0, per_second / 150),
        targets=targets,
        main=main,
        statements=True,
    )


SCENARIOS = [
    at_rate(
        PEAK_PER_SECOND,
        PEAK_SECONDS,
        "peak",
        [Target("notified_p50_ms", at_most=40), Target("notified_p99_ms", at_most=150)],
        main=True,
    ),
    at_rate(50),
    at_rate(100, targets=[Target("notified_p99_ms", at_most=400)], main=True),
    at_rate(200),
    at_rate(300),
]
