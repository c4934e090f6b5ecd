"""The containers for real: built, started, used, stopped in the middle of work, started again.

Skipped, and says why, where no Docker engine runs or the images of the servers cannot be had.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from compose.check import examine
from compose.containers.rig import NAMES, ContainerRig
from compose.demo.shop import Item, Shop, open_shop
from compose.snapshot import Reader, sources_of
from compose.system import SERVICES
from events.messaging import topology
from events.service import STREAM
from tests.containers import containers, docker

ENDED = {"COMPLETED", "CANCELLED"}
END_SECONDS = 60
POLL_SECONDS = 0.2
BURST_ORDERS = 60
# Of the longest grace period in the file, which is a server's.
STOP_SECONDS = 40

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerRig]:
    with containers(tmp_path_factory.mktemp("compose")) as rig:
        yield rig


async def place_a_mix(shop: Shop, orders: int) -> list[UUID]:
    """Orders that complete, are declined, are refused by the carrier, and find nothing in stock."""
    sku = f"apple-{uuid4().hex[:8]}"
    await shop.stock(sku, orders)
    mix = (
        ("cust_ada", "tok_ok", 1),
        ("cust_ada", "tok_declined", 1),
        ("cust_refused", "tok_ok", 1),
        ("cust_ada", "tok_lost", 1),
        ("cust_ada", "tok_ok", orders + 1),
    )
    placing = []
    for number in range(orders):
        customer, token, quantity = mix[number % len(mix)]
        placing.append(shop.place(customer, token, Item(sku, quantity, 1_000)))
    return await asyncio.gather(*placing)


async def wait_for_ends(shop: Shop, order_ids: list[UUID]) -> dict[UUID, str]:
    deadline = time.monotonic() + END_SECONDS
    ends: dict[UUID, str] = {}
    while len(ends) < len(order_ids):
        assert time.monotonic() < deadline, f"{len(order_ids) - len(ends)} orders have not ended"
        for order_id in order_ids:
            if order_id not in ends and (saga := await shop.saga(order_id)) and saga["state"] in ENDED:
                ends[order_id] = saga["state"]
        await asyncio.sleep(POLL_SECONDS)
    return ends


async def demand_invariants(rig: ContainerRig) -> None:
    async with Reader(sources_of(rig.addresses)) as reader:
        findings = await examine(reader)
    assert findings.violations == ()
    assert not findings.moving


def inspected(rig: ContainerRig) -> list[dict[str, Any]]:
    label = f"--filter=label=com.docker.compose.project={rig.stack.project}"
    found: list[dict[str, Any]] = json.loads(docker("inspect", *docker("ps", "-aq", label).split()))
    return found


def test_everything_is_up_and_healthy(rig: ContainerRig) -> None:
    assert {status.name: status.condition for status in rig.status()} == dict.fromkeys(NAMES, "ready")
    ended = [found for found in rig.stack.containers() if not found.runs]
    assert [(found.service, found.exit_code) for found in ended] == [("provision", 0)]


def test_the_engine_confines_them_as_the_file_says(rig: ContainerRig) -> None:
    for found in inspected(rig):
        name, host = found["Config"]["Labels"]["com.docker.compose.service"], found["HostConfig"]
        addresses = [each["HostIp"] for bound in (host["PortBindings"] or {}).values() for each in bound]
        assert set(addresses) <= {"127.0.0.1"}, name
        assert host["Memory"] > 0, name
        if name not in ("postgres", "rabbitmq"):
            assert host["ReadonlyRootfs"], name
            assert host["CapDrop"] == ["ALL"], name
            assert found["Config"]["User"] == "10001:10001", name


def test_the_broker_says_how_many_messages_each_queue_holds(rig: ContainerRig) -> None:
    """To whoever is on its network, as Prometheus is."""
    script = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    [tracker] = [found for found in rig.stack.containers() if found.service == "tracker"]
    asked = "http://rabbitmq:15692/metrics/detailed?family=queue_coarse_metrics"
    metrics = docker("exec", tracker.id, "python", "-c", script, asked)
    named = set(re.findall(r'^rabbitmq_detailed_queue_messages\{.*queue="([^"]+)"', metrics, re.MULTILINE))
    assert set(topology.queues(SERVICES)) - {STREAM} <= named


async def test_orders_go_every_way(rig: ContainerRig) -> None:
    async with open_shop(rig.addresses) as shop:
        order_ids = await place_a_mix(shop, 10)
        ends = await wait_for_ends(shop, order_ids)
    completed = [ends[order_id] == "COMPLETED" for order_id in order_ids]
    assert completed == [True, False, False, True, False] * 2
    await demand_invariants(rig)


async def test_a_frozen_service_is_shown_and_goes_on(rig: ContainerRig) -> None:
    rig.pause("notification")
    try:
        shown = {status.name: status for status in rig.status()}["notification"]
        assert (shown.condition, shown.problem) == ("not ready", "it is frozen")
    finally:
        rig.resume("notification")
    rig.resume("notification")  # not frozen: nothing to do
    async with open_shop(rig.addresses) as shop:
        await wait_for_ends(shop, await place_a_mix(shop, 5))
    await demand_invariants(rig)


async def test_it_stops_in_order_in_the_middle_of_work_and_goes_on_where_it_was(rig: ContainerRig) -> None:
    async with open_shop(rig.addresses) as shop:
        order_ids = await place_a_mix(shop, BURST_ORDERS)
    began = time.monotonic()
    await asyncio.to_thread(rig.stack.stop)
    assert time.monotonic() - began < STOP_SECONDS
    assert {found.service: found.exit_code for found in rig.stack.containers()} == dict.fromkeys(
        (*NAMES, "provision"), 0
    )
    await asyncio.to_thread(rig.stack.up)
    async with open_shop(rig.addresses) as shop:
        await wait_for_ends(shop, order_ids)
    await demand_invariants(rig)
