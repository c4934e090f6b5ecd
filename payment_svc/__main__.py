"""`python -m payment_svc`: the service, wired and run as a process."""

from pydantic import Field

from events.facts.base import MAX_AMOUNT_MINOR
from events.runtime.host import Parts
from events.runtime.process import run_service
from events.runtime.settings import read_settings
from payment_svc import api
from payment_svc.gateway import ProviderSettings, gateway_from
from payment_svc.repository import PAYMENTS
from payment_svc.service import DEFAULT_APPROVAL_LIMIT_MINOR, payment_service


class PaymentSettings(ProviderSettings):
    """What payment_svc reads besides: above which amount a person has to approve."""

    approval_limit_minor: int = Field(default=DEFAULT_APPROVAL_LIMIT_MINOR, ge=0, le=MAX_AMOUNT_MINOR)


def main() -> None:
    """Run until stopped."""
    settings = read_settings(PaymentSettings)
    service = payment_service(settings.approval_limit_minor)
    run_service(Parts(service, PAYMENTS, gateway_from(settings)), settings, [api.router])


if __name__ == "__main__":
    main()
