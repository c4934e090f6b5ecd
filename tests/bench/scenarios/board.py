"""With a hundred thousand open sagas and a million that ended: is each page quick, and are tabs cheap?"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientError, ClientSession, ClientTimeout

from tests.bench.old_orders import Copied, fill, open_orders
from tests.bench.results import Round, Target, percentile
from tests.bench.scenarios.scenario import Scenario, patient
from tests.bench.stage import Stage

ENDED, OPEN = 1_000_000, 100_000
PER_SECOND = 100.0
SECONDS = 60.0
# Nobody reads faster.
BETWEEN_SECONDS = 0.05
TABS = 10
TABS_SECONDS = 20.0
IN_FLIGHT = 100
# How often a page that is open asks for itself anew at most, as its script has it.
PAUSE_SECONDS = 2.0
PAGES = (
    "/",
    "/ui/sagas",
    "/ui/sagas?state=PENDING_SHIPMENT",
    "/ui/sagas?state=AWAITING_APPROVAL",
    "/ui/sagas?state=COMPLETED",
    "/ui/sagas?waiting_for=fulfillment&sort=oldest",
    "/ui/sagas?older_than_seconds=60",
    "/ui/sagas?reason=out_of_stock",
    "/ui/sagas?cause=call",
    "/ui/sagas?sku=bench",
    "/ui/sagas?customer=cust_open",
    "/ui/sagas?has_letter=true",
    "/ui/sagas?order={prefix}",
    "/ui/sagas/{parked}",
    "/ui/sagas/{waiting}",
    "/ui/dead-letters",
    "/ui/selections",
    "/ui/manual",
    "/ui/reconciliation",
    "/ui/audit",
    "/ui/services",
    "/ui/facts/order.created.v2",
)


async def prepare(stage: Stage) -> None:
    """Fill all databases. What is open waits for a person or, its deadline being far, for fulfilment."""
    filled = await fill(stage.where, ENDED)
    stage.say(f"{filled.orders:,} ended orders within {filled.seconds:.0f} s")
    copied = await open_orders(stage.rig, OPEN)
    stage.say(f"{copied.orders:,} open ones within {copied.seconds:.0f} s")
    _EXAMPLES.append(copied)
    await stage.warm_up()


_EXAMPLES: list[Copied] = []


async def play(stage: Stage) -> Round:
    """Ask for every page in turn under load; then compare the most it can do with tabs open and without."""
    copied = _EXAMPLES[-1]
    paths = [
        page.format(parked=copied.parked, waiting=copied.waiting, prefix=str(copied.parked)[:6])
        for page in PAGES
    ]
    took: dict[str, list[float]] = {path: [] for path in paths}
    async with asking(stage, paths, took):
        found = await stage.measure(stage.load.at_rate(PER_SECOND, SECONDS))
    slowest = sorted(((percentile(each, 95), path) for path, each in took.items()), reverse=True)
    found.figures["page_p95_ms"] = 1_000 * slowest[0][0]
    found.figures["page_p50_ms"] = 1_000 * statistics.median(each for some in took.values() for each in some)
    asked = sum(map(len, took.values()))
    found.notes.append(
        f"{asked} pages asked for; the slowest at the 95th percentile: "
        + ", ".join(f"{path} {1_000 * seconds:.0f} ms" for seconds, path in slowest[:6])
    )
    rates: dict[bool, list[float]] = {True: [], False: []}
    for tabs in (False, True, True, False):
        async with tabs_open(stage, copied, TABS if tabs else 0):
            kept = await stage.keep(stage.choices.in_flight or IN_FLIGHT, TABS_SECONDS)
        rates[tabs].append(kept.figures["ended_per_second"])
        found.not_ended += kept.not_ended
    found.figures["share_without_tabs_percent"] = 100 * sum(rates[True]) / sum(rates[False])
    found.notes.append(f"sagas ended a second without tabs {rates[False]}, with {TABS} of them {rates[True]}")
    return found


@asynccontextmanager
async def asking(stage: Stage, paths: list[str], took: dict[str, list[float]]) -> AsyncIterator[None]:
    """Inside, one page after the other is asked for, for ever. Raises ClientError for one that is not 200."""
    timeout = ClientTimeout(total=30)
    async with ClientSession(stage.where.http("tracker"), timeout=timeout) as http:

        async def ask() -> None:
            while True:
                for path in paths:
                    began = time.perf_counter()
                    async with http.get(path) as response:
                        response.raise_for_status()
                        await response.read()
                    took[path].append(time.perf_counter() - began)
                    await asyncio.sleep(BETWEEN_SECONDS)

        task = asyncio.create_task(ask(), name="ask for pages")
        yield
        failed = task.done()
        task.cancel()
        if failed:
            await task
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def tabs_open(stage: Stage, copied: Copied, count: int) -> AsyncIterator[None]:
    """Inside, so many pages are open, each of which asks for itself anew when its stream says so."""
    shown = ["/", "/ui/sagas", f"/ui/sagas/{copied.waiting}", "/ui/dead-letters", "/ui/services"]
    timeout = ClientTimeout(total=None, sock_connect=5)
    async with ClientSession(stage.where.http("tracker"), timeout=timeout) as http:

        async def one(path: str) -> None:
            watched = {"order_id": str(copied.waiting)} if path.count("/") > 2 else {}
            async with http.get("/ui/events", params=watched) as stream:
                async for line in stream.content:
                    if line.startswith(b"data:"):
                        async with http.get(path) as response:
                            await response.read()
                        await asyncio.sleep(PAUSE_SECONDS)

        tasks = [asyncio.create_task(one(shown[number % len(shown)])) for number in range(count)]
        yield
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        if broken := [each for each in ended if isinstance(each, ClientError)]:
            raise broken[0]


SCENARIOS = [
    Scenario(
        "board",
        f"every page at {PER_SECOND:.0f} orders a second, {OPEN:,} open and {ENDED:,} ended; {TABS} tabs",
        play,
        about_seconds=200,
        about_more_seconds=400,
        targets=[
            Target("page_p95_ms", at_most=200),
            Target("share_without_tabs_percent", at_least=95),
        ],
        rounds=1,
        settings=patient(86_400),
        prepare=prepare,
        # The carrier and the provider know nothing of the copies.
        judged=False,
        counted=False,
    )
]
