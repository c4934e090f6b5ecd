"""The service, wired: its decide, its tables, its HTTP API."""

from events.runtime.host import Parts
from events.runtime.process import run_service
from events.runtime.settings import ServiceSettings, read_settings
from events.service import Service
from inventory_svc import api
from inventory_svc.decide import decide
from inventory_svc.store import SHELVES

SERVICE = Service("inventory", decide)


def main() -> None:
    """Run until stopped."""
    run_service(Parts(SERVICE, SHELVES), read_settings(ServiceSettings), [api.router])
