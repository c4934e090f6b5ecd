"""Asks the Docker engine, and has it do things to containers, by its command line tool.

Runs on a bare Python, so it imports nothing but the standard library. What the engine refuses is a RigError.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compose.local.commands import RigError

PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
NUMBER_LABEL = "com.docker.compose.container-number"
ANSWER_TIMEOUT_SECONDS = 60
# Above the longest grace period of a container.
STOP_TIMEOUT_SECONDS = 180
TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Container:
    """One container as the engine sees it. `ports` is by the port inside."""

    id: str
    service: str
    number: int
    """Which replica of its service, from 1."""
    status: str
    health: str
    pid: int
    exit_code: int
    ports: Mapping[int, int]
    networks: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """`order` for the first replica of a service, `order-2` for the second."""
        return self.service if self.number == 1 else f"{self.service}-{self.number}"

    @property
    def runs(self) -> bool:
        """Whether it has a process, frozen or not."""
        return self.status in ("running", "paused")

    @property
    def is_ill(self) -> bool:
        """Whether it ended badly, again and again perhaps, or does not do its work."""
        return self.status == "restarting" or self.health == "unhealthy" or self.exit_code != 0


def engine_problem() -> str | None:
    """Why no containers can be run here; None when they can."""
    try:
        docker("info", "--format", "{{.ServerVersion}}")
        docker("compose", "version", "--short")
    except RigError as error:
        return str(error)
    return None


def containers_of(project: str) -> list[Container]:
    """Every container of a project of `docker compose`, running or not."""
    ids = docker("ps", "--all", "--quiet", "--no-trunc", f"--filter=label={PROJECT_LABEL}={project}").split()
    if not ids:
        return []
    found = map(_container, json.loads(docker("inspect", *ids)))
    return sorted(found, key=lambda container: (container.service, container.number))


def start(container: Container) -> None:
    """Start it again, as it was made."""
    docker("start", container.id)


def stop(container: Container) -> None:
    """Ask it to end; the engine kills it when it does not within its grace period."""
    docker("stop", container.id, timeout_seconds=STOP_TIMEOUT_SECONDS)


def kill(container: Container) -> None:
    """End it as kill -9 does. It stays dead: what the engine was asked to kill, it does not restart."""
    docker("kill", container.id)


def pause(container: Container) -> None:
    """Freeze all its processes (the kernel's freezer)."""
    docker("pause", container.id)


def resume(container: Container) -> None:
    """Let a frozen one go on."""
    docker("unpause", container.id)


def disconnect(container: Container, network: str) -> None:
    """Take it off a network. Nobody gets word of it: what it sends there from now on, or is sent, is lost."""
    docker("network", "disconnect", network, container.id)


def connect(container: Container, network: str) -> None:
    """Put it on a network, where it is known by the name of its service."""
    docker("network", "connect", "--alias", container.service, network, container.id)


def execute(container: Container, *command: str) -> str:
    """Run something inside, as its own user; what it prints."""
    return docker("exec", container.id, *command)


def last_words(container: Container) -> str:
    """What it logged last."""
    try:
        return docker("logs", "--tail", str(TAIL_LINES), container.id, with_errors=True).strip()
    except RigError:
        return ""


def demand_docker() -> None:
    """Raises RigError where there is no docker."""
    if shutil.which("docker") is None:
        raise RigError("docker is not installed")


def docker(
    *arguments: str, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS, with_errors: bool = False
) -> str:
    """What one call of it prints; with what it prints as errors, if so asked."""
    demand_docker()
    words = 2 if arguments[0] == "network" else 1
    what = f"docker {' '.join(arguments[:words])}"
    return run(["docker", *arguments], what, os.environ, timeout_seconds, with_errors=with_errors)


def run(
    command: Sequence[str],
    what: str,
    environment: Mapping[str, str],
    timeout_seconds: float = ANSWER_TIMEOUT_SECONDS,
    *,
    with_errors: bool = False,
) -> str:
    """What a command prints. In a session of its own: Ctrl-C is meant for us, and does not break it off."""
    try:
        answer = subprocess.run(  # noqa: S603
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if with_errors else subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_seconds,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise RigError(f"{what} is not done after {timeout_seconds:.0f} s") from error
    if answer.returncode != 0:
        output = (answer.stderr or answer.stdout or "").strip().splitlines()[-TAIL_LINES:]
        raise RigError(f"{what} failed{f': {output[-1]}' if output else ''}", details="\n".join(output[:-1]))
    return answer.stdout


def _container(found: Mapping[str, Any]) -> Container:
    state = found["State"]
    labels = found["Config"]["Labels"]
    return Container(
        id=found["Id"],
        service=labels[SERVICE_LABEL],
        number=int(labels.get(NUMBER_LABEL, 1)),
        status=state["Status"],
        health=(state.get("Health") or {}).get("Status", ""),
        pid=state["Pid"],
        exit_code=state["ExitCode"],
        ports=_ports(found),
        networks=frozenset((found.get("NetworkSettings") or {}).get("Networks") or {}),
    )


def _ports(found: Mapping[str, Any]) -> dict[int, int]:
    """Those it has; while it does not run, those that it will have again, if it may not choose."""
    wanted = found["HostConfig"].get("PortBindings") or {}
    held = (found.get("NetworkSettings") or {}).get("Ports") or {}
    ports = {}
    for inside in {**wanted, **held}:
        for binding in held.get(inside) or wanted.get(inside) or ():
            if binding["HostPort"].isdigit():
                ports[int(inside.partition("/")[0])] = int(binding["HostPort"])
                break
    return ports
