"""Drives `docker compose` with this project's files.

Runs on a bare Python, so it imports nothing but the standard library.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile

from compose.containers.engine import (
    ANSWER_TIMEOUT_SECONDS,
    STOP_TIMEOUT_SECONDS,
    TAIL_LINES,
    Container,
    containers_of,
    demand_docker,
    docker,
    run,
)
from compose.containers.env import ENV_FILE, FILES, FOLDER, secrets_in, write_missing
from compose.local.commands import RigError

COMPOSE_FILE = FOLDER / "compose.yaml"
PROJECT = "murmuration"
BROKER_IMAGE = "rabbitmq:4-management"
# What an image of Debian's package has to be told; see compose.yaml.
DEBIANS_BROKER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
BROKER_COMMAND_VARIABLE = "RABBITMQ_COMMAND"
# Names the file of settings for all processes.
SETTINGS_VARIABLE = "SETTINGS_FILE"
SETTINGS_NAME = "settings.env"
# Names the file of secrets, all of which `provision` is told.
SECRETS_VARIABLE = "SECRETS_FILE"
UP_TIMEOUT_SECONDS = 900
DELETE_GRACE_SECONDS = 3


def settings_text(settings: Mapping[str, str]) -> str:
    """What a file of settings says."""
    return "".join(f"{name}='{value}'\n" for name, value in settings.items())


@dataclass(frozen=True, slots=True)
class Stack:
    """One project of `docker compose`. Methods raise RigError when the engine cannot or will not."""

    project: str = PROJECT
    env_file: Path = ENV_FILE
    variables: Mapping[str, str] = field(default_factory=dict)
    """On top of this process's environment, for instance other ports."""
    files: tuple[Path, ...] = (COMPOSE_FILE,)
    """The later ones change what the earlier ones say."""

    def up(self) -> None:
        """Builds the image, starts whatever does not run, and waits until all of it is healthy."""
        self.write_secrets()
        environment = self._environment()
        if BROKER_COMMAND_VARIABLE not in environment and _broker_is_debians():
            environment[BROKER_COMMAND_VARIABLE] = DEBIANS_BROKER
        try:
            self._show(["up", "--build", "--detach", "--wait"], UP_TIMEOUT_SECONDS, environment)
        except RigError as error:
            raise RigError(str(error), details=self._last_words()) from error

    @contextmanager
    def with_settings(self, settings: Mapping[str, str]) -> Iterator["Stack"]:
        """The same stack, with these settings for every process that a person has not set."""
        named = {**os.environ, **self.variables}.get(SETTINGS_VARIABLE) or SETTINGS_NAME
        own = FOLDER / named
        with NamedTemporaryFile("w", suffix=".env") as file:
            # Of a name that is there twice the last one counts.
            file.write(settings_text(settings) + (own.read_text() if own.is_file() else ""))
            file.flush()
            yield replace(self, variables={**self.variables, SETTINGS_VARIABLE: file.name})

    def stop(self) -> None:
        """Stops everything in order, within each one's grace period; the containers stay."""
        self._quietly("stop", timeout_seconds=STOP_TIMEOUT_SECONDS)

    def down(self, *, delete_data: bool = False) -> None:
        """Stops everything in order and removes the containers; the data stays unless told otherwise."""
        arguments = ["down", "--remove-orphans", *(["--volumes"] if delete_data else [])]
        self._show(arguments, STOP_TIMEOUT_SECONDS, self._environment(), start_new_session=True)

    def delete(self) -> None:
        """Removes everything, the data too, whether it ends in order or not; says nothing of it."""
        self.write_secrets()  # which the files demand, even of what is to be removed
        arguments = ("down", "--remove-orphans", "--volumes", f"--timeout={DELETE_GRACE_SECONDS}")
        self._quietly(*arguments, timeout_seconds=STOP_TIMEOUT_SECONDS)

    def containers(self) -> list[Container]:
        """Every container of the project, running or not."""
        return containers_of(self.project)

    def network(self, name: str) -> str:
        """What the engine calls a network of these files."""
        return f"{self.project}_{name}"

    def write_secrets(self) -> None:
        """Draws those that there are none of yet."""
        try:
            write_missing(self.env_file, self.secrets)
        except OSError as error:
            raise RigError(f"cannot write {self.env_file}: {error.strerror}") from error

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of all that its files demand, and those of the project, which share the file."""
        return secrets_in(dict.fromkeys((*FILES, *self.files)))

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
        demand_docker()
        try:
            answer = subprocess.run(  # noqa: S603
                self._command(arguments),
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

    def _quietly(self, *arguments: str, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS) -> str:
        demand_docker()
        what = f"docker compose {arguments[0]}"
        return run(self._command(arguments), what, self._environment(), timeout_seconds)

    def _command(self, arguments: Sequence[str]) -> list[str]:
        chosen = ["--project-name", self.project, "--env-file", str(self.env_file)]
        if arguments[0] in ("stop", "down"):
            # Whatever was started, with whichever profile.
            chosen += ["--profile", "*"]
        for file in self.files:
            chosen += ["--file", str(file)]
        return ["docker", "compose", *chosen, *arguments]

    def _environment(self) -> dict[str, str]:
        """Ours, but for secrets: the file's count, whatever this shell happens to know by such a name."""
        secrets = self.secrets
        ours = {name: value for name, value in os.environ.items() if name not in secrets}
        return ours | {SECRETS_VARIABLE: str(self.env_file)} | dict(self.variables)


def _broker_is_debians() -> bool:
    """Whether the image by the broker's name, if it is here, was made from Debian's package."""
    looked_for = ["run", "--rm", "--network=none", "--entrypoint=test", BROKER_IMAGE, "-x", DEBIANS_BROKER]
    try:
        docker("image", "inspect", "--format", "{{.Id}}", BROKER_IMAGE)
        docker(*looked_for)
    except RigError:
        return False
    return True
