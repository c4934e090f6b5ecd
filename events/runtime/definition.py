"""A service definition: what the others must know of a service, and what its own process is made of."""

from collections.abc import Callable
from dataclasses import dataclass, replace
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
