"""A private RabbitMQ broker: whose scripts, its configuration, how it starts.

Its scripts are run directly. The wrapper that Debian puts on the PATH insists on the user `rabbitmq` and
on the machine's own data folder.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from compose.local.commands import RigError
from compose.local.ports import LOOPBACK
from compose.local.process_table import Launch
from compose.local.provision import ADMIN_USER, Definitions

DEBIAN_SCRIPTS = Path("/usr/lib/rabbitmq/bin")
DEBIAN_VERSIONS = Path("/usr/lib/rabbitmq/lib")
DEBIAN_PACKAGE = "rabbitmq-server"
# What makes a folder the scripts' own, rather than a wrapper's.
SCRIPTS = ("rabbitmq-server", "rabbitmqctl", "rabbitmq-env", "rabbitmq-defaults")
NODE = "rabbit@localhost"
CONTROL_TIMEOUT_SECONDS = 60
IMPORT_ATTEMPTS = 20
IMPORT_PAUSE_SECONDS = 0.5
IMPORT_TIMEOUT_SECONDS = 150
ANSWER_TIMEOUT_SECONDS = 2
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = 1
SCHEDULERS = 2
MEMORY_LIMIT = "1GB"
DISK_FREE_LIMIT = "100MB"
# The default of 512 MB is meant for servers: here it would only grow the folder and slow a restart.
WRITE_AHEAD_LOG_BYTES = 64 * 1024 * 1024
STATISTICS_INTERVAL_MS = 60_000
# Of a body. Processes go by the same variable.
MAX_MESSAGE_BYTES = 1_048_576
MAX_MESSAGE_BYTES_VARIABLE = "MURMURATION_MAX_MESSAGE_BYTES"


@dataclass(frozen=True, slots=True)
class RabbitPorts:
    """All on loopback: AMQP, and two that Erlang needs to talk to its own command line tools."""

    amqp: int
    name_service: int
    distribution: int


@dataclass(frozen=True, slots=True)
class PrivateRabbit:
    """A RabbitMQ broker of our own. Its data outlives it, in `home`."""

    home: Path
    ports: RabbitPorts
    log: Path
    max_message_bytes: str = str(MAX_MESSAGE_BYTES)

    def prepare(self, environment: Mapping[str, str], admin_password: str) -> Launch:
        """Writes the configuration and says how to start the broker; its name service must run.

        Raises RigError when RabbitMQ is not on this machine, or would not start with this bound of a message.
        """
        if not self.max_message_bytes.isdecimal():
            raise RigError(
                f"{MAX_MESSAGE_BYTES_VARIABLE} must be a number of bytes, not {self.max_message_bytes!r}"
            )
        scripts = find_scripts()
        self._write_files({"rabbitmq.conf": self._configuration(admin_password)})
        return Launch([str(scripts / "rabbitmq-server")], self._environment(environment), self.home, self.log)

    def learn(
        self, environment: Mapping[str, str], definitions: Definitions, passwords: Mapping[str, str]
    ) -> None:
        """Tells the running broker of users, exchanges, queues and bindings, unless it knows just these.

        Not by `load_definitions` at boot: that fails now and then when a stream it binds has yet to start.
        Raises RigError when the broker refuses.
        """
        learnt = self.home / "definitions.sha256"
        digest = _digest(definitions, passwords)
        if learnt.exists() and learnt.read_text() == digest:
            return
        self.import_definitions(environment, definitions)
        # It keeps the register of its streams in memory for a moment: killed then, it would lose them.
        self.control(environment, "eval", "[dets:sync(Table) || Table <- dets:all()].")
        self._write_files({learnt.name: digest})

    def import_definitions(self, environment: Mapping[str, str], definitions: Definitions) -> None:
        """Adds these to what the running broker has; what it knows already stays as it is.

        Now and then the broker refuses what it takes a moment later, or never answers: it is asked again.
        Raises RigError when it still does not take them.
        """
        self._write_files({"definitions.json": json.dumps(definitions)})
        given_up_at = time.monotonic() + IMPORT_TIMEOUT_SECONDS
        for attempt in range(1, IMPORT_ATTEMPTS + 1):
            try:
                self.control(environment, "import_definitions", str(self.home / "definitions.json"))
                break
            except RigError:
                if attempt == IMPORT_ATTEMPTS or time.monotonic() > given_up_at:
                    raise
                time.sleep(IMPORT_PAUSE_SECONDS)

    def prepare_name_service(self, environment: Mapping[str, str]) -> Launch:
        """Says how to start Erlang's name service, through which Erlang's programs find each other.

        Raises RigError when Erlang is not on this machine.
        """
        self._write_files(
            {
                "enabled_plugins": "[].\n",
                # Not every small machine resolves its own name.
                "hosts": '{host, {127,0,0,1}, ["localhost"]}.\n{lookup, [file, native]}.\n',
            }
        )
        command = [str(find_epmd()), "-port", str(self.ports.name_service), "-address", LOOPBACK]
        return Launch(command, self._environment(environment), self.home, self.log.with_name("epmd.log"))

    def is_answering(self) -> bool:
        """Whether the broker opens an AMQP conversation, which it does only once it has booted."""
        return speaks_amqp(LOOPBACK, self.ports.amqp)

    def name_service_is_answering(self) -> bool:
        """Whether Erlang's name service listens."""
        try:
            socket.create_connection((LOOPBACK, self.ports.name_service), ANSWER_TIMEOUT_SECONDS).close()
        except OSError:
            return False
        return True

    def control(self, environment: Mapping[str, str], *arguments: str) -> str:
        """Runs `rabbitmqctl` on this broker and returns what it prints.

        Raises RigError with its output when it fails, or when it does not end in time.
        """
        command = [str(find_scripts() / "rabbitmqctl"), "--quiet", *arguments]
        try:
            answer = subprocess.run(  # noqa: S603
                command,
                env=self._environment(environment),
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=CONTROL_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as late:
            raise RigError(
                f"rabbitmqctl {arguments[0]} is not done after {CONTROL_TIMEOUT_SECONDS} s"
            ) from late
        if answer.returncode != 0:
            raise RigError(
                f"rabbitmqctl {arguments[0]} failed", details=(answer.stderr or answer.stdout).strip()
            )
        return answer.stdout

    def url(self, user: str, password: str, vhost: str = "") -> str:
        """Where a client connects; the empty vhost stands for `/`."""
        return f"amqp://{user}:{password}@{LOOPBACK}:{self.ports.amqp}/{vhost}"

    def _environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Settings of a system-wide RabbitMQ, in files or in the environment, must not leak in."""
        environment = {name: value for name, value in base.items() if not _belongs_to_erlang(name)}
        loopback = LOOPBACK.replace(".", ",")
        return environment | {
            "HOME": str(self.home),  # Erlang keeps its cookie there.
            "TERM": "dumb",
            # The script then becomes the broker instead of staying its parent: its pid is the broker's.
            "detached": "true",
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_BASE": str(self.home),
            "RABBITMQ_MNESIA_BASE": str(self.home / "data"),
            "RABBITMQ_LOG_BASE": str(self.home),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self.home / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.home / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "enabled_plugins"),
            "RABBITMQ_DIST_PORT": str(self.ports.distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"+S {SCHEDULERS}:{SCHEDULERS} -kernel inet_dist_use_interface {{{loopback}}}"
            ),
            "RABBITMQ_CTL_ERL_ARGS": f"-kernel inet_dist_use_interface {{{loopback}}}",
            "ERL_EPMD_PORT": str(self.ports.name_service),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_INETRC": str(self.home / "hosts"),
            "ERL_CRASH_DUMP": str(self.home / "erl_crash.dump"),
        }

    def _write_files(self, files: Mapping[str, str]) -> None:
        for name, content in files.items():
            path = self.home / name
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(content)

    def _configuration(self, admin_password: str) -> str:
        return (
            f"listeners.tcp.local = {LOOPBACK}:{self.ports.amqp}\n"
            f"default_user = {ADMIN_USER}\ndefault_pass = {admin_password}\n"
            "log.console = true\nlog.console.level = info\nlog.file = false\n"
            f"vm_memory_high_watermark.absolute = {MEMORY_LIMIT}\n"
            f"disk_free_limit.absolute = {DISK_FREE_LIMIT}\n"
            f"max_message_size = {self.max_message_bytes}\n"
            f"collect_statistics_interval = {STATISTICS_INTERVAL_MS}\n"
            f"raft.wal_max_size_bytes = {WRITE_AHEAD_LOG_BYTES}\n"
        )


def speaks_amqp(host: str, port: int) -> bool:
    """Whether a broker opens a conversation there."""
    try:
        with socket.create_connection((host, port), ANSWER_TIMEOUT_SECONDS) as connection:
            connection.sendall(PROTOCOL_HEADER)
            return connection.recv(1) == bytes([METHOD_FRAME])
    except OSError:
        return False


def is_installed() -> bool:
    """Whether a RabbitMQ is on this machine."""
    return choose_scripts(_script_folders()) is not None


def find_scripts() -> Path:
    """The folder of RabbitMQ's own scripts.

    Raises RigError when RabbitMQ is not on this machine.
    """
    scripts = choose_scripts(_script_folders())
    if scripts is None or shutil.which("erl") is None:
        raise RigError(f"RabbitMQ is not installed: sudo apt-get install {DEBIAN_PACKAGE}")
    return scripts


def choose_scripts(folders: Iterable[Path]) -> Path | None:
    """The first folder that has all of RabbitMQ's own scripts."""
    for folder in folders:
        if all(os.access(folder / name, os.R_OK) for name in SCRIPTS):
            return folder
    return None


def version_key(folder: Path) -> tuple[int, ...]:
    """Orders `rabbitmq_server-4.0.5` after `rabbitmq_server-3.10.8`."""
    return tuple(int(part) for part in folder.name.rpartition("-")[2].split(".") if part.isdigit())


def find_epmd() -> Path:
    """Erlang's name service, on the PATH or beside Erlang itself.

    Raises RigError when there is none.
    """
    if (on_path := shutil.which("epmd")) is not None:
        return Path(on_path)
    if (erlang := shutil.which("erl")) is not None:
        for found in sorted(Path(erlang).resolve().parents[1].glob("erts-*/bin/epmd")):
            return found
    raise RigError(f"Erlang's epmd is not installed: sudo apt-get install {DEBIAN_PACKAGE}")


def _script_folders() -> list[Path]:
    folders = [DEBIAN_SCRIPTS]
    versions = sorted(DEBIAN_VERSIONS.glob("rabbitmq_server-*"), key=version_key, reverse=True)
    folders += [version / "sbin" for version in versions]
    if (on_path := shutil.which("rabbitmq-server")) is not None:
        folders.append(Path(on_path).resolve().parent)
    return folders


def _belongs_to_erlang(name: str) -> bool:
    return name.startswith(("RABBITMQ_", "ERL_")) or name in {
        "NOTIFY_SOCKET",
        "HOME",
        "SYS_PREFIX",
        "USE_LONGNAME",
    }


def _digest(definitions: Definitions, passwords: Mapping[str, str]) -> str:
    """Says whether two definitions mean the same: every hash of a password has its own salt."""
    users = [{**user, "password_hash": passwords[user["name"]]} for user in definitions["users"]]
    return hashlib.sha256(json.dumps({**definitions, "users": users}, sort_keys=True).encode()).hexdigest()
