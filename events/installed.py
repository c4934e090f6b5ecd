"""Which services there are: the entry points `murmuration.services` of whatever packages are installed."""

import os
from functools import cache
from importlib.metadata import EntryPoint, distributions

from events.runtime.definition import ServiceDefinition

GROUP = "murmuration.services"
# The installed services of which a system consists, between commas; all, unless it is set.
CHOSEN_VARIABLE = "MURMURATION_SERVICES"


class WrongEntryPoint(Exception):
    """An installed package names a service that cannot be used; says which, and why."""


@cache
def installed_services() -> tuple[ServiceDefinition, ...]:
    """The services that are installed, in the order of their positions. Raises WrongEntryPoint."""
    found: dict[str, EntryPoint] = {}
    # Of every distribution on the path, also of one that is found twice: an older build may have left an
    # `.egg-info` in the checkout, which hides the one that is installed and may know nothing of services.
    for distribution in distributions():
        for point in distribution.entry_points.select(group=GROUP):
            found.setdefault(point.name, point)
    if not found:
        raise WrongEntryPoint(f"no package with entry points {GROUP!r} is installed: pip install -e .")
    chosen = [name.strip() for name in os.environ.get(CHOSEN_VARIABLE, "").split(",") if name.strip()]
    for name in chosen:
        if name not in found:
            known = ", ".join(sorted(found))
            raise WrongEntryPoint(f"{CHOSEN_VARIABLE}: no service {name!r} is installed, but {known}")
    services = [_loaded(point) for name, point in found.items() if not chosen or name in chosen]
    return tuple(sorted(services, key=lambda service: (service.position, service.name)))


def _loaded(point: EntryPoint) -> ServiceDefinition:
    try:
        service = point.load()
    except (ImportError, AttributeError) as error:
        raise WrongEntryPoint(
            f"the service {point.name!r} ({point.value}) cannot be loaded: {error}"
        ) from error
    if not isinstance(service, ServiceDefinition):
        raise WrongEntryPoint(f"the service {point.name!r}: {point.value} is no ServiceDefinition")
    if service.name != point.name:
        raise WrongEntryPoint(f"the service {service.name!r} is installed under another name, {point.name!r}")
    return service
