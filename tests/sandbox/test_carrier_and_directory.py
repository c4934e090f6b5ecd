"""What a carrier promises, and who lives where."""

import asyncio
import time
from datetime import date
from typing import Any

import pytest
from aiohttp import ServerDisconnectedError

from tests.sandbox.conftest import Client
from tests.sandbox_process import SLOW_SECONDS

BOOK, CANCEL, DISPATCH = "shipments", "cancellations", "dispatches"

LIFE: dict[tuple[str, ...], dict[str, tuple[int, str | None]]] = {
    (): {BOOK: (201, None), CANCEL: (201, None), DISPATCH: (409, "not_booked")},
    (BOOK,): {BOOK: (409, "already_booked"), CANCEL: (201, None), DISPATCH: (201, None)},
    (BOOK, CANCEL): {BOOK: (422, "reference_closed"), CANCEL: (201, None), DISPATCH: (409, "cancelled")},
    (CANCEL,): {BOOK: (422, "reference_closed"), CANCEL: (201, None), DISPATCH: (409, "cancelled")},
    (BOOK, DISPATCH): {
        BOOK: (409, "already_booked"),
        CANCEL: (409, "dispatched"),
        DISPATCH: (409, "already_dispatched"),
    },
}


async def do(client: Client, operation: str, reference: str) -> tuple[int, Any]:
    if operation == BOOK:
        return await client.book(reference)
    return await client.ask(f"/carrier/{operation}", reference)


async def shipment_of(client: Client, reference: str) -> dict[str, Any] | None:
    after: int | None = 0
    while after is not None:
        _, page = await client.get(f"/carrier/shipments?after={after}&limit=1000")
        for shipment in page["shipments"]:
            if shipment["reference"] == reference:
                return dict(shipment)
        after = page["next_after"]
    return None


@pytest.mark.parametrize("past", LIFE, ids=lambda past: "-".join(past) or "nothing")
async def test_each_state_answers_each_operation(
    client: Client, reference: str, past: tuple[str, ...]
) -> None:
    for operation, (status, reason) in LIFE[past].items():
        reference_here = f"{reference}-{operation}"
        for step in past:
            assert (await do(client, step, reference_here))[0] == 201
        answer = await do(client, operation, reference_here)
        assert (answer[0], answer[1].get("reason")) == (status, reason), operation


async def test_a_booking_is_listed_with_its_status(client: Client, reference: str) -> None:
    _, booked = await client.book(reference)
    assert booked["status"] == "booked"
    assert date.fromisoformat(booked["deliver_on"]) > date(2026, 1, 1)
    listed = await shipment_of(client, reference)
    assert listed is not None
    assert (listed["status"], listed["shipment_id"]) == ("booked", booked["shipment_id"])
    await client.ask("/carrier/dispatches", reference)
    listed = await shipment_of(client, reference)
    assert listed is not None
    assert listed["status"] == "dispatched"


async def test_a_closed_reference_has_no_shipment(client: Client, reference: str) -> None:
    await client.ask("/carrier/cancellations", reference)
    listed = await shipment_of(client, reference)
    assert listed is not None
    assert (listed["status"], listed["shipment_id"]) == ("closed", None)


async def test_dispatch_and_cancellation_at_once_leave_one_of_them(client: Client, reference: str) -> None:
    for number in range(20):
        one = f"{reference}-{number}"
        await client.book(one)
        (gone, _), (cancelled, _) = await asyncio.gather(
            client.ask("/carrier/dispatches", one), client.ask("/carrier/cancellations", one)
        )
        assert sorted((gone, cancelled)) == [201, 409]


async def test_some_addresses_are_not_served(client: Client, reference: str) -> None:
    for customer in ("cust_refused", "cust_refused_42"):
        assert await client.book(f"{reference}-{customer}", customer) == (
            422,
            {"status": "refused", "reason": "address_not_served"},
        )


async def test_a_slow_depot_answers_late(client: Client, reference: str) -> None:
    began = time.monotonic()
    assert (await client.book(reference, "cust_carrier_slow"))[0] == 201
    assert time.monotonic() - began >= SLOW_SECONDS


async def test_a_failing_depot_never_books_and_the_reference_can_be_closed(
    client: Client, reference: str
) -> None:
    for _ in range(3):
        assert (await client.book(reference, "cust_carrier_fails", key=f"book:{reference}"))[0] == 500
    assert await shipment_of(client, reference) is None
    assert (await client.ask("/carrier/cancellations", reference))[0] == 201


async def test_a_flaky_depot_fails_twice_at_each_operation(client: Client, reference: str) -> None:
    statuses = [
        (await client.book(reference, "cust_carrier_flaky", key=f"book:{reference}"))[0] for _ in range(3)
    ]
    assert statuses == [503, 503, 201]
    statuses = [
        (await client.ask("/carrier/dispatches", reference, key=f"dispatch:{reference}"))[0] for _ in range(3)
    ]
    assert statuses == [503, 503, 201]


async def test_a_depot_may_lose_its_answer(client: Client, reference: str) -> None:
    with pytest.raises(ServerDisconnectedError):
        await client.book(reference, "cust_carrier_lost", key=f"book:{reference}")
    status, looked_up = await client.get(f"/carrier/operations/book:{reference}")
    assert (status, looked_up["http_status"]) == (200, 201)
    again = await client.book(reference, "cust_carrier_lost", key=f"book:{reference}")
    assert again == (201, looked_up["answer"])


async def test_the_directory_says_the_same_every_time(client: Client) -> None:
    status, one = await client.get("/directory/customers/cust_7")
    assert (status, one) == await client.get("/directory/customers/cust_7")
    assert sorted(one) == ["address", "apprise_url", "device", "email", "name"]
    assert sorted(one["address"]) == ["city", "country", "postcode", "street"]
    assert one["device"] is not None
    assert one["apprise_url"].endswith(f"/push/apprise?:device={one['device']}")
    assert one != (await client.get("/directory/customers/cust_8"))[1]


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_the_directory_takes_its_token(client: Client, token: str | None) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with client.session.get("/directory/customers/cust_7", headers=headers) as response:
        assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")


async def test_some_customers_are_special(client: Client) -> None:
    _, reached_by_mail = await client.get("/directory/customers/cust_no_push_1")
    assert (reached_by_mail["device"], reached_by_mail["apprise_url"]) == (None, None)
    assert (await client.get("/directory/customers/cust_mail_bounces"))[1]["email"].startswith("bounces.")
    for nobody in ("cust_unknown", "cust_unknown_3", "somebody", "cust_" + "x" * 200):
        status, problem = await client.get(f"/directory/customers/{nobody}")
        assert (status, problem["title"]) == (404, "Unknown customer")


async def test_no_token_reaches_the_carrier(client: Client) -> None:
    for customer in ("cust_refused_1", "cust_carrier_lost_1", "cust_carrier_slow"):
        _, known = await client.get(f"/directory/customers/{customer}")
        assert "cust_" not in str(known)
