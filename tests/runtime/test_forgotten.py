"""An order that ended long ago is forgotten whole, and stays over when it comes again."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from events.storage.database import Database
from events.storage.retention import Forgotten
from events.storage.round_trip import RoundTrip
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage
from tests.runtime.test_states_over_http import SERVICES, Sample, app_on
from tests.runtime.toy.decide import Bump
from tests.runtime.toy.facts import Bumped
from tests.servers import Servers
from tests.tracker.watch import post

TOKEN = "letmein"  # a test's own
# One status of each service in which an order may still need it.
NOT_DONE: dict[str, dict[str, Any]] = {
    "order_svc": {"status": "withdrawn"},
    "inventory_svc": {"status": "reserved"},
    "payment_svc": {"status": "refund_failed"},
    "fulfillment_svc": {"status": "dispatch_failed"},
    "notification_svc": {"status": "sending"},
}


async def enter(database: Database, service: Sample, order: UUID, **changes: Any) -> None:
    async with database.transaction() as connection:
        trip = RoundTrip(connection)
        service.table.insert(trip, [replace(service.state(order), **changes)])
        await trip.run()


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.package)
async def test_a_service_forgets_what_it_is_done_with_alone(servers: Servers, service: Sample) -> None:
    done, not_done, has_a_call, unknown = (uuid4() for _ in range(4))
    url = await servers.new_database(service.package)
    async with app_on(url, service.repository, SecretStr(TOKEN)) as (app, database):
        for order in (done, has_a_call):
            await enter(database, service, order)
        await enter(database, service, not_done, **NOT_DONE[service.package])
        await database.rows(
            b"INSERT INTO calls (call_id, owner, name, order_id, request)"
            b" VALUES (gen_random_uuid(), 1, 'ring', %(order)s, '{}') RETURNING call_id",
            order=has_a_call,
        )
        # One of them twice, too: it is forgotten once.
        body = {"order_ids": [str(one) for one in (done, not_done, has_a_call, unknown, done, unknown)]}
        assert (await post(app, "/states/forget", body)).status == 401
        for _ in range(2):
            answer = await post(app, "/states/forget", body, token=TOKEN)
            assert answer.status == 200, answer.text
            assert sorted(answer.json()["forgotten"]) == sorted([str(done), str(unknown)])
        async with database.transaction() as connection:
            left = await service.repository.read_many(connection, [done, not_done, has_a_call, unknown])
        assert left.keys() == {not_done, has_a_call}
        tombs = await database.rows(b"SELECT order_id, units FROM tombstones")
    units = {row["order_id"]: row["units"] for row in tombs}
    assert units == {done: {"apple": 2} if service.package == "inventory_svc" else None, unknown: None}


async def test_what_comes_again_of_a_forgotten_order_has_no_effect(stage: Stage) -> None:
    host = await stage.start()
    forgotten, other = uuid4(), uuid4()
    await stage.rows("INSERT INTO tombstones (order_id) VALUES (%(order)s)", order=forgotten)
    await stage.say(Bumped(order_id=forgotten), Bumped(order_id=other))
    await eventually(lambda: stage.published(other))
    await eventually(stage.drained)
    assert not stage.published(forgotten)
    with pytest.raises(Forgotten):
        await host.ask(Bump(order_id=forgotten))
    assert await stage.rows("SELECT order_id FROM tallies") == [{"order_id": other}]


async def test_old_tombstones_go_if_a_number_of_days_is_set(stage: Stage) -> None:
    await stage.rows(
        "INSERT INTO tombstones (order_id, forgotten_at)"
        " SELECT gen_random_uuid(), now() - make_interval(days => n) FROM generate_series(1, 20) AS n"
    )
    await stage.start(tombstone_retention_days=10, inbox_walk_seconds=0.1)

    async def old_are_gone() -> bool:
        found = await stage.rows("SELECT count(*) AS left FROM tombstones")
        return bool(found[0]["left"] == 9)

    await eventually(old_are_gone)
