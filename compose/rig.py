"""What the demo and the check want of a running system, whatever it runs on."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from compose.local.rig import ComponentStatus
from compose.whereabouts import Whereabouts


class Rig(Protocol):
    """The whole system, on local processes or in containers. Methods raise RigError when they cannot."""

    @property
    def addresses(self) -> Whereabouts:
        """Where everything is, as of now."""

    def status(self) -> Sequence[ComponentStatus]:
        """How every server and process is; nothing where there is no system."""

    def running(self) -> AbstractContextManager[object]:
        """The system is up inside, and afterwards as it was before."""

    def pause(self, name: str) -> None:
        """Freezes it: it keeps its connections and answers nothing."""

    def resume(self, name: str) -> None:
        """Lets a frozen one go on."""
