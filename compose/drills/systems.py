"""What drills run on: systems made for them, that nobody else uses and that may be broken."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from compose.drills import FOLDER
from compose.drills.local_rig import LocalDrillRig
from compose.drills.rig import DrillRig
from compose.local.progress import Progress
from compose.local.rig import LocalRig

PREFIX = "MURMURATION_"
# A tracker that loses its patience soon, so that being late for good is part of what is drilled; and services
# that try again soon, so that a drill is over soon.
SETTINGS = {
    "MURMURATION_STEP_DEADLINE_SECONDS": '{"order": 3, "inventory": 3, "payment": 4, "fulfillment": 4}',
    "MURMURATION_REDRIVE_GRACE_SECONDS": "1.5",
    "MURMURATION_OVERDUE_AFTER_SECONDS": "10",
    # So an undo is not given up before two minutes have passed, as without these settings.
    "MURMURATION_UNDO_BACKOFF_CAP_SECONDS": "5",
    "MURMURATION_UNDO_ATTEMPTS": "40",
    "MURMURATION_MESSAGE_BACKOFF_CAP_SECONDS": "5",
    "MURMURATION_SANDBOX_SLOW_SECONDS": "1",
    "MURMURATION_RECONCILIATION_SETTLE_SECONDS": "2",
    "MURMURATION_RECONCILIATION_RECHECK_SECONDS": "2",
}


class System(Protocol):
    """A system of the drills' own. Methods raise RigError."""

    @property
    def rig(self) -> DrillRig:
        """What breaks it. Making it touches nothing."""

    @property
    def remains(self) -> str:
        """Where a person finds its logs and data once it is stopped."""

    @property
    def left_something(self) -> bool:
        """Whether there is anything of it, running or not."""

    def up(self) -> None:
        """Start it from an empty state, and wait until all of it is ready."""

    def stop(self) -> None:
        """Leave nothing running; logs and data stay."""

    def delete(self) -> None:
        """Leave nothing at all, whatever state it is in."""


class LocalSystem:
    """A `System` of local processes, servers included."""

    def __init__(self, state_dir: Path, progress: Progress, environment: Mapping[str, str]) -> None:
        told = drill_environment(environment)
        self._rig = LocalRig(state_dir / FOLDER, progress=progress, environment=told)
        self.rig = LocalDrillRig(self._rig)
        self.remains = str(self._rig.state_dir)

    @property
    def left_something(self) -> bool:
        return self._rig.state_dir.exists()

    def up(self) -> None:
        self._rig.up()

    def stop(self) -> None:
        self._rig.down()

    def delete(self) -> None:
        self._rig.destroy()


def drill_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a system to be broken is told: settings and servers of one's own are not meant for it."""
    kept = {name: value for name, value in environment.items() if not name.startswith(PREFIX)}
    return kept | SETTINGS
