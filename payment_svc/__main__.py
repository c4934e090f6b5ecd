"""`python -m payment_svc`: the service, wired and run as a process."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from events.facts.base import AmountMinor
from events.facts.money import DECIMALS
from events.runtime.host import Parts
from events.runtime.process import run_service
from events.runtime.settings import FromJson, read_settings
from payment_svc import api
from payment_svc.decide import DEFAULT
from payment_svc.gateway import ProviderSettings, gateway_from
from payment_svc.service import DEFAULT_APPROVAL_LIMIT_MINOR, payment_service
from payment_svc.store import PAYMENTS


def _table(given: Any) -> Any:
    return {DEFAULT: given} if isinstance(given, int) else given


def _complete(table: dict[str, int]) -> dict[str, int]:
    if DEFAULT not in table:
        raise ValueError(f"needs an entry {DEFAULT!r}, for every currency that it does not name")
    if unknown := sorted(table.keys() - DECIMALS.keys() - {DEFAULT}):
        raise ValueError(f"ISO 4217 knows no currency {', '.join(unknown)} with a minor unit")
    return table


class PaymentSettings(ProviderSettings):
    """What payment_svc reads besides: above which amount a person has to approve."""

    # 1000000, or by currency: {"default": 1000000, "JPY": 1500000}.
    approval_limit_minor: Annotated[
        dict[str, AmountMinor], NoDecode, AfterValidator(_complete), BeforeValidator(_table), FromJson
    ] = Field(default_factory=lambda: {DEFAULT: DEFAULT_APPROVAL_LIMIT_MINOR})


def main() -> None:
    """Run until stopped."""
    settings = read_settings(PaymentSettings)
    service = payment_service(settings.approval_limit_minor)
    run_service(Parts(service, PAYMENTS, gateway_from(settings)), settings, [api.router])


if __name__ == "__main__":
    main()
