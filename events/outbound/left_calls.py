"""Calls that dead instances left behind, or that this one leaves to others: it may be of an older release.

While a release is rolled out, or back, one replica may meet a call whose name or request only the other
release knows, or whose outcome meets a state that only that one can read. Such a call is nobody's until an
instance adopts it that understands it. It is not failed here, and does not count as an attempt.
"""

from time import monotonic
from uuid import UUID

from sqlalchemy import Boolean, bindparam, func, not_, or_, select, true, update

from events.runtime.settings import ServiceSettings
from events.storage.database import Database
from events.storage.instance import Adoption, Instance
from events.storage.sql import array_of, compiled
from events.storage.tables import calls
from events.telemetry.log import log

# No instance draws this number, so its lock is always free: what it owns is there for the first who adopts.
NOBODY = 0

_understood = calls.c.name == array_of("names", calls.c.name).any_()
_left = calls.c.call_id == array_of("left", calls.c.call_id).any_()
# A dead instance had no time to write down what it had just sent.
_ADOPT = Adoption(calls, _understood, not_(_left), noting={"maybe_done": true()})
_LEAVE = compiled(
    update(calls)
    .values(
        owner=bindparam("nobody"),
        maybe_done=or_(calls.c.maybe_done, bindparam("maybe_done", type_=Boolean)),
        due_at=func.now(),
    )
    .where(calls.c.call_id == bindparam("id"))
)
_NOT_KNOWN = compiled(
    select(calls.c.name, func.count().label("count")).where(not_(_understood)).group_by(calls.c.name)
)


class LeftCalls:
    """Which of the calls that nobody works off this instance takes, and which it leaves."""

    def __init__(
        self, settings: ServiceSettings, database: Database, instance: Instance, names: list[str]
    ) -> None:
        self._settings = settings
        self._database = database
        self._instance = instance
        self._names = names
        self._left: dict[UUID, float] = {}
        self._foreign: set[str] = set()

    async def adopt(self) -> int:
        """Take over what dead instances left, as far as it is known here; answers how much that was."""
        await self._tell_of_foreign_ones()
        limit = monotonic() - self._settings.left_to_others_seconds
        # With nobody else here, it is this one's again after a while: the state may be readable by then.
        self._left = {call_id: at for call_id, at in self._left.items() if at > limit}
        given = {"names": self._names, "left": list(self._left)}
        return await self._instance.adopt(self._database, _ADOPT, given)

    async def leave(self, call_id: UUID, *, maybe_done: bool) -> None:
        """Let another instance have it, at once; this one does not take it back for a while."""
        if len(self._left) >= self._settings.call_memory:
            self._left.pop(next(iter(self._left)))
        self._left[call_id] = monotonic()
        given = {"id": call_id, "maybe_done": maybe_done, "nobody": NOBODY}

        async def give_up() -> None:
            async with self._database.session() as connection:
                await connection.execute(_LEAVE, given)

        await self._database.until_done(give_up)

    async def _tell_of_foreign_ones(self) -> None:
        """Say once of each name that another release has asked for it."""
        for row in await self._database.rows_when_back(_NOT_KNOWN, names=self._names):
            if row["name"] not in self._foreign:
                self._foreign.add(row["name"])
                log.warning("call_not_understood", call=row["name"], count=row["count"], why="unknown name")
