"""The system in containers as tests use it: made for them, and gone afterwards."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from compose.containers.rig import ContainerRig
from compose.containers.stack import delete_private, private_cluster, private_stack, start_private
from tests.tools import COMPOSE, ENGINE, IMAGES, require


def docker(*arguments: str) -> str:
    """What one call of it prints. Fails when that does."""
    answer = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@contextmanager
def containers(
    folder: Path, settings: Mapping[str, str] | None = None, *, clustered: bool = False
) -> Iterator[ContainerRig]:
    """The stack, or the cluster, up, with ports, secrets, volumes and an image of its own.

    Skips the test, and says why, where no engine runs or the images of the servers cannot be had.
    """
    require(ENGINE, COMPOSE, IMAGES)
    folder, project = folder / "containers", f"murmuration-test-{uuid4().hex[:8]}"
    stack = private_cluster(folder, project) if clustered else private_stack(folder, project)
    try:
        start_private(stack, settings or {})
        yield ContainerRig(stack)
    finally:
        delete_private(stack)
