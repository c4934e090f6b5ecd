"""`python -m fulfillment_svc`: the service, wired and run as a process."""

from events.runtime.host import Parts
from events.runtime.process import run_service
from events.runtime.settings import read_settings
from fulfillment_svc import api
from fulfillment_svc.gateway import FulfillmentSettings, gateway_from
from fulfillment_svc.repository import SHIPMENTS
from fulfillment_svc.service import SERVICE


def main() -> None:
    """Run until stopped."""
    settings = read_settings(FulfillmentSettings)
    run_service(Parts(SERVICE, SHIPMENTS, gateway_from(settings)), settings, [api.router])


if __name__ == "__main__":
    main()
