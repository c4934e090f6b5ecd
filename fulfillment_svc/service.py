"""The service, wired: its decide, its tables, its carrier, its HTTP API."""

from events.runtime.host import Parts
from events.runtime.process import run_service
from events.runtime.settings import read_settings
from events.service import Service
from fulfillment_svc import api
from fulfillment_svc.decide import decide
from fulfillment_svc.gateway import FulfillmentSettings, gateway_from
from fulfillment_svc.store import SHIPMENTS

SERVICE = Service("fulfillment", decide)


def main() -> None:
    """Run until stopped."""
    settings = read_settings(FulfillmentSettings)
    run_service(Parts(SERVICE, SHIPMENTS, gateway_from(settings)), settings, [api.router])
