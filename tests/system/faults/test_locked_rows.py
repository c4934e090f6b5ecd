"""Somebody leaves a transaction open that locks one SKU's stock: the others pass, and none is given up."""

import asyncio
from functools import partial
from pathlib import Path
from uuid import UUID

import psycopg

from compose.demo.shop import Item
from compose.local.rig import LocalRig
from tests.system.stage import System, until

PEARS = 5
# Well before anybody is told that inventory is late.
SOON_SECONDS = 10.0
# Beyond the time after which an order that inventory does not answer times out.
LOCKED_SECONDS = 14.0


async def test_one_locked_row_stops_no_other_sku(system: System, rig: LocalRig) -> None:
    apple, pear = await system.new_sku(10), await system.new_sku(10)
    async with await psycopg.AsyncConnection.connect(
        rig.addresses.database_url("inventory"), application_name="left open"
    ) as somebody:
        await somebody.execute("SELECT FROM stock WHERE sku = %s FOR UPDATE", [apple])
        of_apple = await system.shop.place("cust_ada", "tok_ok", Item(apple, 1, 500))
        pears = [await system.shop.place("cust_ada", "tok_ok", Item(pear, 1, 500)) for _ in range(PEARS)]
        for order_id in pears:
            await until(partial(_is_confirmed, system, order_id), within_seconds=SOON_SECONDS)
        log = rig.state_dir / "logs" / "inventory.log"
        session = f'"pid":{somebody.info.backend_pid},"role":"inventory","application_name":"left open"'
        await until(partial(_is_logged, log, session))
        await until(partial(_is_shown, system, of_apple, f"pid {somebody.info.backend_pid}"))
        await asyncio.sleep(LOCKED_SECONDS)
    await until(partial(_is_confirmed, system, of_apple))
    await system.settle(dict.fromkeys((of_apple, *pears), "COMPLETED"))
    [dead_letters] = await system.execute(
        "tracker", "SELECT count(*) FROM dead_letters WHERE order_id = %s", [of_apple]
    )
    assert dead_letters == (0,)


async def _is_confirmed(system: System, order_id: UUID) -> bool:
    return bool((await system.shop.order(order_id))["status"] == "confirmed")


async def _is_shown(system: System, order_id: UUID, session: str) -> bool:
    [wait] = (await system.shop.saga(order_id) or {"waits": []})["waits"]
    return session in (wait["service_locked"] or {}).get("session", "")


async def _is_logged(log: Path, text: str) -> bool:
    lines = (await asyncio.to_thread(log.read_text)).splitlines()
    return any(text in line for line in lines if "waits_for_lock" in line)
