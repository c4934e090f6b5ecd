"""A service definition: all that the others must know of a service; and which services are installed."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import EntryPoint, distributions
from typing import Any, Self

from fastapi import APIRouter

from events.decision import Decision
from events.outbound.dispatcher import Gateway
from events.runtime.settings import ServiceSettings
from events.service import Service
from events.storage.repository import Repository

_URL = "_url"


@dataclass(frozen=True, kw_only=True)
class ServiceDefinition(Service):
    """Everything about one service, in its `service.py`; an entry point of `murmuration.services` names it.

    `settings`: what it reads from the environment. `gateway`: its way to the outside world, made from these.
    `decide_by`: its `decide`, where the settings have a say in it. `oldest`: where new orders are taken, a
    query for how far behind their handling is (see `http/intake.py`).
    """

    repository: Repository
    settings: type[ServiceSettings] = ServiceSettings
    gateway: Callable[[Any], Gateway[Any]] | None = None
    routers: tuple[APIRouter, ...] = ()
    decide_by: Callable[[Any], Callable[..., Decision[Any, Any, Any]]] | None = None
    oldest: bytes | None = None

    @property
    def parties(self) -> tuple[str, ...]:
        """Which parties outside it calls: those whose URL its settings ask for."""
        own = self.settings.model_fields.keys() - ServiceSettings.model_fields.keys()
        return tuple(sorted(name.removesuffix(_URL) for name in own if name.endswith(_URL)))

    def with_settings(self, settings: ServiceSettings) -> Self:
        """The same, with its `decide` as these settings will have it."""
        return self if self.decide_by is None else replace(self, decide=self.decide_by(settings))


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
