"""What notification_svc counts on, of every way to a customer: its promises, and each fault."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.outbound.circuit import BREAKERS
from events.outbound.dispatcher import CallFailed
from notification_svc.decide import Delivered, Undeliverable
from notification_svc.gateway import NotificationSettings
from tests.gateways.conformance.faulty import Fault, Faulty
from tests.gateways.conformance.faulty_mail import FaultyMail, faulty_mail
from tests.gateways.conformance.messengers import (
    APPRISE,
    MAIL,
    MESSENGERS,
    PUSH,
    Messenger,
    messenger_settings,
    opened,
)
from tests.gateways.http_server import Server, listening
from tests.gateways.world import make_certificate
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess, new_sandbox

# What says that nothing was done.
UNDONE = {
    PUSH: {Fault.LIMITED},
    APPRISE: {Fault.LIMITED},
    # By its protocol a server has not taken a mail that it answers 4xx.
    MAIL: {Fault.LIMITED, Fault.UNAVAILABLE, Fault.BROKE_AFTER},
}
# Whose success is a status: what comes with it is not read.
BY_STATUS_ALONE = (PUSH, APPRISE)
UNREACHABLE = {
    PUSH: ("cust_no_push_1", "no_device"),
    APPRISE: ("cust_no_push_1", "no_device"),
    MAIL: ("cust_mail_bounces_1", "mail_refused_550"),
}
PARTY = {PUSH: "push", APPRISE: "push_json", MAIL: "mail_server"}


@pytest.fixture(params=MESSENGERS)
def name(request: pytest.FixtureRequest) -> str:
    given: str = request.param
    return given


@pytest.fixture
async def mail_between(sandbox: SandboxProcess) -> AsyncIterator[FaultyMail]:
    async with faulty_mail(sandbox.smtp_port) as proxy:
        yield proxy


@pytest.fixture
async def messenger(
    sandbox: SandboxProcess, between: Faulty, mail_between: FaultyMail, name: str, client: Client
) -> AsyncIterator[Messenger]:
    smtp_url = f"smtp://127.0.0.1:{mail_between.port}"
    settings = messenger_settings(
        name, sandbox, between.url, smtp_url, circuit_opens_after=6, circuit_opens_after_seconds=0
    )
    async with opened(settings) as gateway:
        yield Messenger(gateway, name, client, between, mail_between)


async def test_it_arrives(messenger: Messenger) -> None:
    assert await messenger.gateway.perform(messenger.call()) == Delivered(messenger.channel)
    (message,) = await messenger.arrived()
    assert message["subject" if messenger.name == MAIL else "title"] == "Your order is confirmed"


async def test_however_often_it_is_asked_it_counts_once(messenger: Messenger) -> None:
    asked = (messenger.carry_out(messenger.call()) for _ in range(8))
    outcomes = [outcome for outcome, _ in await asyncio.gather(*asked)]
    assert outcomes == [Delivered(messenger.channel)] * 8
    assert len(await messenger.arrived()) == 1


async def test_another_round_is_another_message(messenger: Messenger) -> None:
    for number in (1, 2, 2):
        await messenger.gateway.perform(messenger.call(number=number))
    assert len(await messenger.arrived()) == 2


async def test_what_was_sent_is_never_looked_up_but_sent_again(messenger: Messenger) -> None:
    await messenger.gateway.perform(messenger.call())
    assert await messenger.gateway.look_up(messenger.call()) is None


async def test_who_is_unknown_or_cannot_be_reached_is_undeliverable_at_once(messenger: Messenger) -> None:
    channel, (customer, reason) = messenger.channel, UNREACHABLE[messenger.name]
    unknown = await messenger.gateway.perform(messenger.call("cust_unknown_1"))
    assert unknown == Undeliverable(channel, "unknown_customer")
    assert await messenger.gateway.perform(messenger.call(customer)) == Undeliverable(channel, reason)
    assert await messenger.arrived() == []


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.SAVED_AFTER])
async def test_whatever_goes_wrong_it_arrives_and_counts_once(messenger: Messenger, fault: Fault) -> None:
    if fault is Fault.IN_USE and messenger.name != APPRISE:
        # A mail has no key, and the sandbox waits for what is under way under one.
        return
    messenger.meets(fault)
    outcome, failures = await messenger.carry_out(messenger.call())
    assert outcome == Delivered(messenger.channel)
    assert len(await messenger.arrived()) == 1
    if fault is Fault.GARBAGE and messenger.name in BY_STATUS_ALONE:
        assert failures == []
        return
    (failure,) = failures
    assert failure.maybe_done == (fault not in UNDONE[messenger.name])
    # Neither SMTP nor apprise says when.
    assert failure.wait_seconds == (3 if fault is Fault.LIMITED and messenger.name == PUSH else 0)


async def test_an_error_that_is_saved_is_never_taken_for_an_arrival(messenger: Messenger) -> None:
    if messenger.name == MAIL:
        # A mail has no key under which a server would remember what it said.
        return
    messenger.meets(Fault.SAVED_AFTER)
    outcome, failures = await messenger.carry_out(messenger.call())
    assert outcome is None
    assert {failure.maybe_done for failure in failures} == {True}
    assert len(await messenger.arrived()) == 1


async def test_a_party_that_goes_on_failing_is_left_alone(messenger: Messenger) -> None:
    party = PARTY[messenger.name]
    messenger.meets(Fault.UNAVAILABLE, times=6)
    failures = [failure for _ in range(2) for failure in (await messenger.carry_out(messenger.call()))[1]]
    assert failures[-1].reason == f"{party}_circuit_open"
    assert failures[-1].wait_seconds > 0
    assert BREAKERS[party].state == "open"
    assert await messenger.arrived() == []


async def test_a_refusal_is_a_sign_of_life(messenger: Messenger) -> None:
    for _ in range(7):
        await messenger.gateway.perform(messenger.call(UNREACHABLE[messenger.name][0]))
    assert await messenger.gateway.perform(messenger.call()) == Delivered(messenger.channel)


async def nobody_is_reached(name: str, settings: NotificationSettings, client: Client, device: str) -> None:
    async with opened(settings, device) as gateway:
        call = Messenger(gateway, name, client).call()
        with pytest.raises(CallFailed) as failure:
            await gateway.perform(call)
    # To apprise it is all one why a message did not go.
    assert failure.value.maybe_done == (name == APPRISE)


async def test_a_party_that_is_away_did_nothing(
    sandbox: SandboxProcess, name: str, tmp_path: Path, client: Client
) -> None:
    away = new_sandbox(tmp_path)
    settings = messenger_settings(name, sandbox, away.url, away.smtp_url)
    await nobody_is_reached(name, settings, client, f"json://127.0.0.1:{away.http_port}")


async def test_a_certificate_that_nobody_vouches_for_is_no_party(
    sandbox: SandboxProcess, name: str, tmp_path: Path, client: Client
) -> None:
    _, tls = await make_certificate(tmp_path)
    server = Server()
    server.port = new_sandbox(tmp_path).http_port
    address = f"localhost:{server.port}"
    async with listening(server, tls):
        settings = messenger_settings(name, sandbox, f"https://{address}", f"smtps://{address}")
        await nobody_is_reached(name, settings, client, f"jsons://{address}?verify=no")
    assert server.asked == []
