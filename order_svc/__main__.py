"""`python -m order_svc`: the service, wired and run as a process."""

from events.runtime.host import Parts
from events.runtime.process import run_service
from events.runtime.settings import ServiceSettings, read_settings
from order_svc import api
from order_svc.service import SERVICE
from order_svc.store import OLDEST, ORDERS


def main() -> None:
    """Run until stopped."""
    settings = read_settings(ServiceSettings)
    run_service(Parts(SERVICE, ORDERS, oldest=OLDEST), settings, [api.router])


if __name__ == "__main__":
    main()
