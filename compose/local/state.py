"""What a rig keeps: its folders, and in one private file its ports, passwords and processes."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from compose.local.commands import RigError
from compose.local.ports import free_port, is_free
from compose.local.process_table import ProcessIdentity, RunAs

# Where a rig keeps its files, so that the user PostgreSQL runs as can reach its share of them.

CHECKOUT = Path(__file__).resolve().parents[2]
DEFAULT_STATE_DIR = CHECKOUT / ".murmuration"
FALLBACK_BASE = Path("/var/tmp")  # noqa: S108  (survives a reboot, and we check whose folder it is)


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one rig.

    `postgres_home` lies in the state folder, except when PostgreSQL must run as another user who cannot
    get there (a checkout below /root): then it lies in a folder of our own below `FALLBACK_BASE`.
    """

    state_dir: Path
    postgres_home: Path
    run_as: RunAs | None

    @property
    def logs(self) -> Path:
        return self.state_dir / "logs"

    @property
    def rabbitmq_home(self) -> Path:
        return self.state_dir / "rabbitmq"


def places_of(state_dir: Path, run_as: RunAs | None) -> Places:
    """Where the folders of a rig are, or will be.

    Raises RigError when there is no place for the state folder.
    """
    state_dir = state_dir.absolute()
    if not state_dir.parent.is_dir():
        raise RigError(f"cannot make {state_dir}: {state_dir.parent} does not exist")
    home = state_dir
    if run_as is not None and not is_reachable(state_dir.parent, run_as):
        home = fallback_folder(state_dir)
    return Places(state_dir, home / "postgres", run_as)


def prepare_places(places: Places) -> None:
    """Makes the folders, each open to as few as possible.

    Raises RigError when a folder exists that is not ours.
    """
    shared_mode = 0o700 if places.run_as is None else 0o711
    _make_own_folder(places.state_dir, shared_mode)
    _make_own_folder(places.logs, 0o700)
    _make_own_folder(places.rabbitmq_home, 0o700)
    _make_own_folder(places.postgres_home.parent, shared_mode)
    places.postgres_home.mkdir(mode=0o700, exist_ok=True)
    if places.run_as is not None:
        os.chown(places.postgres_home, places.run_as.uid, places.run_as.gid)


def fallback_folder(state_dir: Path) -> Path:
    """The folder that replaces an unreachable state folder; the same one every time."""
    digest = hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:16]
    return FALLBACK_BASE / f"murmuration-{digest}"


def is_reachable(path: Path, run_as: RunAs) -> bool:
    """Whether that user may enter every folder on the way to `path`, and enter or read `path` itself."""
    resolved = path.resolve()
    return all(_may_pass(part.stat(), run_as) for part in (resolved, *resolved.parents))


def remove_places(state_dir: Path) -> None:
    """Deletes everything a rig kept. Its processes must be stopped."""
    fallback = fallback_folder(state_dir.absolute())
    for folder in (fallback, state_dir):
        if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)


def _may_pass(status: os.stat_result, run_as: RunAs) -> bool:
    needed = stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else stat.S_IROTH
    mode = status.st_mode
    if status.st_uid == run_as.uid:
        mode >>= 6
    elif status.st_gid == run_as.gid:
        mode >>= 3
    return bool(mode & needed)


def _make_own_folder(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(mode=mode, exist_ok=True)
    except FileExistsError as error:
        raise RigError(f"{folder} is not a folder") from error
    status = folder.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid():
        raise RigError(f"{folder} belongs to another user: run the command as that user, or remove it")
    folder.chmod(mode)


FORMAT_VERSION = 1
SECRET_BYTES = 32


@dataclass(slots=True)
class Restarts:
    """How often something was started again since the system came up, and how it ended last."""

    times: int = 0
    last_end: str = ""


@dataclass(slots=True)
class RigState:
    """The memory of one rig. `rig_id` also marks the environment of every process the rig starts."""

    rig_id: str = field(default_factory=lambda: secrets.token_hex(8))
    ports: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    processes: dict[str, ProcessIdentity] = field(default_factory=dict)
    given_servers: dict[str, str] = field(default_factory=dict)
    """URLs of servers that are not ours, by kind, as of the start of what runs now."""
    all_in_one: bool = False
    """Whether the services and the tracker run as one process, as of the start of what runs now."""
    extra_environments: dict[str, dict[str, str]] = field(default_factory=dict)
    """What a process was given at its start beyond what every one is, to be given again."""
    restarts: dict[str, Restarts] = field(default_factory=dict)
    supervisor: ProcessIdentity | None = None
    """Who starts again what ends by itself, if anybody does."""

    def any_running(self) -> bool:
        """Whether anything of this rig runs."""
        return any(identity.is_running() for identity in self.processes.values())

    def port(self, name: str) -> int:
        """The port known by this name; chosen the first time."""
        if name not in self.ports:
            self.ports[name] = free_port(taken=set(self.ports.values()))
        return self.ports[name]

    def move_taken_ports(self) -> None:
        """Gives up ports that other programs took while nothing of this rig ran."""
        for name, port in list(self.ports.items()):
            if not is_free(port):
                del self.ports[name]
                self.port(name)

    def secret(self, name: str) -> str:
        """The password or token known by this name; drawn at random the first time."""
        return self.secrets.setdefault(name, secrets.token_hex(SECRET_BYTES))

    def running(self, name: str) -> ProcessIdentity | None:
        """The process of this name if it still runs; a stale record counts as none."""
        identity = self.processes.get(name)
        return identity if identity is not None and identity.is_running() else None


class StateFile:
    """`rig.json` and the lock beside it. One thread of one process changes a rig at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "rig.json"
        self._thread_lock = threading.RLock()
        self._depth = 0
        self._lock_fd: int | None = None

    def load(self) -> RigState:
        """The remembered state; a new one when there is none yet.

        Raises RigError when the file cannot be understood.
        """
        try:
            content = json.loads(self.path.read_text())
        except FileNotFoundError:
            return RigState()
        except PermissionError as error:
            raise RigError(f"{self.path} belongs to another user: run the command as that user") from error
        except ValueError as error:
            raise RigError(f"{self.path} is damaged: run `make clean` to start afresh") from error
        if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
            raise RigError(f"{self.path} is of another version: run `make clean` to start afresh")
        return RigState(
            rig_id=content["rig_id"],
            ports=content["ports"],
            secrets=content["secrets"],
            processes={name: ProcessIdentity(**known) for name, known in content["processes"].items()},
            given_servers=content.get("given_servers", {}),
            all_in_one=content.get("all_in_one", False),
            extra_environments=content.get("extra_environments", {}),
            restarts={name: Restarts(**known) for name, known in content.get("restarts", {}).items()},
            supervisor=ProcessIdentity(**found) if (found := content.get("supervisor")) else None,
        )

    def save(self, state: RigState) -> None:
        """Replaces the file as a whole, so that a reader never sees half of it."""
        content = {"format_version": FORMAT_VERSION, **asdict(state)}
        replacement = self.path.with_suffix(".new")
        descriptor = os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
        replacement.replace(self.path)

    @contextmanager
    def locked(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[bool]:
        """Keeps other commands off this rig; yields whether this is the outermost use of the lock.

        `on_wait` is called once when another command holds the lock, before waiting for it.
        """
        with self._thread_lock:
            if self._depth == 0:
                self._lock_fd = _acquire(self.folder / "lock", on_wait)
            self._depth += 1
            try:
                yield self._depth == 1
            finally:
                self._depth -= 1
                if self._depth == 0 and self._lock_fd is not None:
                    os.close(self._lock_fd)
                    self._lock_fd = None


@contextmanager
def exclusive(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock file `path` alone; `on_wait` is called once if someone else holds it."""
    descriptor = _acquire(path, on_wait)
    try:
        yield
    finally:
        os.close(descriptor)


def _acquire(path: Path, on_wait: Callable[[], None]) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise RigError(f"{path} belongs to another user: run the command as that user") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
