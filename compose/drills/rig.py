"""What a drill may do to a running system, whatever that runs on: local processes, containers.

A `DrillRig` is a `compose.rig.Rig` under load: while a call of that one blocks, orders go on coming in. A
`System` is made for drills: nobody else uses it, so it may be broken.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Generic, Literal, Protocol, TypeVar

from compose.rig import Rig, Whereabouts

POSTGRES: Final = "postgres"
RABBITMQ: Final = "rabbitmq"

Server = Literal["postgres", "rabbitmq"]
Verb = Literal[
    "kill",
    "stop",
    "pause",
    "cut_off",
    "delay",
    "isolate",
    "stop_all",
    "alarm",
    "make_read_only",
    "replace",
]
Release = Literal["before", "this"]
# By process, the variables in which it differs from the others while a drill is played.
Settings = Mapping[str, Mapping[str, str]]
REPLICAS = (1, 2)
ONE_NODE = "there is one broker node here"
ONE_RELEASE = "there is no image of the release before here"
RigT = TypeVar("RigT", bound=Rig)


@dataclass(frozen=True, slots=True)
class Deed:
    """One thing a drill does: a verb, to a process or server; to a connection, if it is `server`'s.

    Every verb includes its own undoing.
    """

    verb: Verb
    target: str
    server: Server | None = None

    def __str__(self) -> str:
        return f"{self.verb.replace('_', ' ')} {self.target}{f' from {self.server}' if self.server else ''}"


def needs_nodes(deed: Deed) -> bool:
    """Whether it takes a broker of several nodes, which are called `rabbitmq-2` and so on from the second."""
    return deed.verb == "isolate" or deed.target.startswith(f"{RABBITMQ}-")


class Machinery(Protocol):
    """Does to a server or process what `Rig` says, without blocking. Methods raise RigError."""

    async def start(self, name: str) -> None: ...

    async def stop(self, name: str) -> None: ...

    async def kill(self, name: str) -> None: ...

    async def pause(self, name: str) -> None: ...

    async def resume(self, name: str) -> None: ...

    async def running(self, name: str) -> bool: ...


class InThreads(Generic[RigT]):
    """The `Machinery` of a rig, and how its parts are."""

    def __init__(self, rig: RigT) -> None:
        self._rig = rig

    async def start(self, name: str) -> None:
        await asyncio.to_thread(self._rig.start, name)

    async def stop(self, name: str) -> None:
        await asyncio.to_thread(self._rig.stop, name)

    async def kill(self, name: str) -> None:
        await asyncio.to_thread(self._rig.kill, name)

    async def pause(self, name: str) -> None:
        await asyncio.to_thread(self._rig.pause, name)

    async def resume(self, name: str) -> None:
        await asyncio.to_thread(self._rig.resume, name)

    async def running(self, name: str) -> bool:
        return await asyncio.to_thread(self._rig.pid, name) is not None

    async def isolate(self, name: str) -> None:
        raise NotImplementedError(ONE_NODE)

    async def rejoin(self, name: str) -> None:
        raise NotImplementedError(ONE_NODE)

    async def replace(self, names: Sequence[str], replica: int, release: Release) -> None:
        raise NotImplementedError(ONE_RELEASE)

    async def conditions(self) -> Mapping[str, str]:
        """How every server and process is, by name: `ready`, or what is wrong."""
        found = await asyncio.to_thread(self._rig.status)
        return {
            component.name: f"{component.condition}{f' ({component.problem})' if component.problem else ''}"
            for component in found
        }


class DrillRig(Machinery, Protocol):
    """A running system that can be broken. Methods raise RigError when they fail."""

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> Whereabouts: ...

    def why_not(self, deed: Deed) -> str | None:
        """Why this rig cannot do such a thing; None when it can."""

    def why_not_set(self, settings: Settings) -> str | None:
        """Why this rig cannot have processes set like this; None when it can."""

    def ready_for(self, deeds: Iterable[Deed], settings: Settings) -> AbstractAsyncContextManager[None]:
        """Inside, the system runs such that these deeds can be done to it, and with these settings."""

    async def cut_off(self, name: str, server: Server) -> None:
        """Part a process from a server: nothing it has open leads there any more, nor anything it opens."""

    async def reconnect(self, name: str, server: Server) -> None:
        """Let it have connections again."""

    async def delay(self, name: str, server: Server, seconds: float) -> None:
        """Hold up everything between a process and a server, each way, from now on; 0 for no more."""

    async def isolate(self, name: str) -> None:
        """Part a node of the broker from the others, and from its clients. Nobody gets word of it."""

    async def rejoin(self, name: str) -> None:
        """Let it reach them again, and wait until it is in sync with the others."""

    async def broker_control(self, *arguments: str) -> str:
        """Have the broker's own command line tool, rabbitmqctl, do something; what it prints."""

    @property
    def database_admin_url(self) -> str:
        """PostgreSQL, for its administrator."""

    async def replace(self, names: Sequence[str], replica: int, release: Release) -> None:
        """Stop one replica of each process in an orderly way, and start it as one of that release."""

    async def stop_all(self) -> None:
        """Stop the whole system in an orderly way, servers too."""

    async def start_all(self) -> None:
        """Start whatever of the system does not run, and wait until all of it is ready."""

    async def conditions(self) -> Mapping[str, str]:
        """How every server and process is, by name: `ready`, or what is wrong."""


SETTINGS_PREFIX = "MURMURATION_"
# Every drill can be played with each provider.
PROVIDER_VARIABLE = "MURMURATION_PROVIDER"
# Everything that decides about an order has its default: the drills are about those. Only the comparison that
# judges them is surer sooner.
SETTINGS = {
    "MURMURATION_RECONCILIATION_SETTLE_SECONDS": "2",
    "MURMURATION_RECONCILIATION_RECHECK_SECONDS": "2",
    # Orders come from everywhere, and so does who looks at them: nobody else gets there.
    "MURMURATION_AUTH": "open",
    "MURMURATION_ORDERS": "internal",
}


class System(Protocol):
    """A system of the drills' own. Methods raise RigError."""

    @property
    def rig(self) -> DrillRig:
        """What breaks it. Making it touches nothing."""

    @property
    def remains(self) -> str:
        """Where a person finds its logs and data once it is stopped."""

    @property
    def left_something(self) -> bool:
        """Whether there is anything of it, running or not."""

    def up(self) -> None:
        """Start it from an empty state, and wait until all of it is ready."""

    def stop(self) -> None:
        """Leave nothing running; logs and data stay."""

    def delete(self) -> None:
        """Leave nothing at all, whatever state it is in."""


def drill_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a system to be broken gets: settings and servers of one's own are not meant for it.

    But for the payment provider, which has a door of its own in each system's sandbox.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(SETTINGS_PREFIX) or name == PROVIDER_VARIABLE
    }
    return kept | SETTINGS
