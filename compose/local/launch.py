"""Starting one background process: its own session, its own log, no terminal."""

import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compose.local.scheduling import schedule_for_throughput

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
