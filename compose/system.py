"""What the system consists of: the services that are installed, and from these everything that runs."""

from compose.local.processes import SANDBOX, ProcessSpec
from events.installed import installed_services

SERVICES = installed_services()
SERVICE_NAMES = tuple(service.name for service in SERVICES)
TRACKER = "tracker"
PROCESSES = (
    *(ProcessSpec(service.name, service.package, gateways=service.parties) for service in SERVICES),
    ProcessSpec(TRACKER, "saga_tracker", gateways=("provider_ledger",), asks=SERVICE_NAMES),
    ProcessSpec(SANDBOX, "compose.sandbox", has_database=False),
)
