"""What a service's own status of an order says: which facts it has published, and whether it is done. Pure.

Each service says that of itself, in its `service.py`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from events.runtime.definition import installed_services
from events.service import Service, name_of
from saga_tracker.consistency.snapshot import NOT_THERE, ServiceState


def _ends_of(service: Service, statuses: tuple[str, ...]) -> tuple[str, ...]:
    """Who joined a system that ran already knows nothing of the orders before."""
    return statuses if service.since is None else (*statuses, NOT_THERE)


# In which statuses each service is done with an order that completed, and with one that was cancelled.
DONE = {service.name: _ends_of(service, service.statuses_done) for service in installed_services()}
UNDONE = {service.name: _ends_of(service, service.statuses_undone) for service in installed_services()}
# The statuses in which a service has published a fact, or has gone on from there.
STATUSES_AFTER: Mapping[str, tuple[str, ...]] = {
    name_of(kind): statuses
    for service in installed_services()
    for kind, statuses in service.statuses_after.items()
}
# A status that may have come about without the fact: whoever is cancelled need not have been withdrawn.
_NO_PROOF = {("order.withdrawn", "cancelled")}
_ORDERED = ("placed", "confirmed", "withdrawn", "cancelled")


class Proof(NamedTuple):
    """A fact that was published, as a state proves. `ending`: what a customer was told of."""

    fact: str
    ending: str | None = None


def proofs(states: Mapping[str, ServiceState]) -> list[Proof]:
    """The facts that these services have published, as far as their states of one order show it."""
    found = [
        Proof(fact, state.ending)
        for fact, statuses in STATUSES_AFTER.items()
        for service, state in states.items()
        if fact.startswith(f"{service}.")
        and state.status in statuses
        and (fact, state.status) not in _NO_PROOF
    ]
    if "order" in states and states["order"].status in _ORDERED:
        found.insert(0, Proof("order.created"))
    return found
