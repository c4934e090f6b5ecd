from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import ClientSession, ClientTimeout

from tests.sandbox_process import ADMIN_TOKEN, DIRECTORY_TOKEN, SandboxProcess, new_sandbox


@dataclass
class Client:
    """What a test says to the sandbox; every answer is (status, body)."""

    session: ClientSession

    async def post(self, path: str, body: object, key: str | None = None) -> tuple[int, Any]:
        headers = {"Idempotency-Key": key or str(uuid4())}
        async with self.session.post(path, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def get(self, path: str) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {DIRECTORY_TOKEN}"} if path.startswith("/directory") else {}
        async with self.session.get(path, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def faults(self, **rule: object) -> int:
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        async with self.session.put("/faults", json=rule, headers=headers) as response:
            return response.status

    async def behave(self) -> None:
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        async with self.session.delete("/faults", headers=headers) as response:
            assert response.status == 204

    async def authorise(
        self, reference: str, token: str = "tok_ok", key: str | None = None, amount_minor: int = 1250
    ) -> tuple[int, Any]:
        body = {
            "reference": reference,
            "amount_minor": amount_minor,
            "currency": "EUR",
            "payment_token": token,
        }
        return await self.post("/provider/authorisations", body, key)

    async def ask(self, operation: str, reference: str, key: str | None = None) -> tuple[int, Any]:
        return await self.post(operation, {"reference": reference}, key)

    async def book(self, reference: str, customer: str = "cust_1", key: str | None = None) -> tuple[int, Any]:
        _, known = await self.get(f"/directory/customers/{customer}")
        body = {
            "reference": reference,
            "recipient": known["name"],
            "address": known["address"],
            "lines": [{"sku": "kettle", "quantity": 1}],
        }
        return await self.post("/carrier/shipments", body, key)

    async def ledger_of(self, reference: str) -> list[str]:
        """The kinds of the ledger entries of a reference."""
        return [entry["kind"] for entry in await self.entries_of(reference)]

    async def entries_of(self, reference: str) -> list[dict[str, Any]]:
        """The ledger entries of a reference, read page by page."""
        found: list[dict[str, Any]] = []
        after: int | None = 0
        while after is not None:
            _, page = await self.get(f"/provider/ledger?after={after}&limit=1000")
            found += [entry for entry in page["entries"] if entry["reference"] == reference]
            after = page["next_after"]
        return found


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    process = new_sandbox(tmp_path_factory.mktemp("sandbox")).start()
    yield process
    assert process.stop() == 0


@pytest.fixture
async def client(sandbox: SandboxProcess) -> AsyncIterator[Client]:
    async with ClientSession(sandbox.url, timeout=ClientTimeout(total=10)) as session:
        yield Client(session)


@pytest.fixture
def reference() -> str:
    return str(uuid4())
