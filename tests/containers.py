"""The system in containers as tests use it: made for them, and gone afterwards."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from compose.containers import cluster, private
from compose.containers.engine import engine_problem
from compose.containers.rig import ContainerRig

BASE_IMAGES = ("postgres:17", "rabbitmq:4-management", "python:3.13-slim")


def docker(*arguments: str, check: bool = True) -> str:
    """What one call of it prints; of one that fails nothing, or the test fails."""
    answer = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0 or not check, answer.stderr
    return answer.stdout


@contextmanager
def containers(
    folder: Path, settings: Mapping[str, str] | None = None, *, clustered: bool = False
) -> Iterator[ContainerRig]:
    """The stack, or the cluster, up, with ports, secrets, volumes and an image of its own.

    Skips the test, and says why, where no engine runs or the images of the servers cannot be had.
    """
    if (problem := engine_problem()) is not None:
        pytest.skip(f"no containers can run here: {problem}")
    for image in BASE_IMAGES:
        if not (docker("images", "--quiet", image) or docker("pull", "--quiet", image, check=False)):
            pytest.skip(f"the image {image} is not here and cannot be pulled")
    folder, project = folder / "containers", f"murmuration-test-{uuid4().hex[:8]}"
    stack = cluster.private_cluster(folder, project) if clustered else private.private_stack(folder, project)
    try:
        private.up(stack, settings or {})
        yield ContainerRig(stack)
    finally:
        private.delete(stack)
