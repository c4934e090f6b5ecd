"""Which processes run, who they are, and how to end them.

A pid alone names nobody: the kernel reuses it. A process is identified by its pid together with the
boot it belongs to and its start time within that boot, which no clock adjustment can change.
"""

import ctypes
import os
import platform
import pwd
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Starting one background process: its own session, its own log, no terminal.


LOG_KEPT_BYTES = 16 * 1024 * 1024
LOG_TAIL_BYTES = 64 * 1024
LOG_LINE_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class RunAs:
    """Another user to run a process as; only root can."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Launch:
    """All it takes to start one process."""

    command: Sequence[str]
    environment: Mapping[str, str]
    working_folder: Path
    log: Path
    run_as: RunAs | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it in a session of its own, so that Ctrl-C in the terminal does not reach it.

        The log is opened by us and inherited, so the other user needs no access to its folder.
        """
        _rotate(self.log)
        with self.log.open("ab") as log:
            child = subprocess.Popen(  # noqa: S603
                self.command,
                env=dict(self.environment),
                cwd=self.working_folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=None if self.run_as is None else self.run_as.uid,
                group=None if self.run_as is None else self.run_as.gid,
                extra_groups=None if self.run_as is None else (),
            )
        schedule_for_throughput(child.pid)
        return child

    def run(self, timeout_seconds: float) -> int:
        """Runs it to its end and returns the exit code. Raises subprocess.TimeoutExpired."""
        child = self.start()
        try:
            return child.wait(timeout_seconds)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()


def unprivileged_user() -> RunAs | None:
    """Whom to run PostgreSQL as, which refuses to run as root; None when we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return RunAs(name, entry.pw_uid, entry.pw_gid)
    return RunAs("65534", 65534, 65534)


def log_tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(line[:LOG_LINE_CHARACTERS] for line in text.splitlines()[-lines:])


def _rotate(log: Path) -> None:
    """Keeps one older log, so that logs of many starts stay bounded."""
    try:
        too_long = log.stat().st_size > LOG_KEPT_BYTES
    except FileNotFoundError:
        return
    if too_long:
        log.replace(log.with_suffix(".log.1"))


# How the kernel shares few cores among many processes that pass each other small messages.


# A message wakes its receiver, who by default soon interrupts whoever runs. Left alone for this long, a
# process finds more to do each time it runs: larger batches, fewer switches. Measured on two cores: a fifth
# more orders a second than with the kernel's own slice of about 3 ms, and 10 ms more latency when idle.
SLICE_NANOSECONDS = 16_000_000

# sched_setattr(2), which the C library does not wrap everywhere.
_SYSTEM_CALL = {"x86_64": 314, "aarch64": 274}


class _Attributes(ctypes.Structure):
    """`struct sched_attr`; unless a process is real-time, `runtime` is its slice (from Linux 6.12 on)."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def schedule_for_throughput(pid: int) -> None:
    """Give a process long slices and SCHED_BATCH, and all it starts from now on; where the kernel can."""
    number = _SYSTEM_CALL.get(platform.machine())
    if number is None:
        return
    wanted = _Attributes(policy=os.SCHED_BATCH, runtime=SLICE_NANOSECONDS)
    wanted.size = ctypes.sizeof(wanted)
    # Best effort: it may be gone already, or the kernel may not let us.
    ctypes.CDLL(None).syscall(number, pid, ctypes.byref(wanted), 0)


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
