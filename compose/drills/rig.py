"""What a drill may do to a running system, whatever it runs on: local processes, containers."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from compose.whereabouts import Whereabouts

SERVICES = ("order", "inventory", "payment", "fulfillment", "notification")
TRACKER = "tracker"
SANDBOX = "sandbox"
POSTGRES: Final = "postgres"
RABBITMQ: Final = "rabbitmq"

Server = Literal["postgres", "rabbitmq"]
Verb = Literal["kill", "stop", "pause", "cut_off", "delay", "stop_all"]


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


class Machinery(Protocol):
    """What starts, halts and ends processes and servers. Methods raise RigError when they cannot."""

    async def start(self, name: str) -> None:
        """Start it and wait until it is ready."""

    async def stop(self, name: str) -> None:
        """Stop it in an orderly way."""

    async def kill(self, name: str) -> None:
        """End it as kill -9 does."""

    async def pause(self, name: str) -> None:
        """Freeze it: it keeps its connections and answers nothing."""

    async def resume(self, name: str) -> None:
        """Let a frozen one go on."""

    async def running(self, name: str) -> bool:
        """Whether it lives."""


class DrillRig(Machinery, Protocol):
    """A running system that can be broken. Methods raise RigError when they fail."""

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> Whereabouts: ...

    def why_not(self, deed: Deed) -> str | None:
        """Why this rig cannot do such a thing; None when it can."""

    def ready_for(self, deeds: Iterable[Deed]) -> AbstractAsyncContextManager[None]:
        """Inside, the system runs such that these deeds can be done to it."""

    async def cut_off(self, name: str, server: Server) -> None:
        """End a process's connections to a server, and let it have none."""

    async def reconnect(self, name: str, server: Server) -> None:
        """Let it have connections again."""

    async def delay(self, name: str, server: Server, seconds: float) -> None:
        """Hold up everything between a process and a server, each way, from now on; 0 for no more."""

    async def stop_all(self) -> None:
        """Stop the whole system in an orderly way, servers too."""

    async def start_all(self) -> None:
        """Start whatever of the system does not run, and wait until all of it is ready."""

    async def conditions(self) -> Mapping[str, str]:
        """How every server and process is, by name: `ready`, or what is wrong."""
