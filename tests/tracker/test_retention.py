"""What is old goes, exported first; what is young or not ended stays, however old."""

import json
import os
from collections.abc import MutableMapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from saga_tracker.retention import retention
from saga_tracker.retention.old import OLD as OLD_KINDS
from saga_tracker.service import Tracker
from saga_tracker.settings import Keep
from tests.runtime.eventually import eventually
from tests.tracker.facts import PATHS, envelopes
from tests.tracker.others import others_answering
from tests.tracker.watch import Watch, get, is_ready

DAYS = 90
OLD, YOUNG = DAYS + 1, DAYS - 1
OFTEN: dict[str, Any] = {"retention_interval_seconds": 0.05, "retention_share_of_time": 1.0}
ON = {**OFTEN, "saga_retention_days": DAYS}


async def say(watch: Watch, path: str, days_ago: float) -> UUID:
    order = uuid4()
    facts = envelopes(path, order, datetime.now(UTC) - timedelta(days=days_ago))
    seen = await watch.facts_seen()
    await watch.say(*facts)
    await watch.sees_facts(seen + len(facts))
    await age(watch, order, days_ago)
    return order


async def age(watch: Watch, order: UUID, days: float) -> None:
    """Have the tracker know it for so long: what it reads it dates by its own database's clock."""
    given: dict[str, Any] = {"id": order, "ago": timedelta(days=days)}
    await watch.rows(
        "WITH facts AS (UPDATE saga_facts SET read_at = read_at - %(ago)s WHERE order_id = %(id)s)"
        " UPDATE sagas SET since = since - %(ago)s, started_at = started_at - %(ago)s,"
        " ended_at = ended_at - %(ago)s WHERE order_id = %(id)s",
        **given,
    )


async def rows_of(watch: Watch, order: UUID) -> dict[str, int]:
    tables: tuple[LiteralString, ...] = ("sagas", "saga_facts", "ledger_entries", "comparisons", "tombstones")
    return {
        table: len(await watch.rows("SELECT FROM " + table + " WHERE order_id = %(id)s", id=order))
        for table in tables
    }


async def goes(watch: Watch, order: UUID) -> None:
    async def gone() -> bool:
        return await watch.state_of(order) is None

    await eventually(gone, why="it is deleted")


async def some_are_forgotten(watch: Watch) -> bool:
    return bool(await watch.rows("SELECT FROM tombstones"))


async def test_an_old_ended_saga_goes_whole_and_all_others_stay(watch: Watch, tmp_path: Path) -> None:
    with others_answering() as others:
        tracker = await watch.start(**others.settings())
        old = await say(watch, PATHS["completed"], OLD)
        cancelled = await say(watch, PATHS["declined"], OLD)
        young = await say(watch, PATHS["completed"], YOUNG)
        unended = await say(watch, "created reserved captured", OLD)
        others.completed(old, young)

        async def moved() -> bool:
            return len(await watch.rows("SELECT FROM ledger_entries")) == 4

        await eventually(moved)
        await watch.stop(tracker)
        await watch.rows("DELETE FROM differences")
        tracker = await watch.start(export_dir=tmp_path, **ON)
        await goes(watch, old)
        await goes(watch, cancelled)
        nothing = dict.fromkeys(("sagas", "saga_facts", "ledger_entries", "comparisons"), 0)
        assert await rows_of(watch, old) == await rows_of(watch, cancelled) == {**nothing, "tombstones": 1}
        for order, facts in ((young, 8), (unended, 3)):
            found = await rows_of(watch, order)
            assert (found["sagas"], found["saga_facts"], found["tombstones"]) == (1, facts, 0)
        exported = {line["order_id"]: line for line in exported_lines(tmp_path, "sagas")}
        assert exported.keys() == {str(old), str(cancelled)}
        assert len(exported[str(old)]["facts"]) == 8
        assert exported[str(old)]["state"] == "COMPLETED"
        assert len(exported[str(old)]["ledger_entries"]) == 2
        assert "tok_ok" not in json.dumps(exported)
        answer = await get(watch.app(tracker), f"/sagas/{old}")
        assert answer.status == 410
        assert "COMPLETED" in answer.text


async def test_by_default_no_saga_is_deleted(watch: Watch) -> None:
    tracker = await watch.start(**OFTEN)
    order = await say(watch, PATHS["completed"], 10_000)
    await watch.rows(
        "INSERT INTO dead_letters (letter_id, service, kind, reason, detail, state, state_at, routing_key,"
        " properties, body) VALUES (gen_random_uuid(), 'payment', 'unusable', 'r', '', 'discarded',"
        " now() - interval '91 days', 'k', '{}', '')"
    )

    async def dead_letter_gone() -> bool:
        return not await watch.rows("SELECT FROM dead_letters")

    await eventually(dead_letter_gone)
    assert await watch.state_of(order) == "COMPLETED"
    assert await is_ready(tracker)


async def test_what_is_published_again_of_a_forgotten_order_begins_no_saga(watch: Watch) -> None:
    await watch.start(**ON)
    began = datetime.now(UTC) - timedelta(days=OLD)
    order = await say(watch, PATHS["completed"], OLD)
    await eventually(partial(some_are_forgotten, watch))
    await watch.say(*envelopes("created reserved", order, began))
    other = await say_new(watch)
    assert await watch.state_of(order) is None
    await watch.rebuild()
    assert await watch.state_of(order) is None
    assert await watch.state_of(other) == "PENDING_INVENTORY"


async def say_new(watch: Watch) -> UUID:
    order = uuid4()
    await watch.say(*envelopes("created", order))
    await watch.sees_order(order)
    return order


async def test_an_open_letter_or_a_difference_keeps_a_saga(watch: Watch) -> None:
    tracker = await watch.start(**OFTEN)
    with_dead_letter, with_difference, free = [await say(watch, PATHS["completed"], OLD) for _ in range(3)]
    await watch.stop(tracker)
    await enter_dead_letter(watch, with_dead_letter, "open")
    await watch.rows(
        "INSERT INTO differences (order_id, service, about, expected, found)"
        " VALUES (%(order)s, 'payment', 'status', 'captured', 'none')",
        order=with_difference,
    )
    await watch.start(**ON, retention_batch_size=1)
    await goes(watch, free)
    assert await watch.state_of(with_dead_letter) == await watch.state_of(with_difference) == "COMPLETED"
    await watch.rows("UPDATE dead_letters SET state = 'discarded'")
    await watch.rows("DELETE FROM differences")
    await goes(watch, with_dead_letter)
    await goes(watch, with_difference)


async def enter_dead_letter(watch: Watch, order: UUID, state: str, days_ago: int = 0) -> UUID:
    dead_letter = uuid4()
    await watch.rows(
        "INSERT INTO dead_letters (letter_id, service, kind, reason, detail, state, state_at, order_id,"
        " routing_key, properties, body)"
        " VALUES (%(dead_letter)s, 'payment', 'unusable', 'bad_body', '', %(state)s,"
        " now() - make_interval(days => %(days)s), %(order)s, 'k', '{}', '\\x00ff')",
        dead_letter=dead_letter,
        state=state,
        order=order,
        days=days_ago,
    )
    return dead_letter


async def test_closed_dead_letters_and_old_audit_go_and_open_ones_stay(watch: Watch, tmp_path: Path) -> None:
    tracker = await watch.start(**OFTEN)
    unended = await say(watch, "created", OLD)
    await watch.stop(tracker)
    old = await enter_dead_letter(watch, uuid4(), "discarded", OLD)
    young = await enter_dead_letter(watch, uuid4(), "replayed", YOUNG)
    still_open = await enter_dead_letter(watch, uuid4(), "open", OLD)
    for order, days in ((uuid4(), OLD), (unended, OLD), (uuid4(), YOUNG)):
        await watch.rows(
            "INSERT INTO audit (by, action, order_id, at) VALUES ('ada', 'discarded', %(order)s,"
            " now() - make_interval(days => %(days)s))",
            order=order,
            days=days,
        )
    await watch.start(
        **OFTEN, dead_letter_retention_days=DAYS, audit_retention_days=DAYS, export_dir=tmp_path
    )

    async def as_wanted() -> bool:
        dead_letters = {row["letter_id"] for row in await watch.rows("SELECT letter_id FROM dead_letters")}
        entries = await watch.rows("SELECT FROM audit")
        return dead_letters == {young, still_open} and len(entries) == 2

    await eventually(as_wanted)
    assert await watch.rows("SELECT FROM audit WHERE order_id = %(order)s", order=unended)
    [dead_letter] = exported_lines(tmp_path, "dead_letters")
    assert (dead_letter["letter_id"], dead_letter["body"]) == (str(old), "AP8=")
    assert len(exported_lines(tmp_path, "audit")) == 1


async def test_what_cannot_be_exported_is_not_deleted(
    watch: Watch, tmp_path: Path, logged: list[MutableMapping[str, Any]]
) -> None:
    await watch.start(**OFTEN)
    order = await say(watch, PATHS["completed"], OLD)
    (tmp_path / "file").touch()
    tracker = await watch.start(export_dir=tmp_path / "file", **ON)
    await eventually(lambda: any(line["event"] == "retention_failed" for line in logged))
    assert await watch.state_of(order) == "COMPLETED"
    assert await is_ready(tracker)
    (tmp_path / "file").unlink()
    await goes(watch, order)
    assert len(exported_lines(tmp_path / "file", "sagas")) == 1


async def test_killed_between_export_and_deletion_it_exports_again_and_loses_nothing(
    watch: Watch, tmp_path: Path
) -> None:
    tracker = await watch.start(**OFTEN)
    orders = {str(await say(watch, PATHS["completed"], OLD)) for _ in range(3)}
    # What a kill at that moment leaves: the lines, the last of them cut off, and every row.
    killed = retention.Retention(watch.settings(export_dir=tmp_path, **ON), tracker.database)
    deleting = await one_page_without_deleting(killed, tracker)
    cut_off_the_end(tmp_path)
    assert {str(row["order_id"]) for row in deleting} == orders
    await watch.start(export_dir=tmp_path, **ON)
    for order in orders:
        await goes(watch, UUID(order))
    whole = [line["order_id"] for line in exported_lines(tmp_path, "sagas")]
    assert set(whole) == orders
    assert len(whole) == 2 * len(orders) - 1


def cut_off_the_end(folder: Path) -> None:
    [file] = folder.iterdir()
    os.truncate(file, file.stat().st_size - 10)


async def one_page_without_deleting(one: retention.Retention, tracker: Tracker) -> Any:
    """A step up to its deletion."""
    [sagas] = [old for old in OLD_KINDS if old.kind == "sagas"]
    assert one._export is not None
    async with tracker.database.transaction() as connection:
        page = await sagas.page(connection, DAYS, None, 10)
        one._export.write("sagas", await sagas.lines(connection, page.rows), datetime.now(UTC))
    return page.rows


async def test_what_changed_since_it_was_exported_stays_for_the_next_pass(watch: Watch) -> None:
    tracker = await watch.start(**OFTEN)
    order = await say(watch, PATHS["carrier refuses"].removesuffix(" notified_of_cancellation"), OLD)
    [sagas] = [old for old in OLD_KINDS if old.kind == "sagas"]
    async with tracker.database.transaction() as connection:
        page = await sagas.page(connection, DAYS, None, 10)
    assert len(page.rows) == 1
    late = datetime.now(UTC) - timedelta(days=OLD)
    await watch.say(*envelopes("notified_of_cancellation", order, late))
    await watch.sees_facts(8)
    async with tracker.database.transaction() as connection:
        assert await sagas.delete(connection, page.rows) == 0
    assert len(await watch.rows("SELECT FROM saga_facts")) == 8


async def test_a_database_that_is_away_is_waited_for(watch: Watch) -> None:
    proxy = await watch.proxy_database()
    await watch.start(database_url=proxy.url(watch.database_url), database_timeout_seconds=0.5, **ON)
    order = uuid4()
    facts = envelopes(PATHS["completed"], order)
    await watch.say(*facts)
    await watch.sees_facts(len(facts))
    proxy.cut()
    await age(watch, order, OLD)
    proxy.restore()
    await eventually(partial(some_are_forgotten, watch))


async def test_many_go_in_small_steps_by_index(watch: Watch) -> None:
    await fill(watch, 1_000)
    await watch.start(**ON, retention_batch_size=50)

    async def all_gone() -> bool:
        found = await watch.rows("SELECT count(*) AS sagas FROM sagas")
        return bool(found[0]["sagas"] == 500)

    await eventually(all_gone)
    steps = await watch.rows("SELECT xmin::text, count(*) AS orders FROM tombstones GROUP BY 1")
    assert len(steps) == 10
    assert {step["orders"] for step in steps} == {50}


async def test_the_services_forget_an_order_after_its_saga_and_what_they_are_not_done_with_stays(
    watch: Watch,
) -> None:
    with others_answering() as others:
        tracker = await watch.start(**others.settings())
        old, stuck, between = [await say(watch, PATHS["completed"], days) for days in (OLD, OLD, OLD - 0.5)]
        others.completed(old, stuck, between)
        others.not_done.add(("payment", stuck))
        await watch.stop(tracker)
        await watch.rows("DELETE FROM differences")
        more = {"state_retention_days": DAYS + 1, "retention_batch_size": 1, "tombstone_retention_days": 3}
        settings = {**others.settings(), **ON, **more, "admin_token": SecretStr(others.token)}
        await watch.start(**settings)
        for order in (old, stuck, between):
            await goes(watch, order)

        async def has_listed_them() -> bool:
            done = await watch.rows("SELECT order_id FROM tombstones WHERE states_forgotten")
            return [row["order_id"] for row in done] == [old]

        await eventually(has_listed_them)
        assert not any(old in known for known in others.states.values())
        assert all(between in known for known in others.states.values())
        assert others.states["payment"].keys() == {stuck, between}
        await watch.rows("UPDATE tombstones SET forgotten_at = now() - interval '4 days'")

        async def crumbled() -> bool:
            left = {row["order_id"] for row in await watch.rows("SELECT order_id FROM tombstones")}
            return left == {stuck, between}

        await eventually(crumbled)
        others.not_done.clear()

        async def nobody_has_it() -> bool:
            return not any(stuck in known for known in others.states.values())

        await eventually(nobody_has_it)


async def test_while_a_service_is_away_its_states_are_asked_for_later(watch: Watch) -> None:
    with others_answering() as others:
        others.token = "another"
        order = await say_and_forget(watch, others.settings(), SecretStr("letmein"))
        others.completed(order)

        async def failed() -> bool:
            return bool(retention.FAILURES.labels("states")._value.get())

        await eventually(failed)
        assert not await watch.rows("SELECT FROM tombstones WHERE states_forgotten")
        others.token = "letmein"

        async def done() -> bool:
            return bool(await watch.rows("SELECT FROM tombstones WHERE states_forgotten"))

        await eventually(done)
        assert not any(order in known for known in others.states.values())


async def say_and_forget(watch: Watch, settings: dict[str, Any], token: SecretStr) -> UUID:
    await watch.start(**settings, **ON, state_retention_days=DAYS, admin_token=token)
    order = await say(watch, PATHS["completed"], OLD)
    await eventually(partial(some_are_forgotten, watch))
    return order


async def fill(watch: Watch, orders: int) -> None:
    """Ended sagas, half of them old, half young."""
    await watch.rows(
        "INSERT INTO sagas (order_id, state, since, waits, waiting_for, timed_out, started_at, ended_at,"
        " fact_count) SELECT gen_random_uuid(), 'COMPLETED', at, '[]', '[]', false, at, at, 0"
        " FROM generate_series(1, %(orders)s) AS number,"
        " LATERAL (SELECT now() - make_interval(days => CASE WHEN number %% 2 = 0 THEN %(old)s ELSE 1 END))"
        " AS ended (at)",
        orders=orders,
        old=OLD,
    )


def exported_lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The lines that are whole, as a reader takes them."""
    lines = []
    for file in sorted(folder.glob(f"{kind}-*.jsonl")):
        assert file.stat().st_mode & 0o077 == 0
        for line in file.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    return lines


@pytest.mark.parametrize(
    ("keep", "fits"),
    [
        (Keep(), True),
        (Keep(sagas=90), True),
        (Keep(sagas=90, states=90), True),
        (Keep(sagas=90, states=365), True),
        (Keep(states=90), False),
        (Keep(sagas=90, states=30), False),
    ],
)
def test_states_outlive_their_saga(keep: Keep, fits: bool) -> None:
    assert (keep.problem() is None) == fits
