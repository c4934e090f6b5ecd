"""Drives `docker compose` with this project's files: a person's stack or cluster, or one of a test's own.

A private stack lies beside a person's: its secrets, ports, settings, volumes and image are nobody else's. A
cluster is compose.yaml with cluster.yaml over it: three broker nodes, replicas of every process.

Runs on a bare Python, so it imports nothing but the standard library.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile

from compose.containers.engine import (
    ANSWER_TIMEOUT_SECONDS,
    PROJECT_LABEL,
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
from compose.local.ports import free_port

COMPOSE_FILE = FOLDER / "compose.yaml"
PROJECT = "murmuration"
BROKER_IMAGE = "rabbitmq:4-management"
# What an image of Debian's package has to be given; see compose.yaml.
DEBIANS_BROKER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
BROKER_COMMAND_VARIABLE = "RABBITMQ_COMMAND"
# Names the file of settings for all processes.
SETTINGS_VARIABLE = "SETTINGS_FILE"
SETTINGS_NAME = "settings.env"
# Names the file of secrets, all of which `provision` gets.
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
        """Stops everything in order and removes the containers; the data stays unless asked otherwise."""
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


PRIVATE_PORTS = ports_in((COMPOSE_FILE,))


def private_stack(
    folder: Path,
    project: str,
    *,
    files: tuple[Path, ...] = (COMPOSE_FILE,),
    ports: Iterable[str] = PRIVATE_PORTS,
    variables: Mapping[str, str] | None = None,
) -> Stack:
    """A stack that will keep its secrets and settings in a folder of its own, on ports that are free now.

    `variables` are further settings of the files.
    """
    drawn: dict[str, str] = {}
    for name in ports:
        drawn[name] = str(free_port(taken={int(port) for port in drawn.values()}))
    chosen = {IMAGE_VARIABLE: project, SETTINGS_VARIABLE: str(folder / SETTINGS_NAME)}
    merged = {**dict.fromkeys(NOT_OURS, ""), **drawn, **(variables or {}), **chosen}
    return Stack(project, folder / ENV_NAME, merged, files)


def start_private(stack: Stack, settings: Mapping[str, str]) -> None:
    """Start such a stack, with these settings for every process. Raises RigError."""
    try:
        _folder_of(stack).joinpath(SETTINGS_NAME).write_text(settings_text(settings))
    except OSError as error:
        raise RigError(f"cannot write {stack.env_file.parent}: {error.strerror}") from error
    stack.up()


def delete_private(stack: Stack) -> None:
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


CLUSTER_FILES = (COMPOSE_FILE, FOLDER / "cluster.yaml")
CLUSTER_PROJECT = "murmuration-cluster"
NODES = ("rabbitmq", "rabbitmq-2", "rabbitmq-3")
_RANGES = re.compile(r"\$\{(\w+_PORTS):-")

# Of a cluster of one's own, for tests and drills: the variables that say which port is published.
CLUSTER_PORTS = (
    *("SANDBOX_PORT", "POSTGRES_PORT"),
    *("AMQP_PORT", "AMQP_PORT_2", "AMQP_PORT_3"),
    *("RABBITMQ_MANAGEMENT_PORT", "RABBITMQ_MANAGEMENT_PORT_2", "RABBITMQ_MANAGEMENT_PORT_3"),
)
PRIVATE_REPLICAS = 2


def cluster_stack() -> Stack:
    """A person's cluster, beside the stack of compose.yaml alone: with volumes of its own."""
    return Stack(CLUSTER_PROJECT, files=CLUSTER_FILES)


def private_cluster(folder: Path, project: str) -> Stack:
    """Another one, with secrets and settings in a folder of its own, on ports that are free."""
    return private_stack(
        folder, project, files=CLUSTER_FILES, ports=CLUSTER_PORTS, variables=private_variables()
    )


def private_variables() -> Mapping[str, str]:
    """What a cluster of one's own gets besides: each replica takes any port that is free."""
    anywhere = dict.fromkeys(_RANGES.findall(CLUSTER_FILES[-1].read_text()), "0")
    return {**anywhere, "REPLICAS": str(PRIVATE_REPLICAS)}
