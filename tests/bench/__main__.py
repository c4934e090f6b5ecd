"""Drives complete orders through the system on this machine and prints how many, how fast."""

import argparse
import asyncio
import os
import statistics
import sys
import time
from pathlib import Path

from compose.local.errors import RigError
from compose.local.rig import LocalRig
from tests.bench.completions import Completions, watch
from tests.bench.cpu import cpu_ms_each, cpu_seconds
from tests.bench.load import Sent, keep_in_flight, send_orders, stock_up

WARM_UP_SECONDS = 3.0
STALL_SECONDS = 20.0


def main() -> int:
    """Run the scenarios; exit code 1 when an accepted order did not end."""
    arguments = _arguments()
    rig = LocalRig(Path(arguments.state) if arguments.state else None)
    try:
        with rig.running():
            return asyncio.run(_bench(rig, arguments.rates, arguments.seconds, arguments.in_flight))
    except RigError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rates", type=float, nargs="+", default=[4.0, 100.0], help="orders per second")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long each rate is held")
    parser.add_argument(
        "--in-flight",
        type=int,
        default=150,
        help="then keep so many under way for as long (0: leave that out)",
    )
    parser.add_argument("--state", help="state folder of the rig to use (default: this checkout's)")
    return parser.parse_args()


async def _bench(rig: LocalRig, rates: list[float], seconds: float, in_flight: int) -> int:
    where = rig.addresses
    await stock_up(where.http("inventory"), where.admin_token)
    print(f"{os.cpu_count()} cores shared by RabbitMQ, PostgreSQL, six services, the sandbox and this load.")
    print("Every saga: six facts and more, five databases, confirms, quorum queues, fsync on.\n")
    print("   offered  completed  POST p50     p99  end to end p50      p99      max")
    lost = 0
    async with watch(where.broker_url("admin")) as completions:
        await _round(where.http("order"), completions, max(rates), WARM_UP_SECONDS)
        for rate in rates:
            sent, missing = await _round(where.http("order"), completions, rate, seconds)
            lost += len(missing)
            print(_row(f"{rate:.0f}/s", sent, completions), flush=True)
        if in_flight:
            lost += await _most(rig, completions, in_flight, seconds)
    print(f"\naccepted orders that did not end: {lost}")
    return 1 if lost else 0


async def _most(rig: LocalRig, completions: Completions, in_flight: int, seconds: float) -> int:
    """Keep so many orders under way and count what ends; answers how many accepted ones did not."""
    order_url = rig.addresses.http("order")
    begin = time.monotonic() + WARM_UP_SECONDS
    before = cpu_seconds(rig.status())
    sent = await keep_in_flight(order_url, completions, in_flight, WARM_UP_SECONDS + seconds)
    held = time.monotonic() - begin
    missing = await completions.wait_for(set(sent.due_at), STALL_SECONDS)
    spent = cpu_ms_each(before, cpu_seconds(rig.status()), max(1, len(sent.due_at)))
    print(_row(f"{in_flight} at once", sent, completions))
    count = sum(begin <= at < begin + held for at in completions.ended_at.values())
    print(f"\nmost, sustained for {held:.0f} s: {count / held:.1f} completed sagas per second", flush=True)
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in spent.items())
    print(f"CPU milliseconds an order meanwhile: {parts}; {sum(spent.values()):.1f} in all", flush=True)
    return len(missing)


async def _round(
    order_url: str, completions: Completions, rate: float, seconds: float
) -> tuple[Sent, set[str]]:
    sent = await send_orders(order_url, rate, seconds)
    return sent, await completions.wait_for(set(sent.due_at), STALL_SECONDS)


def _row(offered: str, sent: Sent, completions: Completions) -> str:
    ended = {order: at for order, at in completions.ended_at.items() if order in sent.due_at}
    latencies = [at - sent.due_at[order] for order, at in ended.items()]
    if len(latencies) < 2:
        return f"{offered:>10}  too few orders ended: {len(latencies)}, refused {sent.refused}"
    span = max(ended.values()) - min(ended.values())
    # From the first end to the last: how long each took is the other columns' business.
    refused = f"  ({sent.refused} refused)" if sent.refused else ""
    return (
        f"{offered:>10} {len(ended) / span:>8.1f}/s"
        f" {_ms(sent.post_seconds, 50):>9} {_ms(sent.post_seconds, 99):>7}"
        f" {_ms(latencies, 50):>15} {_ms(latencies, 99):>8} {max(latencies) * 1_000:>5.0f} ms{refused}"
    )


def _ms(seconds: list[float], percentile: int) -> str:
    return f"{statistics.quantiles(seconds, n=100)[percentile - 1] * 1_000:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
