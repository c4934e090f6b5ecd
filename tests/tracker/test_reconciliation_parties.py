"""Who does not answer in time, or says nothing that makes sense, has not answered; and is said not to."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest

from compose.local.ports import free_port
from compose.system import SERVICE_NAMES
from saga_tracker.reconciliation.parties import MAX_ANSWER_BYTES, NoAnswer, Parties
from saga_tracker.settings import TrackerSettings
from tests.tracker.others import Others, others_answering

ORDERS = [uuid4(), uuid4()]
TIMEOUT_SECONDS = 1.0


@pytest.fixture
def others() -> Iterator[Others]:
    with others_answering() as others:
        others.completed(*ORDERS)
        yield others


def parties_of(others: Others, *, payment_url: str | None = None) -> Parties:
    elsewhere = {"broker_url": "", "database_url": "", "http_port": 0}
    settings = {**elsewhere, **others.settings(), "reconciliation_timeout_seconds": TIMEOUT_SECONDS}
    if payment_url is not None:
        settings["service_urls"] = {**settings["service_urls"], "payment": payment_url}
    return Parties(TrackerSettings(**settings))


def why_not(parties: Parties, party: str) -> str:
    return next(status.why_not or "" for status in parties.statuses if status.party == party)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (b"<html>", "nothing of the kind"),
        (b'{"states": 7}', "nothing of the kind"),
        (b'{"states": {"17": {"status": "sold"}}}', "nothing of the kind"),
        (b" " * (MAX_ANSWER_BYTES + 1), "more than"),
    ],
    ids=["no JSON", "another shape", "no order", "too much"],
)
async def test_nonsense_is_no_answer(others: Others, reply: bytes, why: str) -> None:
    others.replies["inventory"] = reply
    async with parties_of(others) as parties:
        answers = await parties.states_of(ORDERS)
        assert set(answers) == set(SERVICE_NAMES) - {"inventory"}
        assert why in why_not(parties, "inventory")
        others.replies.clear()
        assert set(await parties.states_of(ORDERS)) == set(SERVICE_NAMES) - {"inventory"}
        parties.wake()
        assert set(await parties.states_of(ORDERS)) == set(SERVICE_NAMES)
        assert not why_not(parties, "inventory")


@pytest.mark.parametrize(
    "entry",
    [
        {"id": -1},
        {"amount_minor": -1},
        {"amount_minor": 2**63},
        {"kind": "cap\0tured"},
        {"reference": "r" * 1_000},
    ],
    ids=str,
)
async def test_a_ledger_that_cannot_be_kept_is_not_read(others: Others, entry: dict[str, Any]) -> None:
    others.entries[0] |= entry
    async with parties_of(others) as parties:
        with pytest.raises(NoAnswer, match="nothing of the kind"):
            await parties.ledger_page(-2, 10)
        assert why_not(parties, "provider")


async def test_nobody_at_an_address_does_not_answer(others: Others) -> None:
    async with parties_of(others, payment_url=f"http://127.0.0.1:{free_port()}") as parties:
        assert "payment" not in await parties.states_of(ORDERS)
        assert "Cannot connect" in why_not(parties, "payment")


@pytest.fixture
async def mute() -> AsyncIterator[tuple[str, list[object]]]:
    """The URL of a server that takes every connection and never says a word, and the connections."""
    taken: list[object] = []

    async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(writer)
        try:
            await asyncio.Event().wait()
        finally:
            writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}", taken


async def test_one_that_hangs_is_waited_for_once_in_a_round(
    others: Others, mute: tuple[str, list[object]]
) -> None:
    url, taken = mute
    async with parties_of(others, payment_url=url) as parties:
        for _ in range(10):
            assert set(await parties.states_of(ORDERS)) == set(SERVICE_NAMES) - {"payment"}
        assert len(taken) == 1
        assert "in time" in why_not(parties, "payment")
