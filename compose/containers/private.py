"""A stack beside a person's own: its secrets, ports, settings, volumes and image are nobody else's."""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from compose.containers.engine import PROJECT_LABEL, docker
from compose.containers.stack import COMPOSE_FILE, SETTINGS_NAME, SETTINGS_VARIABLE, Stack, settings_text
from compose.local.commands import RigError
from compose.local.ports import free_port

ENV_NAME = ".env"
IMAGE = "murmuration"
IMAGE_VARIABLE = "IMAGE_TAG"
# What a person may have set for a stack of their own.
NOT_OURS = ("COMPOSE_PROFILES", "MAIL_SINK_URL", "LOG_LEVEL")
# Of what only runs on demand.
OPTIONAL_PORTS = {"MAILPIT_PORT", "JAEGER_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT"}
_PUBLISHED = re.compile(r"127\.0\.0\.1:\$\{(\w+_PORT):-")


def ports_in(files: Iterable[Path]) -> tuple[str, ...]:
    """The variables that say where these compose files publish what always runs."""
    found = (name for file in files for name in _PUBLISHED.findall(file.read_text()))
    return tuple(name for name in dict.fromkeys(found) if name not in OPTIONAL_PORTS)


PORTS = ports_in((COMPOSE_FILE,))


def private_stack(
    folder: Path,
    project: str,
    *,
    files: tuple[Path, ...] = (COMPOSE_FILE,),
    ports: Iterable[str] = PORTS,
    variables: Mapping[str, str] | None = None,
) -> Stack:
    """A stack that will keep its secrets and settings in a folder of its own, on ports that are free now.

    `variables` are what else the files are to be told.
    """
    drawn: dict[str, str] = {}
    for name in ports:
        drawn[name] = str(free_port(taken={int(port) for port in drawn.values()}))
    chosen = {IMAGE_VARIABLE: project, SETTINGS_VARIABLE: str(folder / SETTINGS_NAME)}
    reported = {**dict.fromkeys(NOT_OURS, ""), **drawn, **(variables or {}), **chosen}
    return Stack(project, folder / ENV_NAME, reported, files)


def up(stack: Stack, settings: Mapping[str, str]) -> None:
    """Start such a stack, with these settings for every process. Raises RigError."""
    try:
        _folder_of(stack).joinpath(SETTINGS_NAME).write_text(settings_text(settings))
    except OSError as error:
        raise RigError(f"cannot write {stack.env_file.parent}: {error.strerror}") from error
    stack.up()


def delete(stack: Stack) -> None:
    """Everything of such a stack, its data, its image and its folder too. Raises RigError."""
    folder = _folder_of(stack)
    try:
        stack.delete()
    except RigError:
        # An older engine may count a container among those on a network that is long gone, and not let go of
        # the network before it restarts itself. It is empty, and the next run takes it over.
        of_it = f"--filter=label={PROJECT_LABEL}={stack.project}"
        if stack.containers() or docker("volume", "ls", "--quiet", of_it).strip():
            raise
    image = f"{IMAGE}:{stack.variables[IMAGE_VARIABLE]}"
    if docker("images", "--quiet", image).strip():
        docker("image", "rm", image)
    shutil.rmtree(folder, ignore_errors=True)


def _folder_of(stack: Stack) -> Path:
    folder = stack.env_file.parent
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise RigError(f"cannot make {folder}: {error.strerror}") from error
    return folder
