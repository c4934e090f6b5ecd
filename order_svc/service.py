"""The service, wired: its decide, its tables, its HTTP API."""

from events.runtime.host import Parts
from events.runtime.process import run_service
from events.runtime.settings import ServiceSettings, read_settings
from events.service import Service
from order_svc import api
from order_svc.decide import decide
from order_svc.store import ORDERS

SERVICE = Service("order", decide)


def main() -> None:
    """Run until stopped."""
    run_service(Parts(SERVICE, ORDERS), read_settings(ServiceSettings), [api.router])
