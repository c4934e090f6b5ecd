"""After a run, a real Prometheus has an answer for every panel of the dashboard and for every alert."""

import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import aio_pika
import pytest

from compose.containers.env import FOLDER
from compose.dashboard import Line, panels
from compose.demo.play import sabotage_of
from compose.demo.shop import Item, Refused
from compose.system import PROCESSES
from events.messaging.topology import PUBLISHER
from events.service import EXCHANGE
from tests.prometheus import Prometheus, running_prometheus
from tests.runtime.eventually import eventually
from tests.system.stage import System, until
from tests.tools import PROMETHEUS, needs

pytestmark = needs(PROMETHEUS)
ALERTS = FOLDER / "observability" / "alerts.yaml"
LINES = [pytest.param(line, id=f"{panel.title}: {line.legend}") for panel in panels() for line in panel.lines]
METRICS = sorted(set(re.findall(r"\bmurmuration_\w+", ALERTS.read_text())))
ORDERS = 5


@pytest.fixture(scope="module")
async def prometheus(system: System, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    """It watches the system while orders go well and badly."""
    jobs = {spec.name: urlsplit(system.where.http(spec.name)).netloc for spec in PROCESSES}
    async with running_prometheus(tmp_path_factory.mktemp("prometheus"), jobs, ALERTS) as prometheus:
        for job in jobs:
            await eventually(lambda job=job: prometheus.has_data(f'up{{job="{job}"}} == 1'), why=job)  # type: ignore[misc]
        await orders_that_go_well_and_badly(system)
        yield prometheus


async def orders_that_go_well_and_badly(system: System) -> None:
    sku = await system.new_sku(100)
    ends = {
        await system.shop.place("cust_ada", token, Item(sku, 1, 500)): end
        for token, end in [("tok_ok", "COMPLETED")] * ORDERS
        + [("tok_declined", "CANCELLED"), ("tok_lost", "COMPLETED")]
    }
    ends[await one_that_is_retried(system)] = "COMPLETED"
    with pytest.raises(Refused):
        await system.shop.ask("order", "GET", f"/orders/{uuid4()}")
    await something_unreadable(system)
    await system.settle(ends)


async def one_that_is_retried(system: System) -> UUID:
    """Its dispatch is refused at first."""
    items = [Item(await system.new_sku(5), 1, 700) for _ in range(4)]
    with sabotage_of(system.rig) as sabotage:
        await sabotage.constrain_dispatches()
        order_id = await system.shop.place("cust_lena", "tok_ok", *items)

        async def confirmed() -> bool:
            return bool((await system.shop.order(order_id))["status"] == "confirmed")

        await until(confirmed)

        async def retried() -> bool:
            log = (system.rig.state_dir / "logs" / "fulfillment.log").read_text()
            return any("retry_later" in line and str(order_id) in line for line in log.splitlines())

        await until(retried)
    return order_id


async def something_unreadable(system: System) -> None:
    """A dead letter, and nobody's order; it is discarded."""
    message_id = str(uuid4())
    async with system.channel_as(PUBLISHER) as channel:
        exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        await exchange.publish(aio_pika.Message(b"?", message_id=message_id), "order.created.v2")

    async def dead_letters() -> list[str]:
        page = await system.shop.ask("tracker", "GET", "/dead-letters?state=open")
        found = [one["letter_id"] for one in page["dead_letters"] if one["message_id"] == message_id]
        # Both services that know of new orders.
        return found if len(found) == 2 else []

    for letter_id in await until(dead_letters):
        path, act = f"/dead-letters/{letter_id}/discard", {"note": "a test's"}
        await system.shop.ask("tracker", "POST", path, body=act)


@pytest.mark.parametrize("line", LINES)
async def test_the_panels_query_has_an_answer(prometheus: Prometheus, line: Line) -> None:
    expression = line.query.replace("$__rate_interval", "5m")
    await eventually(lambda: prometheus.has_data(expression), why=expression)


@pytest.mark.parametrize("metric", METRICS)
async def test_what_an_alert_looks_at_is_there(prometheus: Prometheus, metric: str) -> None:
    await eventually(lambda: prometheus.has_data(metric))


# A busy machine may answer a scrape late: the next one mends what that looks like.
async def test_a_system_that_does_well_alerts_nobody(prometheus: Prometheus) -> None:
    async def quiet() -> bool:
        pending = await prometheus.query('ALERTS{severity="page"}')
        assert [alert["metric"]["alertname"] for alert in pending] == []
        return True

    await eventually(quiet)


async def test_every_process_says_what_runs(prometheus: Prometheus) -> None:
    async def all_do() -> bool:
        built = await prometheus.query("murmuration_build_info")
        assert {one["metric"]["job"] for one in built} == {spec.name for spec in PROCESSES}
        return True

    await eventually(all_do)
