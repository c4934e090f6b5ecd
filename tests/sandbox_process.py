"""The sandbox as a process of its own, for tests."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from compose.local.components import what_readyz_lacks
from compose.local.ports import free_port
from compose.waiting import wait_until_ready

START_SECONDS = 60
STOP_SECONDS = 40
SLOW_SECONDS = 1.5
ADMIN_TOKEN = "test-admin"
DIRECTORY_TOKEN = "test-directory"


@dataclass
class SandboxProcess:
    """`python -m compose.sandbox` on its own ledger; it keeps its ports over a restart."""

    ledger: Path
    http_port: int
    smtp_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def smtp_url(self) -> str:
        return f"smtp://127.0.0.1:{self.smtp_port}"

    def start(self, **settings: str) -> "SandboxProcess":
        """Start and wait until it is ready. Keyword settings become MURMURATION_<NAME>."""
        environment = {
            "HTTP_PORT": str(self.http_port),
            "SMTP_PORT": str(self.smtp_port),
            "SANDBOX_LEDGER": str(self.ledger),
            "SANDBOX_SLOW_SECONDS": str(SLOW_SECONDS),
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "DIRECTORY_TOKEN": DIRECTORY_TOKEN,
            "LOG_LEVEL": "WARNING",
            **settings,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "compose.sandbox"],
            env={**os.environ, **{f"MURMURATION_{name}": value for name, value in environment.items()}},
        )
        if (problem := wait_until_ready(self._what_it_lacks, START_SECONDS)) is not None:
            self.stop()
            raise RuntimeError(f"the sandbox is not ready: {problem}")
        return self

    def _what_it_lacks(self) -> str | None:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the sandbox ended with {self.process.returncode}")
        return what_readyz_lacks(self.http_port)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop it and return its exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(STOP_SECONDS)


def new_sandbox(directory: Path) -> SandboxProcess:
    """A sandbox on free ports, not started yet."""
    http = free_port()
    return SandboxProcess(directory / "ledger.sqlite3", http, free_port(taken={http}))
