"""The service, wired: its decide, its tables, its provider, its HTTP API."""

from functools import partial

from pydantic import Field

from events.facts.base import MAX_AMOUNT_MINOR
from events.runtime.host import Parts
from events.runtime.process import run_service
from events.runtime.settings import read_settings
from events.service import Service
from payment_svc import api
from payment_svc.decide import decide
from payment_svc.gateway import ProviderSettings, gateway_from
from payment_svc.store import PAYMENTS

SERVICE = Service("payment", decide)


class PaymentSettings(ProviderSettings):
    """What payment_svc reads besides: above which amount a person has to approve."""

    approval_limit_minor: int = Field(default=1_000_000, ge=0, le=MAX_AMOUNT_MINOR)


def main() -> None:
    """Run until stopped."""
    settings = read_settings(PaymentSettings)
    service = Service("payment", partial(decide, approval_limit_minor=settings.approval_limit_minor))
    run_service(Parts(service, PAYMENTS, gateway_from(settings)), settings, [api.router])
