"""Where what moves money takes two people: one proposes, another one confirms, nobody does both."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, Response

from events.facts.saga import Settled
from events.http.tokens import named
from saga_tracker.dead_letters.replay import moves_money
from tests.runtime.eventually import eventually
from tests.tracker.dead_letters import BENS, TOKEN, TOKENS, give_up, unusable
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


# --- An edited dead letter

BODY = '{"lines": 7, "amount_minor": 5, "payment_token": "tok_secret"}'
EDITED = BODY.replace("5", "50").replace("tok_secret", "(hidden)")


class Letter:
    """A dead letter of payment, and what a browser does to it."""

    def __init__(self, page: AsyncClient, letter_id: UUID) -> None:
        self._page, self._path = page, f"/ui/dead-letters/{letter_id}"

    async def edit(self, token: str, **form: str) -> Response:
        given = {"token": token, "note": "fifty it is", "confirm": "yes", **form}
        return await self._page.post(f"{self._path}/edit", data=given)

    async def open(self, token: str) -> str:
        return (await self._page.post(self._path, data={"token": token})).text


@asynccontextmanager
async def letter_of(watch: Watch, app: FastAPI, service: str = "payment") -> AsyncIterator[Letter]:
    await watch.receive_redrives(service)
    await give_up(watch, unusable(body=BODY.encode()), service=service)

    async def there() -> list[dict[str, Any]]:
        return await watch.rows("SELECT letter_id FROM dead_letters")

    (row,) = await eventually(there)
    async with AsyncClient(
        transport=ASGITransport(app), base_url="http://127.0.0.1:8000", headers={"accept": "text/html"}
    ) as page:
        yield Letter(page, row["letter_id"])


async def test_what_one_proposes_to_send_another_one_sends(watch: Watch) -> None:
    app = watch.app(await watch.start(tokens=MANY, second_approver=True))
    redrives = await watch.receive_redrives("payment")
    async with letter_of(watch, app) as letter:
        assert (await letter.edit(BENS, body=EDITED)).status_code == 403
        proposed = await letter.edit(TOKEN, body=EDITED)
        assert proposed.headers["location"].endswith("?done=propose_edit")
        for token in (TOKEN, ANNAS_OTHER):
            again = await letter.edit(token, body=EDITED)
            assert again.status_code == 409
            assert "somebody else may confirm it" in again.text
        assert await redrives.get(fail=False) is None
        shown = await letter.open(CARLA)
        assert "An edit that anna proposes" in shown
        assert "tok_secret" not in shown
        found = re.search(r'name="proposed" value="([^"]+)"', shown)
        assert found
        assert (await letter.edit(CARLA, proposed=str(uuid4()))).status_code == 409
        confirmed = await letter.edit(CARLA, proposed=found[1])
        assert confirmed.headers["location"].endswith("?done=edit")
    sent = await redrives.get(timeout=20)
    assert sent is not None
    assert (sent.message_id, sent.body.decode()) == (found[1], BODY.replace("5", "50"))
    entries = (await get(app, "/audit")).json()["entries"]
    assert [(each["by"], each["action"]) for each in entries] == [
        ("carla", "edited"),
        ("anna", "edit_proposed"),
    ]


async def test_whoever_edits_otherwise_proposes_that_instead(watch: Watch) -> None:
    app = watch.app(await watch.start(tokens=MANY, second_approver=True))
    async with letter_of(watch, app) as letter:
        await letter.edit(TOKEN, body=EDITED)
        other = await letter.edit(CARLA, body=EDITED.replace("50", "60"))
        assert other.headers["location"].endswith("?done=propose_edit")
        assert (await letter.edit(CARLA, body=EDITED.replace("50", "60"))).status_code == 409
        assert (
            (await letter.edit(TOKEN, body=EDITED.replace("50", "60"))).headers["location"].endswith("=edit")
        )


async def test_an_edit_about_money_takes_an_approver_and_by_itself_one_is_enough(watch: Watch) -> None:
    app = watch.app(await watch.start(tokens=MANY))
    async with letter_of(watch, app, service="inventory") as letter:
        refused = await letter.edit(BENS, body=EDITED)
        assert refused.status_code == 403
        assert "what moves money takes the role approver; ben is operator" in refused.text
        assert (await letter.edit(CARLA, body=EDITED)).headers["location"].endswith("?done=edit")


@pytest.mark.parametrize(
    ("service", "body", "moves"),
    [
        ("payment", b"{}", True),
        ("inventory", b'{"sku": "a", "quantity": 1}', False),
        ("order", b'{"lines": [{"sku": "a", "amount_minor": 5}]}', True),
        ("order", b'{"lines": [{"sku": "a", "amount\\u005fminor": 5}]}', True),
        ("notification", b"no JSON at all", True),
        ("notification", b"[" * 100_000, True),
    ],
)
def test_what_is_about_money(service: str, body: bytes, moves: bool) -> None:
    assert moves_money(service, b"{}", body) is moves
