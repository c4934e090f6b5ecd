"""Named points at which a test or a drill can make a process die as if by kill -9."""

import os
import signal
from typing import Literal

CrashPoint = Literal[
    "before_commit", "after_commit", "after_publish", "after_forget", "before_ack", "after_call"
]

_armed = os.environ.get("MURMURATION_CRASH_AT")


def crash_point(name: CrashPoint) -> None:
    """Die here if MURMURATION_CRASH_AT names this point."""
    if _armed == name:
        os.kill(os.getpid(), signal.SIGKILL)
