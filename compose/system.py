"""What the system consists of: the services that are installed, and from these everything that runs.

It imports every service, so import it late where a command should start fast.
"""

from collections.abc import Mapping

from compose.local.provision import SANDBOX, Blueprint, Definitions, ProcessSpec
from events.messaging import definitions, topology
from events.runtime.definition import installed_services
from events.storage.migrations import upgrade

SERVICES = installed_services()
SERVICE_NAMES = tuple(service.name for service in SERVICES)
TRACKER = "tracker"
PROCESSES = (
    *(ProcessSpec(service.name, service.package, gateways=service.parties) for service in SERVICES),
    ProcessSpec(TRACKER, "saga_tracker", gateways=("provider_ledger",), asks=SERVICE_NAMES),
    ProcessSpec(SANDBOX, "compose.sandbox", has_database=False),
)


def murmuration() -> Blueprint:
    """The five services, the tracker and the sandbox."""
    return Blueprint(
        processes=PROCESSES,
        broker_users=tuple(definitions.user_names(SERVICES)),
        definitions=_definitions,
        declare=_declare,
        upgrade=upgrade,
    )


def _definitions(passwords: Mapping[str, str]) -> Definitions:
    return definitions.definitions(SERVICES, passwords)


async def _declare(broker_url: str) -> None:
    await topology.declare(SERVICES, broker_url)
