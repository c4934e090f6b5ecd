"""Clients that hang up in the middle of a POST, and come again with the same key."""

import asyncio
import json
from random import Random
from urllib.parse import urlsplit
from uuid import uuid4

from compose.demo.shop import Item
from tests.system.stage import System

CLIENTS = 20
SEED = 20
AMOUNT_MINOR = 500


def request(key: str, sku: str, token: str) -> bytes:
    """A POST of one unit, byte for byte."""
    order = {
        "customer": "cust_ada",
        "currency": "EUR",
        "payment_token": "tok_ok",
        "lines": [{"sku": sku, "quantity": 1, "amount_minor": AMOUNT_MINOR}],
    }
    body = json.dumps(order)
    head = (
        "POST /orders HTTP/1.1",
        "Host: shop",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"Idempotency-Key: {key}",
        # Each client has keys of its own.
        f"Authorization: Bearer {token}",
    )
    return "\r\n".join([*head, "", body]).encode()


async def hang_up(system: System, sent: bytes) -> None:
    """Send this much, and drop the connection without listening to any answer."""
    where = urlsplit(system.rig.addresses.http("order"))
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(sent)
    await writer.drain()
    writer.transport.abort()


async def test_they_hang_up_in_the_middle(system: System) -> None:
    """Half an order is none. A whole one may count, and counts once for a client that comes again."""
    random, sku = Random(SEED), await system.new_sku(3 * CLIENTS)
    keys = [str(uuid4()) for _ in range(3 * CLIENTS)]
    cut, whole, gone = keys[:CLIENTS], keys[CLIENTS : 2 * CLIENTS], keys[2 * CLIENTS :]
    sent = {key: request(key, sku, system.rig.addresses.token) for key in keys}
    sent |= {key: sent[key][: random.randrange(1, len(sent[key]))] for key in cut}
    await asyncio.gather(*(hang_up(system, part) for part in sent.values()))
    item = Item(sku, 1, AMOUNT_MINOR)
    again = await asyncio.gather(
        *(system.shop.place("cust_ada", "tok_ok", item, key=key) for key in cut + whole)
    )
    assert len(set(again)) == len(again)
    books = await system.settle(dict.fromkeys(again, "COMPLETED"))
    assert {books[order_id].money.times("captured") for order_id in again} == {1}
    [[accepted]] = await system.execute(
        "order", "SELECT count(*) FROM orders WHERE lines->0->>'sku' = %s", [sku]
    )
    assert len(again) <= accepted <= len(again) + len(gone)
    [[sold]] = await system.execute("inventory", "SELECT sold FROM stock WHERE sku = %s", [sku])
    assert sold == accepted
