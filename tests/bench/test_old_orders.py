"""Old orders are like real ones: every service and the tracker agree on them, and new orders go on."""

from collections.abc import Iterator
from typing import Any

import aiohttp
import psycopg
import pytest

from compose.local.rig import LocalRig
from compose.snapshot import Reader, sources_of
from saga_tracker.consistency.rules import violations
from tests.bench.old_orders import KINDS, TABLES, fill
from tests.servers import clean_environment, rig_folder

ORDERS = 300
# The sandbox knows nothing of them.
OUTSIDE = {"completed_is_whole", "payment_matches_the_provider", "shipment_matches_the_carrier"}


@pytest.fixture(scope="module")
def rig() -> Iterator[LocalRig]:
    """A system of its own: it is no use for anything else afterwards."""
    with rig_folder() as folder:
        rig = LocalRig(folder, environment=clean_environment())
        rig.up()
        yield rig
        rig.down()


async def test_old_orders_are_like_real_ones(rig: LocalRig) -> None:
    where = rig.addresses
    filled = await fill(where, ORDERS)
    assert filled.orders == ORDERS
    for name, tables in TABLES.items():
        for table in [*tables, *(["inbox"] if name != "tracker" else [])]:
            count, different = await _row(rig, name, _count_of(table))
            assert count == different > ORDERS / 2, f"{table} of {name}"
            assert count % (ORDERS / len(KINDS) + 1) == 0, f"{table} of {name}: each as often as any other"
    async with Reader(sources_of(where)) as reader:
        snapshot = await reader.snapshot()
    assert len(snapshot.states["order"]) == ORDERS + len(KINDS)
    assert {found.invariant.name for found in violations(snapshot)} <= OUTSIDE
    assert (await _row(rig, "order", "SELECT now() - min(placed_at) > interval '15 days' FROM orders"))[0]


async def test_each_has_its_timeline_and_its_indexes(rig: LocalRig) -> None:
    (oldest,) = await _row(rig, "order", "SELECT order_id FROM orders ORDER BY placed_at LIMIT 1")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{rig.addresses.http('tracker')}/sagas/{oldest}") as response:
            saga = await response.json()
        async with session.get(f"{rig.addresses.http('order')}/orders/{oldest}") as response:
            assert (await response.json())["order_id"] == str(oldest)
    assert saga["state"] == "COMPLETED"
    timeline = saga["facts"]
    assert {fact["body"]["order_id"] for fact in timeline} == {str(oldest)}
    known = {fact["fact_id"] for fact in timeline}
    assert all(fact["causation"]["fact_id"] in known for fact in timeline[1:])
    keys = "SELECT count(*) FROM pg_constraint WHERE contype = 'p' AND conrelid IN ({})"
    for name, tables in TABLES.items():
        listed = ", ".join(f"'{table}'::regclass" for table in tables)
        assert (await _row(rig, name, keys.format(listed)))[0] == len(tables)


async def test_new_orders_go_on(rig: LocalRig) -> None:
    """Filling once more plays new ones."""
    assert (await fill(rig.addresses, 1)).orders == len(KINDS)


def _count_of(table: str) -> str:
    key = {"inbox": "fact_id", "saga_facts": "fact_id"}.get(table, "order_id")
    return f"SELECT count(*), count(DISTINCT {key}) FROM {table}"


async def _row(rig: LocalRig, name: str, query: str) -> tuple[Any, ...]:
    async with await psycopg.AsyncConnection.connect(rig.addresses.database_url(name)) as connection:
        row: tuple[Any, ...] | None = await (await connection.execute(query.encode())).fetchone()
    assert row is not None
    return row
