"""What a payment provider promises, asked of a real sandbox process."""

import asyncio
import time
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import ServerDisconnectedError

from tests.sandbox.conftest import Client
from tests.sandbox_process import SLOW_SECONDS

AUTHORISE, CAPTURE, VOID, REFUND, CREDIT = (
    "authorisations",
    "captures",
    "voids",
    "refunds",
    "credit-notes",
)

# From each state, what each operation is answered: status and reason, None for a success.
LIFE: dict[tuple[str, ...], dict[str, tuple[int, str | None]]] = {
    (): {
        AUTHORISE: (201, None),
        CAPTURE: (409, "not_authorised"),
        VOID: (201, None),
        REFUND: (409, "not_captured"),
        CREDIT: (409, "not_captured"),
    },
    (AUTHORISE,): {
        AUTHORISE: (409, "already_authorised"),
        CAPTURE: (201, None),
        VOID: (201, None),
        REFUND: (409, "not_captured"),
        CREDIT: (409, "not_captured"),
    },
    (AUTHORISE, CAPTURE): {
        AUTHORISE: (409, "already_authorised"),
        CAPTURE: (409, "already_captured"),
        VOID: (409, "captured"),
        REFUND: (201, None),
        CREDIT: (201, None),
    },
    (AUTHORISE, VOID): {
        AUTHORISE: (402, "reference_closed"),
        CAPTURE: (409, "voided"),
        VOID: (201, None),
        REFUND: (409, "not_captured"),
        CREDIT: (409, "not_captured"),
    },
    (VOID,): {
        AUTHORISE: (402, "reference_closed"),
        CAPTURE: (409, "voided"),
        VOID: (201, None),
        REFUND: (409, "not_captured"),
        CREDIT: (409, "not_captured"),
    },
    (AUTHORISE, CAPTURE, REFUND): {
        AUTHORISE: (409, "already_authorised"),
        CAPTURE: (409, "already_captured"),
        VOID: (409, "already_refunded"),
        REFUND: (409, "already_refunded"),
        CREDIT: (409, "already_refunded"),
    },
    (AUTHORISE, CAPTURE, CREDIT): {
        AUTHORISE: (409, "already_authorised"),
        CAPTURE: (409, "already_captured"),
        VOID: (409, "already_credited"),
        REFUND: (409, "already_credited"),
        CREDIT: (409, "already_credited"),
    },
}
MOVEMENTS = {
    AUTHORISE: "authorised",
    CAPTURE: "captured",
    VOID: "voided",
    REFUND: "refunded",
    CREDIT: "credited",
}


async def do(client: Client, operation: str, reference: str) -> tuple[int, Any]:
    if operation == AUTHORISE:
        return await client.authorise(reference)
    return await client.ask(f"/provider/{operation}", reference)


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
        moved = [*past, operation] if status == 201 else [*past]
        expected = [MOVEMENTS[step] for step in moved]
        if past == (VOID,) or moved == [VOID]:
            expected = []  # nothing was authorised: no money moved
        if past == (AUTHORISE, VOID):
            expected = ["authorised", "voided"]
        assert await client.ledger_of(reference_here) == expected, operation


async def test_a_success_names_what_was_done(client: Client, reference: str) -> None:
    _, authorised = await client.authorise(reference)
    assert authorised["status"] == "authorised"
    assert authorised["authorisation_id"].startswith("auth_")
    _, captured = await client.ask("/provider/captures", reference)
    assert captured["status"] == "captured"
    assert captured["capture_id"].startswith("cap_")
    _, refunded = await client.ask("/provider/refunds", reference)
    assert refunded["status"] == "refunded"
    assert refunded["refund_id"].startswith("ref_")


async def test_the_ledger_pages_in_order_and_carries_amounts(client: Client, reference: str) -> None:
    for number in range(3):
        await client.authorise(f"{reference}-{number}", amount_minor=100 + number)
    found: list[dict[str, Any]] = []
    after: int | None = 0
    pages = 0
    while after is not None:
        _, page = await client.get(f"/provider/ledger?after={after}&limit=2")
        assert len(page["entries"]) <= 2
        found += page["entries"]
        after, pages = page["next_after"], pages + 1
    assert pages > 1
    assert all(one["id"] < two["id"] for one, two in pairwise(found))
    mine = [entry for entry in found if entry["reference"].startswith(reference)]
    assert [(entry["kind"], entry["amount_minor"], entry["currency"]) for entry in mine] == [
        ("authorised", 100 + number, "EUR") for number in range(3)
    ]
    assert all(entry["at"].endswith("+00:00") for entry in mine)


async def test_the_same_key_gives_the_recorded_answer_only(client: Client, reference: str) -> None:
    first = await client.authorise(reference, key=f"authorise:{reference}")
    again = await client.authorise(reference, key=f"authorise:{reference}")
    assert again == first
    assert await client.ledger_of(reference) == ["authorised"]
    declined = await client.authorise(f"{reference}-d", "tok_declined", key=f"authorise:{reference}-d")
    assert (
        await client.authorise(f"{reference}-d", "tok_declined", key=f"authorise:{reference}-d") == declined
    )


async def test_a_key_is_good_for_one_operation_and_one_body(client: Client, reference: str) -> None:
    key = f"key:{reference}"
    await client.authorise(reference, key=key)
    status, problem = await client.authorise(reference, key=key, amount_minor=99)
    assert (status, problem["type"]) == (422, "urn:murmuration:problem:idempotency-key-reused")
    status, problem = await client.ask("/provider/captures", reference, key=key)
    assert status == 422
    assert await client.ledger_of(reference) == ["authorised"]


async def test_one_key_many_times_at_once_counts_once(client: Client, reference: str) -> None:
    await client.authorise(reference)
    answers = await asyncio.gather(
        *[client.ask("/provider/captures", reference, key=f"capture:{reference}") for _ in range(20)]
    )
    assert {answer["capture_id"] for status, answer in answers if status == 201} == {
        answers[0][1]["capture_id"]
    }
    assert [status for status, _ in answers] == [201] * 20
    assert await client.ledger_of(reference) == ["authorised", "captured"]


async def test_many_keys_at_once_capture_once(client: Client, reference: str) -> None:
    await client.authorise(reference)
    answers = await asyncio.gather(*[client.ask("/provider/captures", reference) for _ in range(20)])
    assert sorted(status for status, _ in answers) == [201] + [409] * 19
    assert await client.ledger_of(reference) == ["authorised", "captured"]


async def test_capture_and_void_at_once_leave_one_of_them(client: Client, reference: str) -> None:
    for number in range(20):
        one = f"{reference}-{number}"
        await client.authorise(one)
        (captured, _), (voided, _) = await asyncio.gather(
            client.ask("/provider/captures", one), client.ask("/provider/voids", one)
        )
        assert sorted((captured, voided)) == [201, 409]
        assert len(await client.ledger_of(one)) == 2


@pytest.mark.parametrize(
    ("token", "reason"), [("tok_declined", "card_declined"), ("tok_misspelt", "unknown_token")]
)
async def test_a_declined_card_moves_nothing(client: Client, reference: str, token: str, reason: str) -> None:
    assert await client.authorise(reference, token) == (402, {"status": "declined", "reason": reason})
    assert await client.ledger_of(reference) == []


async def test_tok_slow_does_the_work_at_once_and_answers_late(client: Client, reference: str) -> None:
    began = time.monotonic()
    answer = asyncio.create_task(client.authorise(reference, "tok_slow", key=f"authorise:{reference}"))
    while True:
        status, looked_up = await client.get(f"/provider/operations/authorise:{reference}")
        if status == 200:
            break
    assert time.monotonic() - began < SLOW_SECONDS
    assert not answer.done()
    assert await answer == (looked_up["http_status"], looked_up["answer"])
    assert time.monotonic() - began >= SLOW_SECONDS


async def test_tok_fails_never_does_anything_and_can_be_closed(client: Client, reference: str) -> None:
    for _ in range(5):
        assert (await client.authorise(reference, "tok_fails", key=f"authorise:{reference}"))[0] == 500
    assert (await client.get(f"/provider/operations/authorise:{reference}"))[0] == 404
    assert (await client.ask("/provider/voids", reference))[0] == 201
    assert await client.ledger_of(reference) == []


async def test_tok_flaky_fails_twice_at_each_operation(client: Client, reference: str) -> None:
    statuses = [
        (await client.authorise(reference, "tok_flaky", key=f"authorise:{reference}"))[0] for _ in range(4)
    ]
    assert statuses == [503, 503, 201, 201]
    statuses = [
        (await client.ask("/provider/captures", reference, key=f"capture:{reference}"))[0] for _ in range(3)
    ]
    assert statuses == [503, 503, 201]
    assert await client.ledger_of(reference) == ["authorised", "captured"]


async def test_tok_lost_does_the_work_and_says_nothing_the_first_time(client: Client, reference: str) -> None:
    with pytest.raises(ServerDisconnectedError):
        await client.authorise(reference, "tok_lost", key=f"authorise:{reference}")
    assert await client.ledger_of(reference) == ["authorised"]
    with pytest.raises((ServerDisconnectedError, ConnectionResetError)):
        await client.ask("/provider/captures", reference, key=f"capture:{reference}")
    status, looked_up = await client.get(f"/provider/operations/capture:{reference}")
    assert (status, looked_up["http_status"], looked_up["answer"]["status"]) == (200, 201, "captured")
    again = await client.ask("/provider/captures", reference, key=f"capture:{reference}")
    assert again == (201, looked_up["answer"])
    assert await client.ledger_of(reference) == ["authorised", "captured"]


@pytest.mark.parametrize(
    ("token", "refund", "credit_note"),
    [
        ("tok_refund_refused", (409, "refund_refused"), (201, None)),
        ("tok_undo_refused", (409, "refund_refused"), (409, "credit_note_refused")),
    ],
)
async def test_the_way_back_may_be_refused(
    client: Client, reference: str, token: str, refund: tuple[int, str], credit_note: tuple[int, str | None]
) -> None:
    await client.authorise(reference, token)
    await client.ask("/provider/captures", reference)
    status, answer = await client.ask("/provider/refunds", reference)
    assert (status, answer.get("reason")) == refund
    status, answer = await client.ask("/provider/credit-notes", reference)
    assert (status, answer.get("reason")) == credit_note


async def test_an_unknown_key_is_404(client: Client) -> None:
    status, problem = await client.get("/provider/operations/never:seen")
    assert (status, problem["status"]) == (404, 404)
