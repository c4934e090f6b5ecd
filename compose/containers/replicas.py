"""A cluster as a rig for the demo and the check: what they do to a process, they mean all its replicas."""

from compose.containers import engine
from compose.containers.engine import Container
from compose.containers.rig import ContainerRig


class ReplicaRig(ContainerRig):
    """The system in containers, several of each. Methods raise RigError for what a person can act on."""

    def pause(self, name: str) -> None:
        """Freezes every replica."""
        for container in self._replicas(name):
            engine.pause(container)

    def resume(self, name: str) -> None:
        """Lets go on every replica that is frozen."""
        for container in self._replicas(name):
            if container.status == "paused":
                engine.resume(container)

    def _replicas(self, name: str) -> list[Container]:
        return [container for container in self._parts() if container.service == name]
