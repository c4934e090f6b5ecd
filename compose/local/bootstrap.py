"""Makes the virtual environment `.venv` of this checkout: `python3 -m compose.local.bootstrap`.

Runs on a bare Python, so it imports nothing but the standard library and `system_packages`.
"""

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from compose.local.system_packages import NotProvided, provide

CHECKOUT = Path(__file__).resolve().parents[2]
VENV = CHECKOUT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = CHECKOUT / "requirements.lock"
# `make` compares its age with the lock file's.
STAMP = VENV / ".ready"
OLDEST_PYTHON = (3, 11)
TICK_SECONDS = 0.2
TAIL_LINES = 15
PIP = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", "install")
EDITABLE = ("--no-deps", "--no-build-isolation", "--editable")


class NotBuilt(Exception):
    """The environment could not be made; the message says why."""


def build() -> None:
    """Makes the environment anew, with exactly what the lock file names.

    Raises NotBuilt or NotProvided.
    """
    if sys.version_info < OLDEST_PYTHON:
        wanted, found = (".".join(map(str, version[:2])) for version in (OLDEST_PYTHON, sys.version_info))
        raise NotBuilt(f"Python {wanted} or newer is needed, {sys.executable} is {found}")
    _provide_ensurepip()
    started = time.monotonic()
    STAMP.unlink(missing_ok=True)
    if not _is_usable():
        _run("making .venv", [sys.executable, "-m", "venv", "--clear", str(VENV)])
    packages = sum("==" in line for line in LOCK.read_text().splitlines())
    _run(f"installing {packages} packages into .venv", [*PIP, "--requirement", str(LOCK)])
    # The lock has the build tool too, so building fetches nothing.
    _run("installing this checkout", [*PIP, *EDITABLE, str(CHECKOUT)])
    install_services(sorted(path.parent for path in CHECKOUT.glob("*_svc/pyproject.toml")))
    STAMP.touch()
    _say(f".venv is ready after {time.monotonic() - started:.0f} s")


def install_services(folders: Sequence[Path]) -> None:
    """Installs services that are distributions of their own, so that they are found. Raises NotBuilt."""
    for folder in folders:
        _run(f"installing {folder.name}", [*PIP, *EDITABLE, str(folder)])


def _provide_ensurepip() -> None:
    """Debian ships Python without what `venv` needs to install pip."""
    if importlib.util.find_spec("ensurepip") is None:
        debians_own = Path(sys.executable).resolve() == Path("/usr/bin/python3").resolve()
        version = "3" if debians_own else f"{sys.version_info.major}.{sys.version_info.minor}"
        provide([f"python{version}-venv"], "Python's venv")
        importlib.invalidate_caches()


def _is_usable() -> bool:
    """Whether there is an environment already, of the Python that runs us."""
    probe = [str(PYTHON), "-c", "import sys, pip; print(*sys.version_info[:2])"]
    try:
        answer = subprocess.run(probe, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return False
    return answer.returncode == 0 and answer.stdout.split() == [str(part) for part in sys.version_info[:2]]


def _run(doing: str, command: Sequence[str]) -> None:
    """Runs it quietly; on a terminal a line shows that it goes on."""
    started, live = time.monotonic(), sys.stderr.isatty()
    if not live:
        _say(f"{doing} ...")
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while (exit_code := _wait(child)) is None:
                if live:
                    sys.stderr.write(f"\r\033[K{doing} ({time.monotonic() - started:.0f} s)")
                    sys.stderr.flush()
        finally:
            child.kill()
            child.wait()
            if live:
                sys.stderr.write("\r\033[K")
        output.seek(0)
        tail = "\n".join(output.read().decode(errors="replace").strip().splitlines()[-TAIL_LINES:])
    if exit_code != 0:
        raise NotBuilt(f"{doing} failed:\n{tail}")


def _wait(child: subprocess.Popen[bytes]) -> int | None:
    try:
        return child.wait(TICK_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> int:
    """Returns the exit code."""
    try:
        build()
    except (NotBuilt, NotProvided) as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
