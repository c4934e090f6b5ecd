"""What tracing costs: the same load without it, with every order traced, and with one in a hundred.

`make bench-tracing`. All in one run, in turns, on one system whose processes are restarted for each; the
spans go to a real Jaeger, which takes its share of the machine (`make jaeger` builds it).
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

from compose.local.commands import RigError
from compose.local.rig import LocalRig
from tests.bench.completions import watch
from tests.bench.cpu import cpu_ms_each, cpu_seconds
from tests.bench.load import keep_in_flight, stock_up
from tests.jaeger import Jaeger, find_program, running_jaeger
from tests.servers import rig_folder

TRACED = ("order", "inventory", "payment", "fulfillment", "notification", "tracker")
WARM_UP_SECONDS = 3.0
STALL_SECONDS = 20.0


class Turn(NamedTuple):
    """Completed sagas a second, and the CPU milliseconds of one, Jaeger's and the load's left out."""

    per_second: float
    cpu_ms: float

    def __str__(self) -> str:
        return f"{self.per_second:.1f} completed sagas per second, {self.cpu_ms:.1f} ms CPU each"


def main() -> int:
    """Prints a line for each turn, and the medians."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tracing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each turn is measured")
    parser.add_argument("--in-flight", type=int, default=150, help="how many orders are under way")
    given = parser.parse_args()
    if (program := find_program()) is None:
        print("bench: Jaeger is not on this machine: make jaeger builds it", file=sys.stderr)
        return 1
    try:
        with running_jaeger(program) as jaeger, rig_folder() as folder:
            rig = LocalRig(folder)
            rig.up()
            try:
                asyncio.run(_compare(rig, jaeger, given.rounds, given.seconds, given.in_flight))
            finally:
                rig.down()
    except RigError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def variants(jaeger: Jaeger) -> dict[str, dict[str, str]]:
    """What the processes are told in each."""
    every = {"OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_url}
    one_percent = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    return {"no tracing": {}, "every order": every, "one in a hundred": every | one_percent}


async def _compare(rig: LocalRig, jaeger: Jaeger, rounds: int, seconds: float, in_flight: int) -> None:
    await stock_up(rig.addresses.http("inventory"), rig.addresses.admin_token)
    found: dict[str, list[Turn]] = {name: [] for name in variants(jaeger)}
    for number in range(rounds):
        turns = list(variants(jaeger).items())
        # Each comes first once: a system gets slower as it fills.
        for name, environment in turns[number % len(turns) :] + turns[: number % len(turns)]:
            await asyncio.to_thread(_restart, rig, environment)
            found[name].append(turn := await _sustained(rig, seconds, in_flight))
            print(f"round {number + 1}, {name}: {turn}", flush=True)
    medians = {name: Turn(*map(statistics.median, zip(*turns, strict=True))) for name, turns in found.items()}
    without = medians["no tracing"]
    for name, median in medians.items():
        rate, cost = median.per_second / without.per_second, median.cpu_ms / without.cpu_ms
        print(f"{name:<17} median {median}: {rate:.0%} of the rate without, {cost:.0%} of the CPU time")


def _restart(rig: LocalRig, environment: Mapping[str, str]) -> None:
    for name in TRACED:
        rig.stop(name)
        rig.start(name, extra_environment=environment)


async def _sustained(rig: LocalRig, seconds: float, in_flight: int) -> Turn:
    """With so many orders under way."""
    where = rig.addresses
    async with watch(where.broker_url("admin")) as completions:
        before = cpu_seconds(rig.status())
        begin = time.monotonic() + WARM_UP_SECONDS
        sent = await keep_in_flight(where.http("order"), completions, in_flight, WARM_UP_SECONDS + seconds)
        end = time.monotonic()
        if missing := await completions.wait_for(set(sent.due_at), STALL_SECONDS):
            raise RigError(f"{len(missing)} accepted orders did not end")
        rate = sum(begin <= at < end for at in completions.ended_at.values()) / (end - begin)
        spent = cpu_ms_each(before, cpu_seconds(rig.status()), len(sent.due_at))
        return Turn(rate, sum(spent.values()))


if __name__ == "__main__":
    sys.exit(main())
