"""Every request to Stripe has a shape that Stripe takes: by stripe-mock, which Stripe makes of its OpenAPI.

It keeps nothing and answers with examples. So that the adapter goes on to its next request, the examples are
given the status that they would have.
"""

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
import stripe
from aiohttp import ClientSession, web

from compose.local.ports import LOOPBACK, free_port
from compose.waiting import wait_until_ready
from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import HttpParty
from payment_svc.gateway import ProviderSettings, stripe_from
from payment_svc.payment import (
    STRIPE,
    Authorise,
    Authorised,
    Calls,
    Capture,
    Captured,
    Follow,
    IssueCreditNote,
    Refund,
    Register,
    Registered,
    Stands,
    Undone,
    Void,
)
from payment_svc.stripe import StripePayments
from payment_svc.stripe_api import Transport
from tests.gateways.world import settings_for
from tests.servers import serving
from tests.tools import STRIPE_MOCK, require

START_SECONDS = 20.0
ORDER = uuid4()
INTENT: dict[str, Any] = {"order_id": ORDER, "provider": STRIPE, "provider_payment": "pi_1"}
REGISTER = Register(
    order_id=ORDER, provider=STRIPE, amount_minor=1250, currency="EUR", payment_token="pm_card_visa"
)
SUCCEEDED = {"payment_intent": {"status": "succeeded", "customer": "cus_1"}}


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    require(STRIPE_MOCK)
    address = f"{LOOPBACK}:{free_port()}"
    with subprocess.Popen(["stripe-mock", "-http-addr", address], stdout=subprocess.DEVNULL) as process:

        def what_it_lacks() -> str | None:
            host, port = address.split(":")
            try:
                socket.create_connection((host, int(port)), 1).close()
            except OSError:
                return "it does not listen"
            return None

        try:
            assert wait_until_ready(what_it_lacks, START_SECONDS) is None
            yield f"http://{address}"
        finally:
            process.terminate()


@dataclass
class Between:
    """Passes requests on, keeps what each was answered, and gives the examples what they lack."""

    upstream: str
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    lists: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    answered: list[tuple[str, int]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        kept = ("Authorization", "Content-Type", "Idempotency-Key")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        async with ClientSession() as session:
            url, body = f"{self.upstream}{request.path_qs}", await request.read()
            async with session.request(request.method, url, data=body, headers=headers) as answer:
                content = await answer.json()
        self.answered.append((f"{request.method} {request.path}", answer.status))
        if answer.status == 200:
            content = self._changed(content)
        return web.json_response(content, status=answer.status)

    def _changed(self, content: dict[str, Any]) -> dict[str, Any]:
        if content["object"] == "list":
            kind = content["data"][0]["object"]
            return content | {"has_more": False, "data": self.lists.get(kind, content["data"])}
        return content | self.changes.get(content["object"], {})


@asynccontextmanager
async def gateway_to(between: Between) -> AsyncIterator[StripePayments]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", between.handle)
    async with serving(application) as url:
        settings = settings_for(
            ProviderSettings, None, stripe_key="sk_test_1", stripe_api=url, provider=STRIPE
        )
        assert settings.stripe_key is not None
        gateway = stripe_from(settings, settings.stripe_key)
        await gateway.open()
        yield gateway
        await gateway.close()


@pytest.mark.parametrize(
    ("call", "changes", "lists", "outcome", "asked"),
    [
        (
            REGISTER,
            {"payment_method": {"customer": "cus_1"}},
            {},
            Registered,
            ["GET /v1/payment_methods/pm_card_visa", "POST /v1/payment_intents"],
        ),
        (
            REGISTER,
            {"payment_method": {"customer": None}},
            {},
            Registered,
            ["GET /v1/payment_methods/pm_card_visa", "POST /v1/payment_intents"],
        ),
        (
            Authorise(**INTENT, amount_minor=1250, currency="EUR", payment_token="pm_card_visa"),
            {"payment_intent": {"status": "requires_capture"}},
            {},
            Authorised,
            ["POST /v1/payment_intents/pi_1/confirm"],
        ),
        (Capture(**INTENT), SUCCEEDED, {}, Captured, ["POST /v1/payment_intents/pi_1/capture"]),
        (
            Void(**INTENT),
            {"payment_intent": {"status": "canceled"}},
            {},
            Undone,
            ["POST /v1/payment_intents/pi_1/cancel"],
        ),
        (
            Refund(**INTENT),
            SUCCEEDED | {"refund": {"status": "succeeded"}},
            {"refund": [], "customer_balance_transaction": []},
            Undone,
            [
                "GET /v1/payment_intents/pi_1",
                "GET /v1/refunds",
                "GET /v1/customers/cus_1/balance_transactions",
                "POST /v1/refunds",
            ],
        ),
        (
            IssueCreditNote(**INTENT),
            SUCCEEDED,
            {"refund": []},
            Undone,
            [
                "GET /v1/payment_intents/pi_1",
                "GET /v1/refunds",
                "GET /v1/customers/cus_1/balance_transactions",
                "POST /v1/customers/cus_1/balance_transactions",
            ],
        ),
        (
            Follow(**INTENT, what="refund"),
            SUCCEEDED,
            {},
            Stands,
            ["GET /v1/payment_intents/pi_1", "GET /v1/refunds"],
        ),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Calls) else "",
)
async def test_every_request_is_one_that_stripe_takes(
    mock: str,
    call: Calls,
    changes: dict[str, dict[str, Any]],
    lists: dict[str, list[dict[str, Any]]],
    outcome: type,
    asked: list[str],
) -> None:
    between = Between(mock, changes, lists)
    async with gateway_to(between) as gateway:
        assert isinstance(await gateway.perform(call), outcome)
    assert between.answered == [(request, 200) for request in asked]


async def test_a_payment_whose_bank_wants_its_holder_is_cancelled_as_stripe_takes_it(mock: str) -> None:
    between = Between(mock, {"payment_intent": {"status": "requires_action"}})
    async with gateway_to(between) as gateway:
        authorise = Authorise(**INTENT, amount_minor=1250, currency="EUR", payment_token="pm_card_visa")
        await gateway.perform(authorise)
    # The examples have ids of their own.
    asked = [(request.rpartition("/")[2], status) for request, status in between.answered]
    assert asked == [("confirm", 200), ("cancel", 200)]


async def test_a_parameter_that_stripe_does_not_know_is_refused(mock: str) -> None:
    """Or else this file would prove nothing."""
    settings = settings_for(ProviderSettings, None, stripe_key="sk_test_1", stripe_api=mock, provider=STRIPE)
    transport = Transport(HttpParty("stripe", mock, settings), mock)
    client = stripe.StripeClient("sk_test_1", base_addresses={"api": mock}, http_client=transport)
    creating: Any = client.v1.payment_intents.create_async
    with pytest.raises((stripe.InvalidRequestError, CallFailed)):
        await asyncio.wait_for(creating({"amount": 1, "currency": "eur", "no_such": json.dumps({})}), 10)
