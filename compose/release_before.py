"""The release before this one, as it was: to see that the two run side by side.

Name the next one here when there is a release: its commit, and what its migrations end with.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from compose.local.commands import RigError
from compose.local.state import CHECKOUT

# By id, which nobody can move.
COMMIT = "cd5a45f468432f510336eaaa87ece27b520cdc2a"
# The last migration of each branch that it has. What came later has to leave it working.
MIGRATIONS: Mapping[str, str] = {
    "runtime": "runtime_0001",
    "order": "order_0002",
    "inventory": "inventory_0002",
    "payment": "payment_0003",
    "fulfillment": "fulfillment_0003",
    "notification": "notification_0003",
    "tracker": "tracker_0004",
}
HOW_TO_GET_IT = f"git fetch origin {COMMIT}"
ANSWER_SECONDS = 30.0


def why_not_here() -> str | None:
    """Why the release before cannot be had; None when it can."""
    try:
        _git("cat-file", "-e", f"{COMMIT}^{{commit}}")
    except RigError as error:
        return str(error)
    return None


def unpack(folder: Path) -> Path:
    """Make a folder and lay its files out there; answers where. Raises RigError where it cannot be had."""
    folder.mkdir(parents=True)
    # By an index of its own: that of the checkout, and what is staged in it, is somebody's work.
    index = folder / "index"
    _git("read-tree", COMMIT, index=index)
    _git("checkout-index", "--all", f"--prefix={folder}/files/", index=index)
    return folder / "files"


def environment_of(files: Path) -> dict[str, str]:
    """What a process gets so that its modules are those of that release, whatever folder it is in."""
    return {"PYTHONPATH": str(files), "PYTHONSAFEPATH": "1"}


def _git(*arguments: str, index: Path | None = None) -> None:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    environment = {**os.environ, **({"GIT_INDEX_FILE": str(index)} if index else {})}
    try:
        answer = subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, check=False, timeout=ANSWER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RigError(f"git cannot be asked: {error}") from error
    if answer.returncode != 0:
        output = answer.stderr.decode(errors="replace").strip().splitlines()
        raise RigError(
            f"commit {COMMIT[:7]} cannot be had here: {output[0] if output else 'git does not say why'}"
        )
