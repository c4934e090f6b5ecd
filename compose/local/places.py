"""Where a rig keeps its files, so that the user PostgreSQL runs as can reach its share of them."""

import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from compose.local.errors import RigError
from compose.local.process_table import RunAs

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


def prepare(places: Places) -> None:
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
