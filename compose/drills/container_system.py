"""The system that drills on containers break: a project of `docker compose` of their own."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from compose.containers import private
from compose.containers.engine import engine_problem
from compose.containers.rig import NAMES, ContainerRig
from compose.containers.stack import COMPOSE_FILE
from compose.drills import FOLDER
from compose.drills.container_rig import ContainerDrillRig
from compose.drills.systems import SETTINGS
from compose.local.errors import RigError
from compose.local.progress import Progress

PROJECT = "murmuration-drills"
DIGEST_CHARACTERS = 8


class ContainerSystem:
    """A `System` of containers, with ports, volumes and an image of its own.

    Another one, from more files than compose.yaml, is a subclass that says what differs.
    """

    kind = "compose"
    """Of the state folder's subfolder and of the project's name."""
    rig_name = "containers"
    files: tuple[Path, ...] = (COMPOSE_FILE,)
    ports: tuple[str, ...] = private.PORTS
    """The variables of these files that say which port is published."""
    targets: tuple[str, ...] = NAMES
    """What can be broken; see `ContainerRig` for how replicas are called."""
    settings: Mapping[str, str] = SETTINGS

    def __init__(self, state_dir: Path, _progress: Progress, _environment: Mapping[str, str]) -> None:
        folder = state_dir.absolute() / f"{FOLDER}-{self.kind}"
        self._stack = private.private_stack(
            folder, project_of(folder), files=self.files, ports=self.ports, variables=self.variables()
        )
        self._rig = ContainerRig(self._stack)
        self.rig = ContainerDrillRig(self._rig, self.rig_name, self.targets)
        self.remains = f"docker compose --project-name {self._stack.project} logs"

    @property
    def left_something(self) -> bool:
        return self._stack.env_file.exists()

    def variables(self) -> Mapping[str, str]:
        """What its files are told besides, such as ranges of ports."""
        return {}

    def up(self) -> None:
        private.up(self._stack, self.settings)
        # Healthy by Docker's checks; but these are a while apart.
        self._rig.start_all()

    def stop(self) -> None:
        self._rig.stop_all()

    def delete(self) -> None:
        if (problem := engine_problem()) is not None:
            raise RigError(f"no containers can run here: {problem}")
        private.delete(self._stack)


def project_of(folder: Path) -> str:
    """The same name for the same folder, and another one for that of another checkout."""
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:DIGEST_CHARACTERS]
    return f"{PROJECT}-{folder.name.removeprefix(f'{FOLDER}-')}-{digest}"
