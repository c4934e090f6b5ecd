"""Bad requests, faults on purpose, bounds, restarts: the sandbox as a process."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
from aiohttp import ClientConnectionError, ClientSession
from yarl import URL

from tests.sandbox.conftest import Client
from tests.sandbox_process import SandboxProcess, new_sandbox

REFUND = {"reference": "r-1"}


@pytest.fixture
def own_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    """One to restart, kill and starve; not started yet."""
    sandbox = new_sandbox(tmp_path_factory.mktemp("own"))
    yield sandbox
    if sandbox.process is not None and sandbox.process.poll() is None:
        sandbox.stop(signal.SIGKILL)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{", 400, "malformed-json"),
        (b"", 400, "malformed-json"),
        (b"[]", 422, "invalid-body"),
        (b"{}", 422, "invalid-body"),
        (b'{"reference": 7}', 422, "invalid-body"),
        (b'{"reference": ""}', 422, "invalid-body"),
        (b'{"reference": "r", "amount": 1}', 422, "invalid-body"),
        (b'{"reference": "r", "reference": "s"}', 400, "malformed-json"),
        (b'{"reference": "r\\u0000"}', 400, "malformed-json"),
        (b'{"reference": "' + b"r" * 70_000 + b'"}', 413, "body-too-large"),
    ],
)
async def test_a_bad_body_is_a_problem_of_its_own(
    client: Client, body: bytes, status: int, kind: str
) -> None:
    headers = {"Idempotency-Key": str(uuid4()), "Content-Type": "application/json"}
    async with client.session.post("/provider/captures", data=body, headers=headers) as response:
        problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["status"]) == (status, status)
        assert problem["type"] == f"urn:murmuration:problem:{kind}"
        assert problem["title"]
        assert problem["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount_minor", -1),
        ("amount_minor", 12.5),
        ("amount_minor", "12"),
        ("amount_minor", True),
        ("amount_minor", 10**30),
        ("currency", "euro"),
        ("currency", "EUX"),
        ("currency", "XAU"),
        ("payment_token", None),
    ],
)
async def test_money_is_integers_and_currencies_are_codes(
    client: Client, reference: str, field: str, value: object
) -> None:
    body = {"reference": reference, "amount_minor": 1, "currency": "EUR", "payment_token": "tok_ok"}
    status, problem = await client.post("/provider/authorisations", {**body, field: value})
    assert (status, problem["errors"][0]["field"]) == (422, field)


async def test_a_body_of_another_type_is_not_read(client: Client) -> None:
    headers = {"Idempotency-Key": str(uuid4()), "Content-Type": "text/plain"}
    body = b'{"reference": "r"}'
    async with client.session.post("/provider/captures", data=body, headers=headers) as response:
        problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["status"]) == (415, 415)


async def test_the_character_that_nothing_can_keep_is_refused(client: Client) -> None:
    async with client.session.get(URL("/directory/customers/a%00", encoded=True)) as response:
        problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["status"]) == (422, 422)


@pytest.mark.parametrize("key", [None, "", "k" * 256])
async def test_a_post_needs_an_idempotency_key(client: Client, key: str | None) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    for path in ("/provider/captures", "/carrier/dispatches", "/push/messages"):
        async with client.session.post(path, json=REFUND, headers=headers) as response:
            problem = await response.json(content_type="application/problem+json")
            assert (response.status, problem["title"]) == (400, "Idempotency-Key is missing")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("/provider/captures", 405),
        ("/provider/ledger?limit=1001", 422),
        ("/provider/ledger?after=-1", 422),
        ("/provider/ledger?after=99999999999999999999", 422),
        ("/mail/messages?before=x", 422),
    ],
)
async def test_bad_paths_and_parameters_are_problems(client: Client, path: str, status: int) -> None:
    async with client.session.get(path) as response:
        problem = await response.json(content_type="application/problem+json")
        assert (response.status, problem["status"]) == (status, status)


async def test_it_says_that_it_is_alive_and_ready(client: Client) -> None:
    assert await client.get("/healthz") == (200, {"status": "alive"})
    assert await client.get("/readyz") == (200, {"status": "ready"})


async def test_faults_need_the_admin_token(client: Client, own_sandbox: SandboxProcess) -> None:
    for headers in ({}, {"Authorization": "Bearer guess"}, {"Authorization": "Bearer gu\xe9ss"}):
        async with client.session.put("/faults", json={}, headers=headers) as response:
            assert response.status == 401
        async with client.session.delete("/faults", headers=headers) as response:
            assert response.status == 401
    own_sandbox.start(ADMIN_TOKEN="")
    async with ClientSession(own_sandbox.url) as session:
        assert await Client(session).faults(target="all") == 403


async def test_a_bad_fault_rule_is_refused(client: Client) -> None:
    assert await client.faults(target="weather") == 422
    assert await client.faults(fail_rate=2) == 422
    assert await client.faults(latency_seconds=3600) == 422


async def test_a_failing_party_does_nothing_and_others_go_on(client: Client, reference: str) -> None:
    assert await client.faults(target="provider", fail_rate=1) == 200
    try:
        assert (await client.authorise(reference))[0] == 503
        assert (await client.get(f"/provider/operations/{reference}"))[0] == 503
        assert (await client.book(reference))[0] == 201
        assert await client.ledger_of(reference) == []
        assert (await client.get("/faults"))[1]["faults"]["provider"]["fail_rate"] == 1
    finally:
        await client.behave()
    assert (await client.authorise(reference))[0] == 201
    assert (await client.get("/faults"))[1] == {"faults": {}}


async def test_a_party_that_loses_answers_has_done_the_work(client: Client, reference: str) -> None:
    await client.faults(target="all", lose_answer_rate=1)
    try:
        with pytest.raises(ClientConnectionError):
            await client.authorise(reference, key=f"authorise:{reference}")
        assert (await client.get(f"/provider/operations/authorise:{reference}"))[0] == 200
    finally:
        await client.behave()
    assert await client.ledger_of(reference) == ["authorised"]


async def test_latency_and_a_seed_that_repeats_a_drill(client: Client, reference: str) -> None:
    drawn = []
    for drill in range(2):
        await client.faults(target="provider", fail_rate=0.5, seed=7)
        drawn.append([(await client.authorise(f"{reference}-{drill}-{n}"))[0] for n in range(20)])
    await client.faults(target="provider", latency_seconds=0.2)
    began = time.monotonic()
    assert (await client.authorise(reference))[0] == 201
    assert time.monotonic() - began >= 0.2
    await client.behave()
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {201, 503}


async def test_slow_answers_in_waiting_are_bounded(own_sandbox: SandboxProcess, reference: str) -> None:
    own_sandbox.start(SANDBOX_SLOW_LIMIT="2")
    async with ClientSession(own_sandbox.url) as session:
        client = Client(session)
        answers = await asyncio.gather(*[client.authorise(f"{reference}-{n}", "tok_slow") for n in range(5)])
        assert sorted(status for status, _ in answers) == [201, 201, 503, 503, 503]


async def test_what_was_answered_survives_a_kill(own_sandbox: SandboxProcess, reference: str) -> None:
    own_sandbox.start()
    async with ClientSession(own_sandbox.url) as session:
        client = Client(session)
        answers = await asyncio.gather(
            *[client.authorise(f"{reference}-{n}", key=f"authorise:{n}") for n in range(50)],
            client.authorise("flaky", "tok_flaky", key="authorise:flaky"),
        )
        assert own_sandbox.stop(signal.SIGKILL) == -signal.SIGKILL
    own_sandbox.start()
    async with ClientSession(own_sandbox.url) as session:
        client = Client(session)
        again = await asyncio.gather(
            *[client.authorise(f"{reference}-{n}", key=f"authorise:{n}") for n in range(50)]
        )
        assert again == answers[:50]
        assert [await client.ledger_of(f"{reference}-{n}") for n in range(50)] == [["authorised"]] * 50
        statuses = [
            (await client.authorise("flaky", "tok_flaky", key="authorise:flaky"))[0] for _ in range(2)
        ]
        assert statuses == [503, 201]


async def test_it_stops_with_answers_on_the_way(own_sandbox: SandboxProcess, reference: str) -> None:
    own_sandbox.start()
    async with ClientSession(own_sandbox.url) as session:
        client = Client(session)
        late = asyncio.create_task(client.authorise(reference, "tok_slow", key="k"))
        while (await client.get("/provider/operations/k"))[0] == 404:
            pass
        assert own_sandbox.process is not None
        own_sandbox.process.send_signal(signal.SIGTERM)
        assert (await late)[0] == 201
    assert await asyncio.to_thread(own_sandbox.process.wait, 10) == 0


async def test_a_second_sandbox_cannot_have_the_same_ledger(own_sandbox: SandboxProcess) -> None:
    own_sandbox.start()
    second = new_sandbox(own_sandbox.ledger.parent)
    with pytest.raises(RuntimeError, match="ended with 2"):
        second.start()


def test_wrong_settings_are_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "compose.sandbox"],
        env={"MURMURATION_SMTP_PORT": "none", "PYTHONPATH": "."},
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert b"MURMURATION_SMTP_PORT" in done.stderr
