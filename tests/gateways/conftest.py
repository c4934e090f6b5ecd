from collections.abc import AsyncIterator, Iterator
from uuid import UUID, uuid4

import pytest
from aiohttp import ClientSession

from fulfillment_svc.gateway import FulfillmentGateway, FulfillmentSettings
from fulfillment_svc.gateway import gateway_from as fulfillment_gateway_from
from notification_svc.gateway import NotificationGateway, NotificationSettings
from notification_svc.gateway import gateway_from as notification_gateway_from
from payment_svc.gateway import PaymentGateway, ProviderSettings
from payment_svc.gateway import gateway_from as payment_gateway_from
from tests.gateways.world import settings_for
from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess, new_sandbox


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    process = new_sandbox(tmp_path_factory.mktemp("gateways")).start()
    yield process
    assert process.stop() == 0


@pytest.fixture
async def client(sandbox: SandboxProcess) -> AsyncIterator[Client]:
    async with ClientSession(sandbox.url) as session:
        yield Client(session)
        await Client(session).behave()


@pytest.fixture
async def payment(sandbox: SandboxProcess) -> AsyncIterator[PaymentGateway]:
    gateway = payment_gateway_from(settings_for(ProviderSettings, sandbox))
    await gateway.open()
    yield gateway
    await gateway.close()


@pytest.fixture
async def fulfillment(sandbox: SandboxProcess) -> AsyncIterator[FulfillmentGateway]:
    gateway = fulfillment_gateway_from(settings_for(FulfillmentSettings, sandbox))
    await gateway.open()
    yield gateway
    await gateway.close()


@pytest.fixture
async def notification(sandbox: SandboxProcess) -> AsyncIterator[NotificationGateway]:
    gateway = notification_gateway_from(settings_for(NotificationSettings, sandbox))
    await gateway.open()
    yield gateway
    await gateway.close()


@pytest.fixture
def order_id() -> UUID:
    return uuid4()
