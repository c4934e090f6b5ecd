"""What a rig of this repository runs. Imports every service's `decide`, so import it late."""

from collections.abc import Mapping

from compose.local.processes import Blueprint
from compose.local.rabbitmq import Definitions
from compose.system import PROCESSES, SERVICES
from events.messaging import definitions, topology
from events.storage.migrations import upgrade


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
