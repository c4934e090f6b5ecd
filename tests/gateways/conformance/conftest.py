from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

from events.outbound.dispatcher import Gateway
from fulfillment_svc.gateway import FulfillmentSettings
from fulfillment_svc.gateway import gateways_from as carriers_from
from fulfillment_svc.shipment import EASYPOST
from fulfillment_svc.shipment import Calls as CarrierCalls
from payment_svc.gateway import ProviderSettings, gateways_from
from payment_svc.payment import SANDBOX, STRIPE, Calls
from tests.gateways.conformance.carriers import Shipping
from tests.gateways.conformance.faulty import Faulty, faulty
from tests.gateways.conformance.payments import Paying
from tests.gateways.world import settings_for
from tests.sandbox_process import SandboxProcess

# A new adapter is accepted by being named here, and passing.
PAYMENT_ADAPTERS = (SANDBOX, STRIPE)
CARRIER_ADAPTERS = (SANDBOX, EASYPOST)
New = Callable[..., Paying]
NewShipping = Callable[..., Shipping]


def payment_gateway(sandbox: SandboxProcess, url: str) -> Gateway[Calls]:
    """To all adapters, over what is at this URL."""
    settings = settings_for(
        ProviderSettings,
        sandbox,
        provider_url=f"{url}/provider",
        stripe_key="sk_test_conformance",
        stripe_api=url,
    )
    return gateways_from(settings)


@pytest.fixture(params=PAYMENT_ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def between(sandbox: SandboxProcess) -> AsyncIterator[Faulty]:
    async with faulty(sandbox.url) as proxy:
        yield proxy


@pytest.fixture
async def new(sandbox: SandboxProcess, between: Faulty, adapter: str) -> AsyncIterator[New]:
    """Another order's payment, by its token."""
    gateway = payment_gateway(sandbox, between.url)
    await gateway.open()
    yield partial(Paying, gateway, adapter)
    await gateway.close()


def carrier_gateway(sandbox: SandboxProcess, url: str) -> Gateway[CarrierCalls]:
    """To all adapters, over what is at this URL; the directory is the sandbox's own."""
    settings = settings_for(
        FulfillmentSettings,
        sandbox,
        carrier_url=f"{url}/carrier",
        easypost_key="EZTK_conformance",
        easypost_api=url,
        easypost_from="adr_shop",
        easypost_late_seconds=0,
    )
    return carriers_from(settings)


@pytest.fixture(params=CARRIER_ADAPTERS)
def carrier(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def ship(sandbox: SandboxProcess, between: Faulty, carrier: str) -> AsyncIterator[NewShipping]:
    """Another order's shipment, by its customer."""
    gateway = carrier_gateway(sandbox, between.url)
    await gateway.open()
    yield lambda customer="cust_1": Shipping(gateway, carrier, customer)
    await gateway.close()
