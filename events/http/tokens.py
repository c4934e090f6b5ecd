"""Named tokens: who may come in with one, and as what.

`python -m events.http.tokens FILE NAME ROLE` makes one. The file has a line for each: `name,role,when it was
made,hash`. A token is 256 random bits, so one round of SHA-256 keeps it: nobody finds it by trying. Deleting
its line ends it.
"""

import os
import re
import secrets
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Self

from events.telemetry.log import log
from events.telemetry.redaction import in_words

TOKEN_BYTES = 32
LOOK_SECONDS = 1.0
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")


class Role(StrEnum):
    """What somebody may do. Each of viewer, operator, approver and admin may also do what those before may.

    `client` places and cancels orders of its own. `machine` is who has the admin token: the system itself.
    """

    CLIENT = "client"
    MACHINE = "machine"
    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"

    def covers(self, wanted: "Role") -> bool:
        """Whether who has this role may do what takes that one."""
        return wanted in _COVERED[self]


_COVERED: dict[Role, frozenset[Role]] = {
    Role.CLIENT: frozenset({Role.CLIENT}),
    Role.MACHINE: frozenset({Role.MACHINE}),
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.OPERATOR: frozenset({Role.VIEWER, Role.CLIENT, Role.OPERATOR}),
    Role.APPROVER: frozenset({Role.VIEWER, Role.CLIENT, Role.OPERATOR, Role.APPROVER}),
    Role.ADMIN: frozenset(Role),
}
# Whose tokens have names.
NAMED_ROLES = tuple(role for role in Role if role is not Role.MACHINE)


class BadEntry(ValueError):
    """An entry that nobody can use. It is not shown: what is wrong in it may be a token."""


@dataclass(frozen=True, slots=True)
class NamedToken:
    """Whose a token is, and what it is for; of the token itself only the hash."""

    name: str
    role: Role
    made_at: str
    hash: str

    @classmethod
    def read(cls, line: str) -> Self:
        """Raises BadEntry."""
        name, role, made_at, hashed = (line.split(",") + [""] * 4)[:4]
        if line.count(",") != 3 or not _NAME.fullmatch(name) or not _HASH.fullmatch(hashed):
            raise BadEntry("an entry is `name,role,when it was made,hash`")
        if role not in NAMED_ROLES:
            raise BadEntry(f"the role of {name} is none of {', '.join(NAMED_ROLES)}")
        return cls(name, Role(role), made_at, hashed)

    def __str__(self) -> str:
        return f"{self.name},{self.role},{self.made_at},{self.hash}"


def hash_of(token: str) -> str:
    """What is kept of a token."""
    return sha256(token.encode()).hexdigest()


def named(name: str, role: str, token: str) -> NamedToken:
    """The entry of a token. Raises BadEntry for a name or a role that nobody can have."""
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    return NamedToken.read(f"{name},{role},{made_at},{hash_of(token)}")


def entries_in(text: str) -> list[NamedToken]:
    """The entries of such a file, or of a setting with spaces between them. Raises BadEntry."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return [NamedToken.read(entry) for line in lines for entry in line.split()]


def add(path: Path, entries: Iterable[NamedToken]) -> None:
    """Put entries into the file, in place of those of the same hash. Only its owner may read it.

    Raises OSError, and BadEntry where the file is none of tokens.
    """
    known = {entry.hash: entry for entry in (entries_in(path.read_text()) if path.exists() else ())}
    known |= {entry.hash: entry for entry in entries}
    path.parent.mkdir(parents=True, exist_ok=True)
    replacement = path.with_name(f"{path.name}.new")
    replacement.unlink(missing_ok=True)
    descriptor = os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.writelines(f"{entry}\n" for entry in known.values())
    replacement.replace(path)


def make(path: Path, name: str, role: str) -> str:
    """A new token of this name, entered in the file. It is shown this once. Raises OSError and BadEntry."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    add(path, [named(name, role, token)])
    return token


class Tokens:
    """The named tokens that are good now: those of a setting, and those of a file as it is at the moment."""

    def __init__(self, given: str, file: Path | None) -> None:
        self._given = _by_hash(entries_in(given))
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._of_file: Mapping[str, NamedToken] = {}
        self._looked_at = float("-inf")

    def find(self, token: str) -> NamedToken | None:
        """Whose token this is. By its hash, so how long that takes says nothing of other tokens."""
        self._look()
        hashed = hash_of(token)
        return self._given.get(hashed) or self._of_file.get(hashed)

    def __bool__(self) -> bool:
        self._look()
        return bool(self._given or self._of_file)

    def _look(self) -> None:
        """A file that is missing or cannot be used lets nobody in."""
        if self._file is None or monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = monotonic()
        try:
            found = self._file.stat()
            seen = (found.st_mtime_ns, found.st_ino)
            if seen == self._seen:
                return
            self._seen, self._of_file = seen, _by_hash(entries_in(self._file.read_text()))
        except (OSError, BadEntry) as error:
            if self._of_file or self._seen is None:
                log.warning("tokens_not_read", why=in_words(error))
            self._seen, self._of_file = (0, 0), {}


def _by_hash(entries: Iterable[NamedToken]) -> dict[str, NamedToken]:
    return {entry.hash: entry for entry in entries}


def main(arguments: list[str] | None = None) -> int:
    """Make a token, and print it. Answers the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 3:
        sys.stderr.write(f"usage: python -m {__spec__.name} FILE NAME {'|'.join(NAMED_ROLES)}\n")
        return 2
    path, name, role = given
    try:
        token = make(Path(path), name, role)
    except (OSError, BadEntry) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stderr.write(f"a token of {name}, {role}, kept as a hash in {path}; it is shown this once:\n")
    sys.stdout.write(f"{token}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
