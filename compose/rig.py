"""A running system, whatever it runs on, and what can be done to each part of it. Every call blocks.

The demo and the check work on one; drills work on one under load: see compose/drills/rig.py.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from compose.local.supervisor import ComponentStatus


class Whereabouts(Protocol):
    """The addresses of a running system, and how to get in."""

    @property
    def database_passwords(self) -> Mapping[str, str]:
        """By role, which is also the name of the database."""

    @property
    def admin_token(self) -> str:
        """What the processes show each other, and what sets the sandbox's faults."""

    @property
    def token(self) -> str:
        """A token with a name, which may do everything: whoever acts has one."""

    def database_url(self, name: str) -> str:
        """A database, for the role of its name."""

    def broker_url(self, user: str) -> str:
        """The broker, for this user."""

    def http(self, name: str) -> str:
        """The base URL of a process."""


class Rig(Protocol):
    """The whole system, on local processes or in containers. Methods raise RigError when they cannot."""

    @property
    def addresses(self) -> Whereabouts:
        """Where everything is, as of now."""

    def status(self) -> Sequence[ComponentStatus]:
        """How every server and process is; nothing where there is no system."""

    def running(self) -> AbstractContextManager[object]:
        """The system is up inside, and afterwards as it was before."""

    def start(self, name: str) -> None:
        """Starts it, unless it runs, and waits until it is ready."""

    def stop(self, name: str) -> None:
        """Stops it in an orderly way."""

    def kill(self, name: str) -> None:
        """Ends it as kill -9 does."""

    def pause(self, name: str) -> None:
        """Freezes it: it keeps its connections and answers nothing."""

    def resume(self, name: str) -> None:
        """Lets a frozen one go on."""

    def pid(self, name: str) -> int | None:
        """Its process id; None when it does not run."""
