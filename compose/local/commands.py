"""What every command of the rig has in common: its errors, what it shows, and how a signal ends it.

Ctrl-C, SIGTERM and a closed terminal end a command in order, and never leave it half stopped.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class RigError(Exception):
    """An expected failure. The message is one clear line; `details` may hold log lines that explain it."""

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class Progress:
    """Called by the rig, possibly from several threads at once."""

    def starting(self, name: str) -> None:
        """A server or process is being started."""

    def ready(self, name: str) -> None:
        """It does its work now."""

    def stopping(self, name: str) -> None:
        """It was asked to stop."""

    def stopped(self, name: str) -> None:
        """It is gone."""

    def note(self, text: str) -> None:
        """Something worth a line of its own."""


ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], None]


class Terminated(SystemExit):
    """The command was asked to end. As a SystemExit it passes through asyncio and the command line alike,
    and ends the process with the exit code that a shell expects."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Inside, a signal that would end the process raises Terminated, so that everything is cleaned up.

    Only the first one does: an impatient second Ctrl-C must not break off the clean-up, which is bounded.
    """
    arrived: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)
        if len(arrived) == 1:
            raise Terminated(number)

    with _handling(end):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Inside, such a signal waits; it takes effect at the end. For clean-up, which must not stop half way."""
    arrived: list[int] = []
    with _handling(lambda number, _frame: arrived.append(number)):
        yield
    if arrived:
        signal.raise_signal(arrived[0])


@contextmanager
def _handling(handler: Handler) -> Iterator[None]:
    """Only the main thread may, and need, do this. What the caller chose to ignore stays ignored."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDINGS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
