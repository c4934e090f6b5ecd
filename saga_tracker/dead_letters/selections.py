"""Dead letters that a person chose: frozen with their ids, previewed, and replayed or discarded at a pace.

Whatever arrives after a selection was made is not in it. Several trackers share the work: a selection is
locked by the one that goes on with it. Killed meanwhile, another goes on; a letter that was dealt with is not
open any more.
"""

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Text,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    update,
)

from events.http.authentication import Identity
from events.http.tokens import Role
from events.storage.database import AWAY, CONTENTION, Connection, Database
from events.storage.sql import array_of, compiled
from events.telemetry.log import log
from saga_tracker.dead_letters import repository
from saga_tracker.dead_letters.dead_letter import DeadLetterState
from saga_tracker.dead_letters.replay import NotSent, Replayed, replay
from saga_tracker.dead_letters.repository import DeadLetterFilter, open_dead_letter_ids
from saga_tracker.http import audit
from saga_tracker.http.audit import Entry
from saga_tracker.scheduler.redrive import Publisher
from saga_tracker.settings import TrackerSettings
from saga_tracker.tables import dead_letters, selected_letters, selections

TICK_SECONDS = 1.0
MAX_LISTED = 50


class SelectionState(StrEnum):
    """Where a selection stands. A frozen one can be started, a running one paused, each stopped."""

    FROZEN = "frozen"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    DONE = "done"


# From which states one can get to another.
_FROM = {
    SelectionState.RUNNING: ("frozen", "paused"),
    SelectionState.PAUSED: ("running",),
    SelectionState.STOPPED: ("frozen", "running", "paused"),
    SelectionState.DONE: ("running",),
}

_MAKE = compiled(
    insert(selections).values(
        selection_id=bindparam("selection_id"),
        made_by=bindparam("made_by"),
        of=bindparam("of"),
        state=literal_column(f"'{SelectionState.FROZEN}'"),
    )
)
_given = (
    func.unnest(array_of("letter_ids", dead_letters.c.letter_id))
    .table_valued("letter_id", with_ordinality="position", name="given")
    .render_derived()
)
_FILL = compiled(
    insert(selected_letters).from_select(
        ["selection_id", "position", "letter_id"],
        select(
            bindparam("selection_id", type_=selections.c.selection_id.type),
            _given.c.position,
            _given.c.letter_id,
        ),
    )
)
_mine: ColumnElement[bool] = selected_letters.c.selection_id == bindparam("selection_id")
_ONE = compiled(select(selections).where(selections.c.selection_id == bindparam("selection_id")))
_LAST = compiled(
    select(selections).order_by(selections.c.made_at.desc()).limit(literal_column(str(MAX_LISTED)))
)
_letters = selected_letters.join(dead_letters, selected_letters.c.letter_id == dead_letters.c.letter_id)
_PREVIEW = compiled(
    select(
        dead_letters.c.service,
        dead_letters.c.reason,
        dead_letters.c.wire_name,
        func.count().label("letters"),
        func.count(dead_letters.c.order_id.distinct()).label("orders"),
        func.sum(func.octet_length(dead_letters.c.body)).label("bytes"),
        func.count().filter(dead_letters.c.state == literal_column("'open'")).label("open"),
    )
    .select_from(_letters)
    .where(_mine)
    .group_by(dead_letters.c.service, dead_letters.c.reason, dead_letters.c.wire_name)
    .order_by(func.count().desc())
)
_PROGRESS = compiled(
    select(
        func.coalesce(selected_letters.c.outcome, literal_column("'left'")).label("outcome"),
        func.count().label("letters"),
    )
    .where(_mine)
    .group_by(literal_column("1"))
)
_MOVE = compiled(
    update(selections)
    .values(state=bindparam("to_state"), state_at=func.now())
    .where(
        selections.c.selection_id == bindparam("selection_id"),
        selections.c.state == bindparam("from_states", type_=ARRAY(Text)).any_(),
    )
)
_START = compiled(
    update(selections)
    .values(
        state=literal_column(f"'{SelectionState.RUNNING}'"),
        state_at=func.now(),
        verb=bindparam("new_verb"),
        by=bindparam("new_by"),
        role=bindparam("new_role"),
        signed_in_by=bindparam("new_signed_in_by"),
        note=bindparam("new_note"),
        per_second=bindparam("new_pace"),
    )
    .where(
        selections.c.selection_id == bindparam("selection_id"),
        selections.c.state == literal_column("'frozen'"),
    )
)
_TAKE_RUNNING = compiled(
    select(selections)
    .where(selections.c.state == literal_column(f"'{SelectionState.RUNNING}'"))
    .order_by(selections.c.made_at)
    .with_for_update(skip_locked=True)
)
_NEXT = compiled(
    select(selected_letters.c.letter_id)
    .where(_mine, selected_letters.c.outcome.is_(None))
    .order_by(selected_letters.c.position)
    .limit(bindparam("row_limit"))
)
_NOTE = compiled(
    update(selected_letters)
    .values(outcome=bindparam("new_outcome"))
    .where(_mine, selected_letters.c.letter_id == array_of("letter_ids", dead_letters.c.letter_id).any_())
)
_FAILED = compiled(
    update(selections)
    .values(last_error=bindparam("error"))
    .where(selections.c.selection_id == bindparam("selection_id"))
)


async def freeze(
    connection: Connection,
    letter_ids: Sequence[UUID] | None,
    wanted: DeadLetterFilter,
    limit: int,
    *,
    by: str,
    of: str,
) -> tuple[UUID, int]:
    """Make a selection of these letters, or of the open ones of a group; its id, and how many there are."""
    if letter_ids is None:
        letter_ids = await open_dead_letter_ids(connection, wanted, limit)
    chosen = list(dict.fromkeys(letter_ids))[:limit]
    selection_id = uuid4()
    await connection.execute(_MAKE, {"selection_id": selection_id, "made_by": by, "of": of})
    await connection.execute(_FILL, {"selection_id": selection_id, "letter_ids": chosen})
    return selection_id, len(chosen)


async def see(
    connection: Connection, selection_id: UUID
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, int]] | None:
    """A selection, what is in it by group, and how many of its letters came to which outcome."""
    given = {"selection_id": selection_id}
    row = await (await connection.execute(_ONE, given)).fetchone()
    if row is None:
        return None
    groups = await (await connection.execute(_PREVIEW, given)).fetchall()
    progress = await (await connection.execute(_PROGRESS, given)).fetchall()
    return row, groups, {each["outcome"]: each["letters"] for each in progress}


async def last_made(connection: Connection) -> list[dict[str, Any]]:
    """The selections that were made last."""
    return await (await connection.execute(_LAST)).fetchall()


async def start(
    connection: Connection, selection_id: UUID, verb: str, *, who: Identity, note: str, per_second: int
) -> bool:
    """Have a frozen selection replayed or discarded; False if it is not frozen."""
    given = {
        "selection_id": selection_id,
        "new_verb": verb,
        "new_by": who.name,
        "new_role": who.role.value,
        "new_signed_in_by": who.signed_in_by,
        "new_note": note,
        "new_pace": per_second,
    }
    return (await connection.execute(_START, given)).rowcount == 1


async def move(connection: Connection, selection_id: UUID, to: SelectionState) -> bool:
    """Pause, continue or stop a selection; False if it does not stand where that is possible."""
    given = {"selection_id": selection_id, "to_state": to.value, "from_states": list(_FROM[to])}
    return (await connection.execute(_MOVE, given)).rowcount == 1


class SelectionRunner:
    """The one task that goes on with what runs."""

    def __init__(self, settings: TrackerSettings, database: Database, publisher: Publisher) -> None:
        self._settings = settings
        self._database = database
        self._publisher = publisher

    async def run(self) -> None:
        """Go on for ever, at each selection's pace."""
        while True:
            try:
                await self.go_on()
            except CONTENTION:
                continue
            except AWAY as error:
                await self._database.wait_until_back(error)
            await asyncio.sleep(TICK_SECONDS)

    async def go_on(self) -> None:
        """The next letters of each selection that runs, which nobody else goes on with meanwhile."""
        async with self._database.transaction() as connection:
            running = await (await connection.execute(_TAKE_RUNNING)).fetchall()
            for selection in running:
                await self._some_of(connection, selection)

    async def _some_of(self, connection: Connection, selection: Mapping[str, Any]) -> None:
        selection_id = selection["selection_id"]
        pace = min(selection["per_second"] or 1, self._settings.replay_batch_size)
        cursor = await connection.execute(_NEXT, {"selection_id": selection_id, "row_limit": pace})
        letter_ids = [row["letter_id"] for row in await cursor.fetchall()]
        if not letter_ids:
            await move(connection, selection_id, SelectionState.DONE)
            log.info("selection_done", selection_id=str(selection_id))
            return
        try:
            done = await self._dealt_with(selection, letter_ids)
        except (NotSent, *CONTENTION) as error:
            # What was confirmed is not open any more: it is passed over next time.
            why = (
                "the broker did not confirm"
                if isinstance(error, NotSent)
                else "somebody else acts on one of these"
            )
            await connection.execute(_FAILED, {"selection_id": selection_id, "error": why})
            return
        outcome = "replayed" if selection["verb"] == "replay" else "discarded"
        skipped = [letter_id for letter_id in letter_ids if letter_id not in set(done)]
        for word, some in ((outcome, done), ("skipped", skipped)):
            given = {"selection_id": selection_id, "letter_ids": some, "new_outcome": word}
            await connection.execute(_NOTE, given)
        await connection.execute(_FAILED, {"selection_id": selection_id, "error": None})

    async def _dealt_with(self, selection: Mapping[str, Any], letter_ids: list[UUID]) -> list[UUID]:
        """Which of them were replayed or discarded now."""
        if selection["verb"] == "replay":
            done = Replayed()
            try:
                await replay(
                    self._settings,
                    self._database,
                    letter_ids,
                    who=_starter_of(selection),
                    note=selection["note"],
                    done=done,
                )
            finally:
                if done.replayed:
                    self._publisher.look_in_table()
            return done.replayed
        async with self._database.transaction() as connection:
            return await discard(connection, letter_ids, who=_starter_of(selection), note=selection["note"])


async def discard(
    connection: Connection, letter_ids: Sequence[UUID], *, who: Identity, note: str
) -> list[UUID]:
    """Discard those that are open; says which."""
    found = await repository.take(connection, letter_ids)
    still_open = [letter for letter in found if letter["state"] == DeadLetterState.OPEN]
    entries = [
        Entry.of(who, "discarded", note, letter["service"], letter["order_id"], letter["letter_id"])
        for letter in still_open
    ]
    await audit.enter(connection, entries)
    await repository.mark(
        connection, [letter["letter_id"] for letter in still_open], DeadLetterState.DISCARDED
    )
    return [letter["letter_id"] for letter in still_open]


def _starter_of(selection: Mapping[str, Any]) -> Identity:
    """Who started it, for the audit."""
    return Identity(selection["by"], Role(selection["role"]), selection["signed_in_by"])
