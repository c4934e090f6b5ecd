"""The customer directory: how often it is asked, and for how long who was found is remembered."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest

from events.outbound.directory import DirectorySettings, HttpCustomerDirectory
from events.outbound.dispatcher import CallFailed
from fulfillment_svc.gateway import FulfillmentSettings
from fulfillment_svc.shipment import Recipient
from notification_svc.decide import Delivered, SendEmail, SendPush
from notification_svc.gateway import Contact, ContactByUrl, NotificationSettings, gateway_from
from tests.gateways.conformance.faulty import Faulty, faulty
from tests.gateways.world import in_short, settings_for
from tests.runtime.eventually import eventually
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess

Directory = HttpCustomerDirectory[Contact]
New = Callable[..., Directory]


@pytest.fixture
async def between(sandbox: SandboxProcess) -> AsyncIterator[Faulty]:
    async with faulty(sandbox.url) as proxy:
        yield proxy


@pytest.fixture
async def new(sandbox: SandboxProcess, between: Faulty) -> AsyncIterator[New]:
    async with AsyncExitStack() as opened:

        def directory(**settings: Any) -> Directory:
            given = {"directory_url": f"{between.url}/directory", **settings}
            made = HttpCustomerDirectory(settings_for(DirectorySettings, sandbox, **given), Contact)
            opened.push_async_callback(made.close)
            return made

        yield directory


async def test_all_who_ask_at_once_share_one_request(new: New, between: Faulty) -> None:
    directory = new(directory_cache_seconds=0)
    found = await asyncio.gather(*(directory.entry("cust_1") for _ in range(20)))
    assert len({entry.email for entry in found if entry}) == 1
    assert between.asked == ["GET /directory/customers/cust_1"]
    await directory.entry("cust_1")
    assert len(between.asked) == 2


async def test_one_who_gives_up_takes_nothing_from_the_others(new: New, between: Faulty) -> None:
    directory = new()
    first, second = (asyncio.create_task(directory.entry("cust_1")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is not None
    assert len(between.asked) == 1


async def test_who_was_found_is_remembered_for_a_while_and_then_forgotten(new: New, between: Faulty) -> None:
    directory = new(directory_cache_seconds=0.3)
    for _ in range(3):
        await directory.entry("cust_1")
    assert (len(between.asked), directory.remembered) == (1, 1)

    async def forgotten() -> bool:
        return directory.remembered == 0

    # Nobody asks meanwhile: it is not forgotten because of that.
    await eventually(forgotten, within_seconds=5)
    await directory.entry("cust_1")
    assert len(between.asked) == 2


async def test_those_who_were_found_later_are_forgotten_later(new: New) -> None:
    directory = new(directory_cache_seconds=0.4)
    await directory.entry("cust_1")
    await asyncio.sleep(0.2)
    await directory.entry("cust_2")
    seen: list[int] = []

    async def forgotten() -> bool:
        seen.append(directory.remembered)
        return seen[-1] == 0

    await eventually(forgotten, within_seconds=5)
    assert sorted(set(seen), reverse=True) == [2, 1, 0]


async def test_no_more_are_remembered_than_the_bound(new: New, between: Faulty) -> None:
    directory = new(directory_cache_entries=3)
    for number in (1, 2, 3, 4, 2, 3, 4):
        await directory.entry(f"cust_{number}")
    assert (len(between.asked), directory.remembered) == (4, 3)
    await directory.entry("cust_1")
    assert (len(between.asked), directory.remembered) == (5, 3)


async def test_nobody_and_failures_are_not_remembered(new: New, between: Faulty, client: Client) -> None:
    directory = new()
    for _ in range(2):
        assert await directory.entry("cust_unknown_1") is None
    assert len(between.asked) == 2
    await client.faults(target="directory", fail_rate=1)
    asked = (directory.entry("cust_1") for _ in range(3))
    failures = await asyncio.gather(*asked, return_exceptions=True)
    assert (
        in_short([failure for failure in failures if isinstance(failure, CallFailed)])
        == [("directory_answered_503", False)] * 3
    )
    assert len(between.asked) == 3
    await client.behave()
    assert await directory.entry("cust_1") is not None
    assert directory.remembered == 1


async def test_closed_it_remembers_nobody(new: New) -> None:
    directory = new()
    await directory.entry("cust_1")
    await directory.close()
    assert directory.remembered == 0


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_the_sandboxs_directory_takes_its_token_alone(new: New, token: str | None) -> None:
    with pytest.raises(CallFailed) as failure:
        await new(directory_token=token).entry("cust_1")
    assert in_short([failure.value]) == [("directory_answered_401", False)]


@pytest.mark.parametrize(
    ("settings", "kind", "kept"),
    [
        (NotificationSettings, Contact, {"name", "email", "device"}),
        (NotificationSettings, ContactByUrl, {"name", "email", "device"}),
        (FulfillmentSettings, Recipient, {"name", "address"}),
    ],
    ids=["notification", "notification by apprise", "fulfilment"],
)
async def test_each_service_keeps_what_it_needs_alone(
    sandbox: SandboxProcess, settings: type[DirectorySettings], kind: type[Any], kept: set[str]
) -> None:
    directory = HttpCustomerDirectory[Any](settings_for(settings, sandbox), kind)
    entry = await directory.entry("cust_1")
    assert entry is not None
    assert entry.model_dump().keys() == kept
    await directory.close()


async def test_an_order_asks_once_and_its_customers_next_orders_do_not(
    sandbox: SandboxProcess, between: Faulty
) -> None:
    given = {"directory_url": f"{between.url}/directory"}
    gateway = gateway_from(settings_for(NotificationSettings, sandbox, **given))
    await gateway.open()
    for _ in range(5):
        order_id = uuid4()
        calls = (
            kind(order_id=order_id, customer="cust_1", ending="confirmed") for kind in (SendEmail, SendPush)
        )
        outcomes = await asyncio.gather(*(gateway.perform(call) for call in calls))
        assert outcomes == [Delivered("email"), Delivered("push")]
    await gateway.close()
    assert between.asked == ["GET /directory/customers/cust_1"]
