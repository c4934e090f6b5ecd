"""Installs packages of the system, politely. Needs nothing but Python, so that the bootstrap can use it.

On a terminal it asks first. As root without a terminal it goes ahead. In every other case it says in one
line what to install. A server that comes with a package is neither started nor enabled: the rig only
wants its programs.

    python3 system_packages.py PURPOSE PACKAGE [PACKAGE ...]     (exit code 1 when it could not)
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

POLICY_FILE = Path("/usr/sbin/policy-rc.d")
SYSTEMD_RUNNING = Path("/run/systemd/system")
# Debian's way for an administrator to say: do not start services now (101: action forbidden by policy).
POLICY = "#!/bin/sh\nexit 101\n"
LOCK_TIMEOUT_SECONDS = 300
TAIL_LINES = 12


class NotProvided(Exception):
    """The packages are not installed; the message is one line on what to do."""


def provide(packages: Sequence[str], purpose: str) -> None:
    """Installs the packages, if it may.

    Raises NotProvided.
    """
    wish = f"{purpose} is not installed"
    command = f"sudo apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise NotProvided(f"{wish}: install it with your system's package manager ({' '.join(packages)})")
    is_root = os.geteuid() == 0
    if sys.stdin.isatty() and sys.stderr.isatty():
        if not (is_root or shutil.which("sudo")):
            raise NotProvided(f"{wish}: as root, run: apt-get install {' '.join(packages)}")
        if not _agreed(f"{wish}. Install {' '.join(packages)} with apt-get now? [Y/n] "):
            raise NotProvided(f"{wish}: {command}")
    elif not is_root:
        raise NotProvided(f"{wish}: {command}")
    if is_root:
        install(packages)
    else:
        _install_through_sudo(packages)


def install(packages: Sequence[str]) -> None:
    """Installs the packages as root, starting no server.

    Raises NotProvided with apt-get's last lines when it fails.
    """
    units = _service_units()
    with _no_services_started():
        _apt_get("fetching the list of packages", "update")
        _apt_get(f"installing {' '.join(packages)}", "install", "--yes", "--no-install-recommends", *packages)
    if SYSTEMD_RUNNING.is_dir() and (added := sorted(_service_units() - units)):
        systemctl = [shutil.which("systemctl") or "systemctl", "disable", "--quiet", *added]
        subprocess.run(systemctl, check=False, stderr=subprocess.DEVNULL)  # noqa: S603


def _install_through_sudo(packages: Sequence[str]) -> None:
    sudo = shutil.which("sudo") or "sudo"
    command = [sudo, sys.executable, os.path.abspath(__file__), "--install", *packages]
    if subprocess.run(command, check=False).returncode != 0:  # noqa: S603
        raise NotProvided(
            f"could not install {' '.join(packages)}: sudo apt-get install {' '.join(packages)}"
        )


def _agreed(question: str) -> bool:
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"", "y", "yes"}


@contextmanager
def _no_services_started() -> Iterator[None]:
    """An administrator's own policy stays as it is."""
    ours = not POLICY_FILE.exists()
    if ours:
        POLICY_FILE.write_text(POLICY)
        POLICY_FILE.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            POLICY_FILE.unlink(missing_ok=True)


def _apt_get(doing: str, *arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    command = [
        shutil.which("apt-get") or "apt-get",
        "-qq",
        "-o",
        f"DPkg::Lock::Timeout={LOCK_TIMEOUT_SECONDS}",
        *arguments,
    ]
    _say(f"{doing} ...")
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        answer = subprocess.run(  # noqa: S603
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
        output.seek(0)
        text = output.read().decode(errors="replace")
    if answer.returncode != 0:
        tail = "\n".join(text.strip().splitlines()[-TAIL_LINES:])
        raise NotProvided(f"{doing} failed; apt-get says:\n{tail}")
    _say(f"{doing}: {time.monotonic() - started:.0f} s")


def _service_units() -> set[str]:
    """Names of the units that a package brought (those in /etc are an administrator's)."""
    folders = (Path("/lib/systemd/system"), Path("/usr/lib/systemd/system"))
    kinds = ("*.service", "*.socket")
    found = (unit for folder in folders for kind in kinds for unit in folder.glob(kind))
    return {unit.name for unit in found if "@" not in unit.name}


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    # Even when asked to end, take the policy file away again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if arguments[:1] == ["--install"]:
            install(arguments[1:])
        else:
            provide(arguments[1:], arguments[0])
    except NotProvided as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
