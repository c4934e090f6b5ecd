"""For Locust: customers who place orders of all kinds, some of whom watch theirs until it has ended.

    pip install locust        (in an environment of its own: nothing else here needs it)
    make up; make status URLS=1
    TRACKER_URL=... INVENTORY_URL=... ADMIN_TOKEN=... \\
        locust -f tests/bench/locustfile.py --host ORDER_URL --headless -u 100 -r 20 -t 60s

Without `--headless` it is driven from its page. INVENTORY_URL and ADMIN_TOKEN put what is ordered on stock
first; without TRACKER_URL nobody watches. The line "SAGA placed to ended" is the time of a whole order, to
within WATCH_SECONDS. A refusal for now (503) counts as a failure, and is tried again when it says so, under
the same key.
"""

import json
import os
import random
import time
from dataclasses import dataclass
from urllib.request import Request, urlopen
from uuid import uuid4

import gevent
from locust import FastHttpUser, between, events, task

TRACKER_URL = os.environ.get("TRACKER_URL")
INVENTORY_URL = os.environ.get("INVENTORY_URL")
ADMIN_TOKEN = os.environ.get("ADMIN_TOKEN")

SKUS = tuple(f"locust-{number}" for number in range(20))
SOLD_OUT = "locust-sold-out"
STOCK = 10_000_000
WATCHED_SHARE = 0.2
WATCH_SECONDS = 0.25
ATTEMPTS = 5
GIVE_UP_WATCHING_SECONDS = 60.0
ENDED = frozenset({"COMPLETED", "CANCELLED", "NEEDS_MANUAL"})


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of order, what the sandbox makes of it, and how often it comes."""

    share: float
    payment_token: str = "tok_ok"
    customer: str = ""
    sold_out: bool = False


KINDS = (
    Kind(0.84),
    Kind(0.05, payment_token="tok_declined"),
    Kind(0.03, customer="cust_refused"),
    Kind(0.03, sold_out=True),
    Kind(0.03, payment_token="tok_flaky"),
    Kind(0.02, payment_token="tok_lost"),
)


@events.test_start.add_listener
def put_on_stock(**_: object) -> None:
    """So that the customers never run out of what is to be had."""
    if not (INVENTORY_URL and ADMIN_TOKEN):
        return
    for sku in (*SKUS, SOLD_OUT):
        request = Request(
            f"{INVENTORY_URL}/stock/{sku}",
            json.dumps({"stocked": 0 if sku == SOLD_OUT else STOCK}).encode(),
            {"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": "application/json"},
            method="PUT",
        )
        urlopen(request, timeout=10).close()


class Customer(FastHttpUser):
    """Places one order after the other."""

    wait_time = between(0.5, 1.5)

    @task
    def order(self) -> None:
        """Place one, and perhaps watch it."""
        (kind,) = random.choices(KINDS, [kind.share for kind in KINDS])
        began = time.perf_counter()
        order_id = self.place(kind)
        if order_id is not None and TRACKER_URL and random.random() < WATCHED_SHARE:
            self.watch(order_id, began)

    def place(self, kind: Kind) -> str | None:
        """Its id; None when it was not accepted."""
        key = uuid4()
        body = {
            "customer": kind.customer or f"cust_{key.hex}",
            "currency": "EUR",
            "payment_token": kind.payment_token,
            "lines": [
                {
                    "sku": SOLD_OUT if kind.sold_out else random.choice(SKUS),
                    "quantity": random.randint(1, 3),
                    "amount_minor": random.randint(100, 20_000),
                }
            ],
        }
        for _ in range(ATTEMPTS):
            response = self.client.post("/orders", json=body, headers={"Idempotency-Key": str(key)})
            if response.status_code == 202:
                return str(response.json()["order_id"])
            if response.status_code != 503:
                return None
            gevent.sleep(float(response.headers.get("retry-after", 1)))
        return None

    def watch(self, order_id: str, began: float) -> None:
        """Ask the tracker until the order has ended; that it does not know an order yet is no failure."""
        while time.perf_counter() - began < GIVE_UP_WATCHING_SECONDS:
            with self.client.get(
                f"{TRACKER_URL}/sagas/{order_id}", name="/sagas/ORDER_ID", catch_response=True
            ) as response:
                if response.status_code == 404:
                    response.success()
                ended = response.status_code == 200 and response.json()["state"] in ENDED
            if ended:
                self.report(began, None)
                return
            gevent.sleep(WATCH_SECONDS)
        self.report(began, TimeoutError(f"order {order_id} has not ended"))

    def report(self, began: float, problem: Exception | None) -> None:
        """A line of its own in Locust's table."""
        self.environment.events.request.fire(
            request_type="SAGA",
            name="placed to ended",
            response_time=(time.perf_counter() - began) * 1_000,
            response_length=0,
            exception=problem,
        )
