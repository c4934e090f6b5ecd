"""What a scenario has at hand: the running system, load for it, and `measure`, which makes a round of it."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from compose.local.addresses import Addresses
from compose.local.commands import RigError
from compose.local.rig import LocalRig
from tests.bench.completions import Completions, watch
from tests.bench.cpu import cpu_ms_each, cpu_seconds, forget_peaks, peak_megabytes, running_parts
from tests.bench.lag import Lag, watching_lag
from tests.bench.load import Load, Sent, stock_up
from tests.bench.orders import Kind, Orders
from tests.bench.results import Round, Second, percentile

STALL_SECONDS = 30.0
PROGRESS_SECONDS = 15.0
# With many under way, the first all begin at once, and it takes a while until they end one by one.
RUSH_SECONDS = 4.0
WARM_UP_SECONDS = 5.0
WARM_UP_IN_FLIGHT = 50
PERCENTILES = (0, 10, 25, 50, 75, 90, 95, 98, 99, 99.5, 99.9, 100)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person may choose of a run."""

    rounds: int
    in_flight: int | None = None
    """Of `sustained`; None: try some, and take the best."""
    quick: bool = False
    """Only what the main figures need: shorter, and without the servers' own counts."""


@dataclass(slots=True)
class Stage:
    """One running system. `kept` is what a scenario wants to remember from one round to the next."""

    rig: LocalRig
    completions: Completions
    load: Load
    choices: Choices
    say: Say
    kept: dict[str, float] = field(default_factory=dict)

    @property
    def where(self) -> Addresses:
        return self.rig.addresses

    async def warm_up(self) -> None:
        """Have every process do everything a few hundred times before anything counts."""
        sent = await self.load.in_flight(WARM_UP_IN_FLIGHT, WARM_UP_SECONDS)
        if not sent.due_at or await self.all_end(sent):
            raise RigError("the system is up, but not all of the first orders ended")

    async def all_end(self, sent: Sent) -> set[str]:
        """Wait until all that were accepted have ended; answers those that did not."""
        return await self.completions.wait_for(sent.due_at, STALL_SECONDS)

    async def keep(self, in_flight: int, seconds: float) -> Round:
        """So many orders under way, for so long after the first rush."""
        loading = self.load.in_flight(in_flight, RUSH_SECONDS + seconds)
        return await self.measure(loading, from_seconds=RUSH_SECONDS)

    async def measure(
        self, loading: Awaitable[Sent], *, from_seconds: float = 0.0, drained: bool = False
    ) -> Round:
        """Await a load, and the end of all of its orders.

        Rates are those of the time in which load was offered, `from_seconds` on; with `drained`, sagas ended
        at that of the time to the last end.
        """
        parts = running_parts(self.rig)
        forget_peaks(parts)
        before, pids = cpu_seconds(parts), {part.name: part.pid for part in parts}
        async with (
            watching_lag(self.where.http("tracker"), self.completions) as lag,
            telling_progress(self.completions, self.say),
        ):
            sent = await loading
            missing = await self.all_end(sent)
        parts = running_parts(self.rig)
        # What was started anew meanwhile began at nothing.
        before = {part.name: before[part.name] for part in parts if pids.get(part.name) == part.pid}
        ended = {order: self.completions.ended_at[order] for order in sent.due_at.keys() - missing}
        found = Round(accepted=len(sent.due_at), not_ended=len(missing))
        found.cpu_ms = cpu_ms_each(before, cpu_seconds(parts), max(1, len(ended)))
        found.peak_megabytes = peak_megabytes(parts)
        found.figures = self._figures(sent, ended, from_seconds, drained) | _lag_figures(lag)
        found.seconds = seconds_of(sent, ended)
        latencies_ms = [(at - sent.due_at[order]) * 1_000 for order, at in ended.items()]
        if latencies_ms:
            found.latency_ms_by_percentile = {
                f"{each:g}": percentile(latencies_ms, each) for each in PERCENTILES
            }
        if sent.refused > sent.busy:
            found.problems.append(
                f"{sent.refused - sent.busy} POSTs were refused without 503 and Retry-After"
            )
        return found

    def _figures(
        self, sent: Sent, ended: Mapping[str, float], from_seconds: float, drained: bool
    ) -> dict[str, float]:
        if not ended:
            return {}
        begin, last = sent.begin + from_seconds, max(ended.values())
        latencies = [at - sent.due_at[order] for order, at in ended.items()]
        cancelled = len(ended.keys() & self.completions.cancelled)
        found = {
            "accepted_per_second": _rate(sent.accepted_at, begin, sent.end),
            "ended_per_second": _rate(ended.values(), begin, last if drained else sent.end),
            "completed_percent": 100 * (len(ended) - cancelled) / len(ended),
            "cancelled_percent": 100 * cancelled / len(ended),
            "refused_percent": 100 * sent.refused / (sent.refused + len(sent.due_at)),
            "drain_seconds": last - sent.end,
        }
        until_notified = [self.completions.notified_at[order] - sent.due_at[order] for order in ended]
        for percent in (50, 99):
            found[f"notified_p{percent}_ms"] = percentile(until_notified, percent) * 1_000
        for percent in (50, 95, 99):
            found[f"end_to_end_p{percent}_ms"] = percentile(latencies, percent) * 1_000
        found["end_to_end_max_ms"] = max(latencies) * 1_000
        if sent.post_seconds:
            found["post_p50_ms"] = percentile(sent.post_seconds, 50) * 1_000
            found["post_p99_ms"] = percentile(sent.post_seconds, 99) * 1_000
        return found


@asynccontextmanager
async def telling_progress(completions: Completions, say: Say) -> AsyncIterator[None]:
    """Inside, it is told now and then how far a long round has come."""
    begin, before = time.monotonic(), len(completions.ended_at)

    async def tell() -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            say(f"  {time.monotonic() - begin:4.0f} s: {len(completions.ended_at) - before:,} orders ended")

    task = asyncio.create_task(tell(), name="tell progress")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _rate(moments: Iterable[float], begin: float, end: float) -> float:
    return sum(begin <= at <= end for at in moments) / max(end - begin, 0.001)


def seconds_of(sent: Sent, ended: Mapping[str, float]) -> list[Second]:
    """Second by second, from the first order to the last end."""
    accepted = Counter(int(at - sent.begin) for at in sent.accepted_at)
    gone = Counter(int(at - sent.begin) for at in ended.values())
    found: list[Second] = []
    in_flight = 0
    for second in range(max([*accepted, *gone], default=-1) + 1):
        in_flight += accepted[second] - gone[second]
        found.append(Second(accepted[second], gone[second], max(0, in_flight)))
    return found


def _lag_figures(lag: Lag) -> dict[str, float]:
    found: dict[str, float] = {}
    if lag.seconds:
        found["tracker_lag_p50_ms"] = percentile(lag.seconds, 50) * 1_000
        found["tracker_lag_max_ms"] = max(lag.seconds) * 1_000
    if lag.behind:
        found["tracker_behind_max"] = max(lag.behind)
    return found


@asynccontextmanager
async def staged(
    rig: LocalRig,
    choices: Choices,
    say: Say,
    *,
    only: Kind | None = None,
    also: Sequence[str] = (),
    lasting: bool = False,
    instances: int = 1,
) -> AsyncIterator[Stage]:
    """The stage of a running rig. For the rest see `Scenario`."""
    where = rig.addresses
    await stock_up(where.http("inventory"), where.admin_token, (only or Kind()).skus)
    async with AsyncExitStack() as stack:
        completions = await stack.enter_async_context(
            watch(where.broker_url("admin"), also=also, lasting=lasting)
        )
        urls = [where.http("order", instance) for instance in range(1, instances + 1)]
        load = Load(urls, completions, Orders(only))
        stack.callback(load.close)
        yield Stage(rig, completions, load, choices, say)


def drained_figures(found: Round) -> Round:
    """Orders that were published rather than accepted, all at once: how fast, and how fast they drained."""
    found.figures["published_per_second"] = found.figures.pop("accepted_per_second")
    found.figures["drained_per_second"] = found.figures["ended_per_second"]
    return found
