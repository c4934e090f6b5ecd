"""A million orders that ended long ago in every database: hardly slower than an empty system?"""

import statistics

from tests.bench.old_orders import fill
from tests.bench.results import Round, Target, medians
from tests.bench.scenarios.scenario import Scenario
from tests.bench.stage import Stage

ORDERS = 1_000_000
SECONDS = 20.0
IN_FLIGHT = 150


async def play(stage: Stage) -> Round:
    """The same load some times on the system as it is, and as often once it is filled."""
    empty = await _rounds(stage)
    stage.say(f"empty: {_rate(empty):.1f} sagas ended a second; now {ORDERS:,} old orders come in")
    filled = await fill(stage.where, ORDERS)
    stage.say(f"filled within {filled.seconds:.0f} s")
    await stage.warm_up()
    rounds = await _rounds(stage)
    found = rounds[-1]
    found.figures = medians(each.figures for each in rounds)
    found.cpu_ms = medians(each.cpu_ms for each in rounds)
    found.not_ended = sum(each.not_ended for each in (*empty, *rounds))
    found.figures["share_of_empty_percent"] = 100 * _rate(rounds) / _rate(empty)
    cpu = [sum(medians(each.cpu_ms for each in some).values()) for some in (empty, rounds)]
    found.figures["cpu_of_empty_percent"] = 100 * cpu[1] / cpu[0]
    found.notes.append(f"CPU ms a saga, the load's too: {cpu[0]:.2f} empty, {cpu[1]:.2f} filled")
    return found


async def _rounds(stage: Stage) -> list[Round]:
    in_flight = stage.choices.in_flight or IN_FLIGHT
    return [await stage.keep(in_flight, SECONDS) for _ in range(stage.choices.rounds)]


def _rate(rounds: list[Round]) -> float:
    return statistics.median(each.figures["ended_per_second"] for each in rounds)


SCENARIOS = [
    Scenario(
        "old-orders",
        f"as many as it can with {ORDERS:,} finished orders in every database, and with none",
        play,
        about_seconds=600,
        targets=[Target("share_of_empty_percent", at_least=90), Target("cpu_of_empty_percent", at_most=110)],
        rounds=1,
        # The carrier and the provider know nothing of the old ones.
        judged=False,
        counted=False,
    )
]
