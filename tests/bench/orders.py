"""What the load orders: a documented mix, mostly orders that complete; and the requests' very bytes.

Of a hundred orders 92 complete. Two each are out of stock, declined by the provider, refused by the carrier,
and cancelled by the customer as soon as they are accepted (which may come too late: then it completes).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import uuid4

SKU = "bench"
NO_SKU = "bench-none"
STOCK = 1_000_000_000
PRICE_MINOR = 1_999
# Takes the place of what differs from one order to the next; as long as a key is.
_KEY = "0" * 32


class Ordered(NamedTuple):
    """One order to place: the key that makes a repeat harmless, and the request."""

    key: str
    request: bytes
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of order."""

    payment_token: str = "tok_ok"
    customer: str = "cust"
    skus: Sequence[str] = (SKU,)
    cancelled: bool = False

    def body(self) -> dict[str, object]:
        """What is sent, but for the key in its customer's name."""
        return {
            "customer": f"{self.customer}_{_KEY}",
            "currency": "EUR",
            "payment_token": self.payment_token,
            "lines": [{"sku": sku, "quantity": 1, "amount_minor": PRICE_MINOR} for sku in self.skus],
        }


PLAIN = Kind()
MIX_OF = 50
MIX: dict[int, Kind] = {
    5: Kind(skus=(NO_SKU,)),
    15: Kind("tok_declined"),
    25: Kind(customer="cust_refused"),
    35: Kind(cancelled=True),
}
"""By an order's number modulo `MIX_OF`; whoever is not named here completes."""


def mix() -> list[Kind]:
    """The kinds of `MIX_OF` orders that follow each other."""
    return [MIX.get(number, PLAIN) for number in range(MIX_OF)]


class Orders:
    """An endless series of orders: the mix, or all of one kind."""

    def __init__(self, only: Kind | None = None) -> None:
        kinds = [only] if only else mix()
        self._templates = [(request_bytes("POST", "/orders", kind.body(), _KEY), kind) for kind in kinds]
        self._number = 0

    def next(self) -> Ordered:
        """The next one, under a key of its own."""
        template, kind = self._templates[self._number % len(self._templates)]
        self._number += 1
        key = uuid4().hex
        return Ordered(key, template.replace(_KEY.encode(), key.encode()), kind.cancelled)


def request_bytes(method: str, path: str, body: object = None, key: str | None = None) -> bytes:
    """A whole HTTP request; `key` becomes its Idempotency-Key."""
    content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(content)}\r\n"
    if content:
        head += "Content-Type: application/json\r\n"
    if key is not None:
        head += f"Idempotency-Key: {key}\r\n"
    return head.encode() + b"\r\n" + content
