"""Where a running system is, whatever it runs on."""

from collections.abc import Mapping
from typing import Protocol


class Whereabouts(Protocol):
    """The addresses of a running system, and how to get in."""

    @property
    def database_passwords(self) -> Mapping[str, str]:
        """By role, which is also the name of the database."""

    @property
    def admin_token(self) -> str:
        """What opens the endpoints that are closed to others."""

    def database_url(self, name: str) -> str:
        """A database, for the role of its name."""

    def broker_url(self, user: str) -> str:
        """The broker, for this user."""

    def http(self, name: str) -> str:
        """The base URL of a process."""
