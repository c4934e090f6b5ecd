"""Which processes run, who they are, and how to end them.

A pid alone names nobody: the kernel reuses it. A process is identified by its pid together with the
boot it belongs to and its start time within that boot, which no clock adjustment can change.
"""

import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_SECONDS = 0.02
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process, distinguishable from a later one that got the same pid."""

    pid: int
    started: str
    """Boot id and start time in clock ticks since that boot."""

    def is_running(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return _started(self.pid) == self.started


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a running process; None when there is none with this pid, or only a zombie."""
    started = _started(pid)
    return None if started is None else ProcessIdentity(pid, started)


def family(root: ProcessIdentity) -> list[ProcessIdentity]:
    """The process and all its descendants, parents before children; empty when it no longer runs."""
    if not root.is_running():
        return []
    children = children_by_parent()
    members, queue = [root], [root.pid]
    while queue:
        for pid in children.get(queue.pop(0), []):
            if (member := identify(pid)) is not None:
                members.append(member)
                queue.append(pid)
    return members


def children_by_parent() -> dict[int, list[int]]:
    """The pids of all processes, by that of their parent.

    psutil's own `children` leaves out a child that seems older than its parent, by the clock of the wall.
    """
    children: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        children.setdefault(process.info["ppid"], []).append(process.pid)
    return children


def marked(variable: str, value: str) -> list[ProcessIdentity]:
    """Every process whose environment was started with `variable=value`, as far as we may look."""
    found = []
    for process in psutil.process_iter():
        try:
            belongs = process.environ().get(variable) == value
        except (psutil.Error, OSError):
            continue
        if belongs and (identity := identify(process.pid)) is not None:
            found.append(identity)
    return found


def send(identities: Iterable[ProcessIdentity], number: signal.Signals) -> None:
    """Sends a signal to those that still run."""
    for identity in identities:
        if identity.is_running():
            try:
                os.kill(identity.pid, number)
            except ProcessLookupError:
                continue


def wait_gone(identities: Iterable[ProcessIdentity], timeout_seconds: float) -> list[ProcessIdentity]:
    """Waits until all are gone; returns those that are not when the time is up.

    Nobody is reaped: how a child ended is for its parent to learn, and it is gone once it is a zombie.
    """
    deadline = time.monotonic() + timeout_seconds
    remaining = [identity for identity in identities if identity.is_running()]
    while remaining and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        remaining = [identity for identity in remaining if identity.is_running()]
    return remaining


def _started(pid: int) -> str | None:
    while True:
        booted: float = psutil.boot_time()
        try:
            process = psutil.Process(pid)
            if process.status() in _ENDED:
                return None
            created: float = process.create_time()
        except psutil.Error:
            return None
        # Both are by the clock of the wall; what is between them is not, unless that was set just now.
        if psutil.boot_time() == booted:
            return f"{_boot_id()}:{round((created - booted) * _TICKS_A_SECOND)}"


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown-boot"
