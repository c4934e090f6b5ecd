"""Writes the secrets of the containers: `python3 -m compose.containers.env`, once, before the first start.

They are drawn at random into `compose/.env`, which only its owner can read and git ignores. What is in the
file already stays as it is, so running it again is harmless; delete the file *and* the volumes for new ones.
Runs on a bare Python, so it imports nothing but the standard library.
"""

import argparse
import os
import re
import secrets
import sys
from collections.abc import Iterable
from datetime import date
from hashlib import sha256
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]
ENV_FILE = FOLDER / ".env"
SECRET_BYTES = 32
# A named token of whoever uses the containers, and what the processes get of all tokens: their hashes.
TOKEN, TOKENS = "TOKEN", "TOKENS"

FILES = (FOLDER / "compose.yaml", FOLDER / "cluster.yaml")
# What a compose file demands without a default, `${NAME:?why}`, is a secret.
_DEMANDED = re.compile(r"\$\{(\w+):\?")


def secrets_in(files: Iterable[Path] = FILES) -> tuple[str, ...]:
    """The names of the secrets that these compose files demand, in their order."""
    return tuple(dict.fromkeys(name for file in files for name in _DEMANDED.findall(file.read_text())))


def database_variable(name: str) -> str:
    """Where the password of a database, and of the role of its name, is kept."""
    return f"DATABASE_PASSWORD_{name.upper()}"


def broker_variable(user: str) -> str:
    """Where the password of a user of the broker is kept."""
    return f"BROKER_PASSWORD_{user.upper()}"


def read_env(path: Path) -> dict[str, str]:
    """The variables of such a file; none when there is no file. Raises OSError when it cannot be read."""
    if not path.exists():
        return {}
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def write_missing(path: Path, secrets_wanted: Iterable[str] | None = None) -> list[str]:
    """Adds a random value for every secret that has none yet; returns the names of those.

    Raises OSError when the file cannot be written.
    """
    known = read_env(path)
    wanted = secrets_in() if secrets_wanted is None else secrets_wanted
    missing = [name for name in wanted if not known.get(name)]
    if missing:
        before = (
            path.read_text() if path.exists() else "# Secrets of the containers: keep them to yourself.\n"
        )
        before += "" if before.endswith("\n") or not before else "\n"
        added = "".join(_drawn(name) for name in missing)
        replacement = path.with_name(f"{path.name}.new")
        replacement.unlink(missing_ok=True)
        descriptor = os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(before + added)
        replacement.replace(path)
    return missing


def _drawn(name: str) -> str:
    value = secrets.token_hex(SECRET_BYTES)
    if name != TOKENS:
        return f"{name}={value}\n"
    # As events/http/tokens.py reads it.
    entry = f"local,admin,{date.today().isoformat()},{sha256(value.encode()).hexdigest()}"  # noqa: DTZ011
    return f"{TOKEN}={value}\n{TOKENS}={entry}\n"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m compose.containers.env", description=__doc__)
    parser.add_argument("--file", type=Path, default=ENV_FILE, help="where to write (default: compose/.env)")
    path: Path = parser.parse_args(arguments).file
    try:
        written = write_missing(path)
    except OSError as error:
        sys.stderr.write(f"error: cannot write {path}: {error.strerror}\n")
        return 1
    if written:
        sys.stderr.write(f"wrote {len(written)} random secrets to {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
