"""`python -m inventory_svc`: the service, wired and run as a process."""

from events.runtime.host import Parts
from events.runtime.process import run_service
from events.runtime.settings import ServiceSettings, read_settings
from inventory_svc import api
from inventory_svc.repository import SHELVES
from inventory_svc.service import SERVICE


def main() -> None:
    """Run until stopped."""
    settings = read_settings(ServiceSettings)
    run_service(Parts(SERVICE, SHELVES), settings, [api.router])


if __name__ == "__main__":
    main()
