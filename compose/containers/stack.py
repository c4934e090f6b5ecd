"""Drives `docker compose` with this project's file, and reads what runs from the engine.

Runs on a bare Python, so it imports nothing but the standard library.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compose.containers.env import ENV_FILE, FOLDER, SECRETS, write_missing
from compose.local.errors import RigError

COMPOSE_FILE = FOLDER / "compose.yaml"
PROJECT = "murmuration"
BROKER_IMAGE = "rabbitmq:4-management"
# What an image of Debian's package has to be told; see compose.yaml.
DEBIANS_BROKER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
BROKER_COMMAND_VARIABLE = "RABBITMQ_COMMAND"
ANSWER_TIMEOUT_SECONDS = 60
UP_TIMEOUT_SECONDS = 900
DOWN_TIMEOUT_SECONDS = 180
TAIL_LINES = 15
SERVICE_LABEL = "com.docker.compose.service"


@dataclass(frozen=True, slots=True)
class Container:
    """One container as the engine sees it. `ports` is by the port inside."""

    service: str
    status: str
    health: str
    problem: str
    pid: int
    exit_code: int
    image: str
    ports: Mapping[int, int]

    @property
    def runs(self) -> bool:
        """Whether it has a process, frozen or not."""
        return self.status in ("running", "paused")

    @property
    def is_ill(self) -> bool:
        """Whether it ended badly, again and again perhaps, or does not do its work."""
        return self.status == "restarting" or self.health == "unhealthy" or self.exit_code != 0


@dataclass(frozen=True, slots=True)
class Stack:
    """One project of `docker compose`. Methods raise RigError when the engine cannot or will not."""

    project: str = PROJECT
    env_file: Path = ENV_FILE
    variables: Mapping[str, str] = field(default_factory=dict)
    """On top of this process's environment, for instance other ports."""

    def up(self) -> None:
        """Builds the image, starts whatever does not run, and waits until all of it is healthy."""
        try:
            write_missing(self.env_file)
        except OSError as error:
            raise RigError(f"cannot write {self.env_file}: {error.strerror}") from error
        environment = self._environment()
        if BROKER_COMMAND_VARIABLE not in environment and _broker_is_debians():
            environment[BROKER_COMMAND_VARIABLE] = DEBIANS_BROKER
        try:
            self._show(["up", "--build", "--detach", "--wait"], UP_TIMEOUT_SECONDS, environment)
        except RigError as error:
            raise RigError(str(error), details=self._last_words()) from error

    def stop(self) -> None:
        """Stops everything in order, within each one's grace period; the containers stay."""
        self._show(["stop"], DOWN_TIMEOUT_SECONDS, self._environment())

    def down(self, *, delete_data: bool = False) -> None:
        """Stops everything in order and removes the containers; the data stays unless told otherwise."""
        arguments = ["down", "--remove-orphans", *(["--volumes"] if delete_data else [])]
        self._show(arguments, DOWN_TIMEOUT_SECONDS, self._environment(), start_new_session=True)

    def pause(self, service: str) -> None:
        """Freezes all processes of a container (the kernel's freezer)."""
        self._quietly("pause", service)

    def resume(self, service: str) -> None:
        """Lets a frozen container go on."""
        self._quietly("unpause", service)

    def containers(self) -> list[Container]:
        """Every container of the project, running or not."""
        chosen = [f"--filter=label=com.docker.compose.project={self.project}"]
        ids = _docker("ps", "--all", "--quiet", "--no-trunc", *chosen).split()
        if not ids:
            return []
        return sorted(map(_container, json.loads(_docker("inspect", *ids))), key=lambda found: found.service)

    def _last_words(self) -> str:
        """What those containers logged last that ended badly or are not well."""
        ill = [found for found in self.containers() if found.is_ill]
        logs = ["logs", "--no-color", "--tail", str(TAIL_LINES), *(found.service for found in ill)]
        return self._quietly(*logs).strip() if ill else ""

    def _show(
        self,
        arguments: Sequence[str],
        timeout_seconds: float,
        environment: Mapping[str, str],
        *,
        start_new_session: bool = False,
    ) -> None:
        """What it prints goes where ours goes. In a session of its own, Ctrl-C does not break it off."""
        _demand_docker()
        command = self._command(arguments)
        try:
            answer = subprocess.run(  # noqa: S603
                command,
                env=environment,
                check=False,
                timeout=timeout_seconds,
                start_new_session=start_new_session,
            )
        except subprocess.TimeoutExpired as error:
            problem = f"docker compose {arguments[0]} is not done after {timeout_seconds:.0f} s"
            raise RigError(problem) from error
        if answer.returncode != 0:
            raise RigError(f"docker compose {arguments[0]} failed")

    def _quietly(self, *arguments: str) -> str:
        _demand_docker()
        return _run(self._command(arguments), f"docker compose {arguments[0]}", self._environment())

    def _command(self, arguments: Sequence[str]) -> list[str]:
        chosen = ["--project-name", self.project, "--env-file", str(self.env_file)]
        chosen += ["--file", str(COMPOSE_FILE)]
        return ["docker", "compose", *chosen, *arguments]

    def _environment(self) -> dict[str, str]:
        """Ours, but for secrets: the file's count, whatever this shell happens to know by such a name."""
        ours = {name: value for name, value in os.environ.items() if name not in SECRETS}
        return ours | dict(self.variables)


def engine_problem() -> str | None:
    """Why no containers can be run here; None when they can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    try:
        _docker("info", "--format", "{{.ServerVersion}}")
        _docker("compose", "version", "--short")
    except RigError as error:
        return f"{error}: {error.details}" if error.details else str(error)
    return None


def _broker_is_debians() -> bool:
    """Whether the image by the broker's name, if it is here, was made from Debian's package."""
    looked_for = ["run", "--rm", "--network=none", "--entrypoint=test", BROKER_IMAGE, "-x", DEBIANS_BROKER]
    try:
        _docker("image", "inspect", "--format", "{{.Id}}", BROKER_IMAGE)
        _docker(*looked_for)
    except RigError:
        return False
    return True


def _demand_docker() -> None:
    if shutil.which("docker") is None:
        raise RigError("docker is not installed: containers need Docker with its plug-in `compose`")


def _docker(*arguments: str) -> str:
    _demand_docker()
    return _run(["docker", *arguments], f"docker {arguments[0]}", dict(os.environ))


def _run(command: Sequence[str], what: str, environment: Mapping[str, str]) -> str:
    try:
        answer = subprocess.run(  # noqa: S603
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise RigError(f"{what} does not answer") from error
    if answer.returncode != 0:
        details = "\n".join(answer.stderr.strip().splitlines()[-TAIL_LINES:])
        raise RigError(f"{what} failed", details=details)
    return answer.stdout


def _container(found: Mapping[str, Any]) -> Container:
    state = found["State"]
    health = state.get("Health") or {}
    checks = health.get("Log") or []
    bindings = found["HostConfig"].get("PortBindings") or {}
    return Container(
        service=found["Config"]["Labels"][SERVICE_LABEL],
        status=state["Status"],
        health=health.get("Status", ""),
        problem=checks[-1]["Output"].strip() if checks else "",
        pid=state["Pid"],
        exit_code=state["ExitCode"],
        image=found["Image"],
        ports={
            int(inside.partition("/")[0]): int(outside[0]["HostPort"])
            for inside, outside in bindings.items()
            if outside
        },
    )
