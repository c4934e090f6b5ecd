"""Writes what is about to be deleted to files, a line of JSON each, safe on disk before it goes.

A file a day, kind and host. After a crash between the writing and the deleting, the same lines come a second
time; one that a crash cut off is followed by a line of its own. So a reader skips a line that is no JSON, and
takes the last of several of one id.
"""

import os
import socket
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

# Whoever may read the database may read these, and nobody else.
_MODE = 0o600


class Export:
    """One folder of files. Its methods block: call them in a thread. They raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._host = socket.gethostname()

    def write(self, kind: str, lines: Sequence[str], at: datetime) -> None:
        """Append these lines, and return once they will survive a crash of the machine."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{kind}-{at:%Y-%m-%d}.{self._host}.jsonl"
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _MODE)
        with open(descriptor, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            cut_off = size and os.pread(descriptor, 1, size - 1) != b"\n"
            content = ("\n" if cut_off else "") + "".join(f"{line}\n" for line in lines)
            left = memoryview(content.encode())
            while left:
                left = left[file.write(left) :]
            os.fsync(descriptor)
        if is_new:
            self._sync_folder()

    def _sync_folder(self) -> None:
        """Else the file's name might not survive."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
