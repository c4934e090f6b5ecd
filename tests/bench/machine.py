"""What the measurements were made on."""

import os
import platform
import subprocess
from pathlib import Path

from compose.local.state import CHECKOUT


def describe_machine() -> str:
    """Cores, processor and Python in a line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores{f' ({model})' if model else ''}, Python {platform.python_version()}"


def describe_commit(folder: Path = CHECKOUT) -> str:
    """The commit of a checkout, with a plus where files differ from it; `unknown` outside of git."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return answer.stdout.strip() or "unknown"
