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
# Everything that decides about an order has its default: the drills are about those. Only the comparison that
# judges them is surer sooner.
SETTINGS = {
    "MURMURATION_RECONCILIATION_SETTLE_SECONDS": "2",
    "MURMURATION_RECONCILIATION_RECHECK_SECONDS": "2",
    # Orders come from everywhere, and so does who looks at them: nobody else gets there.
    "MURMURATION_AUTH": "open",
    "MURMURATION_ORDERS": "internal",
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
        reported = drill_environment(environment)
        self._rig = LocalRig(state_dir / FOLDER, progress=progress, environment=reported)
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
