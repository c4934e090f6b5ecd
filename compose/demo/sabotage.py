"""What the demo breaks on purpose, and mends whatever happens to the demo itself."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import LiteralString

import psycopg

from compose.local.errors import RigError
from compose.local.interruptions import uninterrupted
from compose.rig import Rig

TIMEOUT_SECONDS = 10
MAY_BE_FROZEN = ("inventory", "payment")
CONSTRAINED = "fulfillment"
WRONG_CONSTRAINT = "three_lines_a_dispatch"

_CONSTRAIN: LiteralString = (
    f"ALTER TABLE shipments ADD CONSTRAINT {WRONG_CONSTRAINT} "
    "CHECK (status <> 'dispatching' OR jsonb_array_length(lines) <= 3) NOT VALID"
)
_UNCONSTRAIN: LiteralString = f"ALTER TABLE shipments DROP CONSTRAINT IF EXISTS {WRONG_CONSTRAINT}"


class Sabotage:
    """Breaks a running system, as a machine or a colleague might. Methods raise RigError when they cannot."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    async def freeze(self, service: str) -> None:
        """Stop a service in its tracks (SIGSTOP): it keeps its connections and answers nothing."""
        assert service in MAY_BE_FROZEN, f"nobody would thaw {service}"
        await asyncio.to_thread(self._rig.pause, service)

    async def thaw(self, service: str) -> None:
        """Let a frozen service go on."""
        await asyncio.to_thread(self._rig.resume, service)

    async def constrain_dispatches(self) -> None:
        """Add the mistake of a migration: fulfilment's database refuses to dispatch more than three lines."""
        await asyncio.to_thread(self._execute, _UNCONSTRAIN, _CONSTRAIN)

    async def deploy_the_fix(self) -> None:
        """Take that constraint away."""
        await asyncio.to_thread(self._execute, _UNCONSTRAIN)

    def mend(self) -> None:
        """Put everything back, broken or not."""
        for service in MAY_BE_FROZEN:
            with suppress(RigError):  # it does not run, so it is not frozen
                self._rig.resume(service)
        self._execute(_UNCONSTRAIN)

    def _execute(self, *statements: LiteralString) -> None:
        url = self._rig.addresses.database_url(CONSTRAINED)
        patience = f"-c lock_timeout={TIMEOUT_SECONDS}s"
        try:
            with psycopg.connect(url, connect_timeout=TIMEOUT_SECONDS, options=patience) as connection:
                for statement in statements:
                    connection.execute(statement)
        except psycopg.Error as error:
            raise RigError(f"cannot change the database of {CONSTRAINED}: {str(error).strip()}") from error


@contextmanager
def sabotage_of(rig: Rig) -> Iterator[Sabotage]:
    """Whatever is broken inside is mended at the end, also after Ctrl-C; and at the beginning, in case an
    earlier demo was killed."""
    sabotage = Sabotage(rig)
    sabotage.mend()
    try:
        yield sabotage
    finally:
        with uninterrupted():
            sabotage.mend()
