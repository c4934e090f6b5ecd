"""Where settling takes two people: one proposes, another one confirms, nobody does both."""

from uuid import UUID, uuid4

from fastapi import FastAPI

from events.facts.saga import Settled
from events.http.tokens import named
from tests.runtime.eventually import eventually
from tests.tracker.dead_letters import TOKEN, TOKENS
from tests.tracker.facts import envelopes
from tests.tracker.test_manual import UNREFUNDED, received_in
from tests.tracker.watch import Answer, Watch, get, post

CARLA = "carlas-token"
# The same person, with another token.
ANNAS_OTHER = "annas-other-token"
MANY = f"{TOKENS} {named('carla', 'approver', CARLA)} {named('Anna', 'approver', ANNAS_OTHER)}"


async def settle(app: FastAPI, order: UUID, token: str, note: str = "paid by transfer") -> Answer:
    return await post(app, f"/sagas/{order}/settle", {"note": note}, token=token)


async def failed_order(watch: Watch, app: FastAPI) -> UUID:
    order = uuid4()
    await watch.say(*envelopes(UNREFUNDED, order))

    async def needs_a_person() -> bool:
        return bool((await get(app, f"/sagas/{order}")).json().get("state") == "NEEDS_MANUAL")

    await eventually(needs_a_person)
    return order


async def test_what_one_proposes_another_one_confirms(watch: Watch) -> None:
    app = watch.app(await watch.start(tokens=MANY, sweep_seconds=0.2, second_approver=True))
    order = await failed_order(watch, app)
    queue = await watch.receive(Settled)
    proposed = await settle(app, order, TOKEN)
    assert (proposed.status, proposed.json()["settled"]) == (202, [])
    assert proposed.json()["proposed"]["by"] == "anna"
    for token in (TOKEN, ANNAS_OTHER):
        again = await settle(app, order, token)
        assert again.status == 409
        assert "somebody else may confirm it" in again.json()["detail"]
    assert await queue.get(fail=False) is None
    confirmed = await settle(app, order, CARLA, "seen on the account")
    assert confirmed.status == 202
    assert [each["service"] for each in confirmed.json()["settled"]] == ["payment"]
    settled = (await received_in(queue)).fact
    assert isinstance(settled, Settled)
    assert settled.by == "carla"
    entries = (await get(app, f"/audit?order_id={order}")).json()["entries"]
    assert [(each["by"], each["role"], each["signed_in_by"], each["action"]) for each in entries] == [
        ("carla", "approver", "named token", "settled"),
        ("anna", "admin", "named token", "settlement_proposed"),
    ]


async def test_a_proposal_expires(watch: Watch) -> None:
    app = watch.app(await watch.start(tokens=MANY, second_approver=True))
    order = await failed_order(watch, app)
    await settle(app, order, TOKEN)
    await watch.rows("UPDATE proposals SET expires_at = now()")
    assert (await settle(app, order, CARLA)).json()["proposed"]["by"] == "carla"
    assert (await settle(app, order, CARLA)).status == 409
    assert (await settle(app, order, TOKEN)).json()["settled"]


async def test_by_itself_one_person_is_enough(watch: Watch) -> None:
    app = watch.app(await watch.start(tokens=MANY))
    order = await failed_order(watch, app)
    settled = await settle(app, order, CARLA)
    assert settled.json()["settled"]
    assert settled.json()["proposed"] is None
