"""Which processes run, who they are, and how to end them; read from Linux's /proc.

A pid alone names nobody: the kernel reuses it. A process is identified by its pid together with the
boot it belongs to and its start time within that boot, which no clock adjustment can change.
"""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
POLL_SECONDS = 0.02


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
    children: dict[int, list[int]] = {}
    for pid in _pids():
        if (fields := stat_fields(pid)) is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    members, queue = [root], [root.pid]
    while queue:
        for pid in children.get(queue.pop(0), []):
            if (member := identify(pid)) is not None:
                members.append(member)
                queue.append(pid)
    return members


def marked(variable: str, value: str) -> list[ProcessIdentity]:
    """Every process whose environment was started with `variable=value`, as far as we may look."""
    wanted = f"{variable}={value}".encode()
    found = []
    for pid in _pids():
        try:
            environment = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in environment and (identity := identify(pid)) is not None:
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
    """Waits until all are gone; returns those that are not when the time is up."""
    deadline = time.monotonic() + timeout_seconds
    remaining = [identity for identity in identities if identity.is_running()]
    while remaining and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        remaining = [identity for identity in remaining if identity.is_running()]
    return remaining


def _pids() -> Iterator[int]:
    for entry in os.listdir(PROC):
        if entry.isdigit():
            yield int(entry)


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the command name: state, parent, ...; None for no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The name stands in parentheses and may itself contain some.
    return text[text.rindex(")") + 2 :].split()


def _started(pid: int) -> str | None:
    fields = stat_fields(pid)
    if fields is None or fields[0] in {"Z", "X"}:
        return None
    return f"{_boot_id()}:{fields[19]}"


def _boot_id() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown-boot"
