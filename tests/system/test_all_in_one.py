"""All services and the tracker as one process: the same system, which dies and stops as a whole."""

import json
import urllib.request
from collections.abc import Iterator

import pytest
from rich.console import Console

from compose.all_in_one import own_environment
from compose.demo.command import demo
from compose.demo.shop import Item
from compose.local.addresses import ALL_IN_ONE_VARIABLE
from compose.local.commands import RigError
from compose.local.provision import ALL_IN_ONE
from compose.local.rig import LocalRig
from compose.system import SERVICE_NAMES, TRACKER
from tests.servers import clean_environment, rig_folder
from tests.system.conftest import rig_of_its_own
from tests.system.stage import System

ORDERS = 20


@pytest.fixture(scope="module")
def rig() -> Iterator[LocalRig]:
    """One that runs in this form, on servers of its own: on the session's, databases have these names."""
    with rig_of_its_own({ALL_IN_ONE_VARIABLE: "1"}) as rig:
        yield rig


def page(url: str, path: str) -> str:
    with urllib.request.urlopen(f"{url}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def test_a_variable_that_names_one_of_them_is_for_that_one_alone() -> None:
    given = {
        "MURMURATION_DATABASE_URL": "for all",
        "MURMURATION_ORDER_DATABASE_URL": "order's",
        "MURMURATION_ORDER_DATABASE_URL_FILE": "a file of order's",
        "MURMURATION_ORDERS": "internal",
        "MURMURATION_PAYMENT_DATABASE_URL": "payment's",
    }
    assert own_environment("order", given) == {
        "MURMURATION_DATABASE_URL": "order's",
        "MURMURATION_DATABASE_URL_FILE": "a file of order's",
    }
    assert own_environment("tracker", given) == {}


def test_it_is_one_process_and_is_known_as_such(rig: LocalRig) -> None:
    names = {status.name for status in rig.status()}
    assert ALL_IN_ONE in names
    assert names.isdisjoint({*SERVICE_NAMES, TRACKER})
    assert {rig.pid(name) for name in (*SERVICE_NAMES, TRACKER)} == {rig.pid(ALL_IN_ONE)}
    # A later command, in whose environment nothing says so.
    later = LocalRig(rig.state_dir, environment=clean_environment())
    assert {status.name for status in later.status()} == names


def test_the_demo_ends_as_it_does_in_several_processes(rig: LocalRig) -> None:
    console = Console(record=True, width=100)
    assert demo(rig, console), console.export_text()
    assert "without late_fact, timed_out" in console.export_text(clear=False)


async def test_killed_in_the_middle_of_many_orders_it_loses_none(system: System) -> None:
    sku = await system.new_sku(units=ORDERS)
    placed = [await system.shop.place("cust_ada", "tok_ok", Item(sku, 1, 100)) for _ in range(ORDERS)]
    await system.kill(ALL_IN_ONE)
    await system.start(ALL_IN_ONE)
    await system.settle(dict.fromkeys(placed, "COMPLETED"))


def test_what_it_counts_is_shown_once(rig: LocalRig) -> None:
    where = rig.addresses
    shown = [name for name in (*SERVICE_NAMES, TRACKER) if "batch_size" in page(where.http(name), "/metrics")]
    assert shown == [TRACKER]
    for name in SERVICE_NAMES:
        assert "murmuration_connected" in page(where.http(name), "/metrics")
        assert json.loads(page(where.http(name), "/readyz"))["status"] == "ready"


async def test_asked_to_stop_all_of_it_stops_in_order(system: System) -> None:
    await system.stop(ALL_IN_ONE)
    lines = [json.loads(line) for line in system.rig.log(ALL_IN_ONE).read_text().splitlines()]
    stopped = {line["process"] for line in lines[-len(SERVICE_NAMES) - 1 :] if line["event"] == "stopped"}
    assert stopped == {f"{name}_svc" for name in SERVICE_NAMES} | {"saga_tracker"}
    await system.start(ALL_IN_ONE)


def test_it_does_not_mix_with_the_other_form(rig: LocalRig) -> None:
    with rig_folder() as folder:
        state = LocalRig(folder, environment=clean_environment())
        with state.changing() as where:
            where.state.processes["order"] = rig.state.processes[ALL_IN_ONE]  # something runs, in that form
        wanted = LocalRig(folder, environment={**clean_environment(), ALL_IN_ONE_VARIABLE: "1"})
        with pytest.raises(RigError, match="stop it first"):
            wanted.up()
        with state.changing() as where:
            where.state.processes.clear()
