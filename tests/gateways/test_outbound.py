"""What a gateway makes of answers nobody agreed on."""

from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import pytest
from aiohttp import web
from pydantic import ValidationError

from events.outbound.dispatcher import CallFailed
from events.outbound.http_party import Refused
from events.runtime.settings import ServiceSettings
from payment_svc.gateway import PaymentGateway, ProviderSettings, gateway_from
from payment_svc.payment import Capture
from tests.gateways.world import in_short, settings_for

Answering = Callable[[web.Response], Awaitable[PaymentGateway]]
CALL = Capture(order_id=UUID(int=1))
MAX_ANSWER_BYTES = ServiceSettings.model_fields["call_answer_limit_bytes"].default


@pytest.fixture
async def answering(unused_tcp_port: int) -> AsyncIterator[Answering]:
    """A gateway to a provider that answers everything with one response."""
    canned: list[web.Response] = []

    async def answer(_request: web.Request) -> web.Response:
        return canned[-1]

    app = web.Application()
    app.router.add_route("*", "/{anything:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    url = f"http://127.0.0.1:{unused_tcp_port}/provider"
    gateway = gateway_from(settings_for(ProviderSettings, None, provider_url=url))
    await gateway.open()

    async def with_answer(response: web.Response) -> PaymentGateway:
        canned.append(response)
        return gateway

    yield with_answer
    await gateway.close()
    await runner.cleanup()


@pytest.mark.parametrize(
    ("response", "failure"),
    [
        (lambda: web.Response(status=201, text="<html>"), ("provider_answered_201", True)),
        (lambda: web.json_response({"state": "captured"}, status=201), ("provider_answered_201", True)),
        (lambda: web.json_response({"status": "captured"}, status=200), ("provider_answered_200", True)),
        (lambda: web.Response(status=302, headers={"Location": "/x"}), ("provider_answered_302", False)),
        (
            lambda: web.json_response({"status": 401, "title": "?"}, status=401),
            ("provider_answered_401", False),
        ),
        (lambda: web.json_response({"status": "lost"}, status=409), ("provider_answered_409", False)),
        (lambda: web.Response(status=429), ("provider_answered_429", False)),
        (lambda: web.Response(status=502, text="proxy"), ("provider_answered_502", True)),
        (
            lambda: web.Response(status=201, body=b"x" * (MAX_ANSWER_BYTES + 1)),
            ("provider_answer_too_large", True),
        ),
    ],
    ids=[
        "no json",
        "other json",
        "wrong status",
        "redirect",
        "unauthorised",
        "odd refusal",
        "busy",
        "proxy",
        "huge",
    ],
)
async def test_odd_answers_are_failures_and_not_outcomes(
    answering: Answering, response: Callable[[], web.Response], failure: tuple[str, bool]
) -> None:
    gateway = await answering(response())
    with pytest.raises(CallFailed) as failed:
        await gateway.perform(CALL)
    assert in_short([failed.value]) == [failure]


@pytest.mark.parametrize("status", [200, 401, 503])
async def test_odd_look_ups_are_failures_and_not_a_no(answering: Answering, status: int) -> None:
    gateway = await answering(web.json_response({"what": "?"}, status=status))
    with pytest.raises(CallFailed):
        await gateway.look_up(CALL)


@pytest.mark.parametrize("url", ["", "provider:80", "ftp://provider"])
def test_an_unusable_url_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ValidationError, match="provider_url"):
        settings_for(ProviderSettings, None, provider_url=url)


def test_a_reason_fits_into_a_fact() -> None:
    assert len(Refused("x" * 500).reason) == 200
    assert Refused("").reason == "unknown"
