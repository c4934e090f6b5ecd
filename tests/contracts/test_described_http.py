"""What a running process answers is what its OpenAPI document says, whatever it is asked: by schemathesis."""

import asyncio
import os
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import ClientError, ClientSession

from compose.local.components import READY_TIMEOUT_SECONDS
from compose.local.ports import free_port
from compose.local.provision import SANDBOX
from compose.system import PROCESSES, SERVICES
from events.http.tokens import named
from events.messaging.topology import declare
from events.runtime.settings import ENV_PREFIX
from tests.runtime.eventually import eventually
from tests.servers import Servers

TOKEN = "the-admins"
STOP_SECONDS = 40
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
# What all services have is the same code: one is asked for it.
COMMON, ASKED_FOR_IT = "^/(states|healthz|readyz|asyncapi)", "notification"
OUTSIDE = {
    "PROVIDER_URL": "http://127.0.0.1:1/provider",
    "CARRIER_URL": "http://127.0.0.1:1/carrier",
    "DIRECTORY_URL": "http://127.0.0.1:1/directory",
    "PUSH_URL": "http://127.0.0.1:1/push",
    "SMTP_URL": "smtp://127.0.0.1:1",
}
DESCRIBED = [spec.name for spec in PROCESSES if spec.name != SANDBOX]
ORDER = {
    "customer": "cust_ada",
    "currency": "EUR",
    "payment_token": "tok_ok",
    "lines": [{"sku": "apple", "quantity": 1, "amount_minor": 2_000_000}],
}


@pytest.fixture(scope="module")
async def urls(
    servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mapping[str, str]]:
    """Every process that has a document, running, with an order that waits for a person."""
    logs, broker_url = tmp_path_factory.mktemp("logs"), servers.new_vhost()
    await declare(SERVICES, broker_url)
    running: dict[str, Process] = {}
    found: dict[str, str] = {}
    ports: set[int] = set()
    try:
        for spec in PROCESSES:
            if spec.name == SANDBOX:
                continue
            ports.add(port := free_port(taken=ports))
            database_url = await servers.new_database(spec.package)
            given = {"BROKER_URL": broker_url, "DATABASE_URL": database_url, "HTTP_PORT": str(port)}
            running[spec.name] = await _started(spec.package, given, logs / spec.name)
            found[spec.name] = f"http://127.0.0.1:{port}"
        for name, url in found.items():
            ready = partial(_is_ready, url, running[name], logs / name)
            await eventually(ready, within_seconds=READY_TIMEOUT_SECONDS)
        await _hold_an_order(found)
        yield found
    finally:
        for process in running.values():
            with suppress(ProcessLookupError):
                process.terminate()
        async with asyncio.timeout(STOP_SECONDS):
            await asyncio.gather(*(process.wait() for process in running.values()))


async def _started(package: str, given: Mapping[str, str], log: Path) -> Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    tokens = str(named("grace", "admin", TOKEN))
    variables = {**OUTSIDE, **given, "TOKENS": tokens, "AUTH": "required", "ORDERS": "clients"}
    environment |= {ENV_PREFIX + name: value for name, value in variables.items()}
    with log.open("wb") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", package), env=environment, stdout=output, stderr=subprocess.STDOUT
        )


async def _is_ready(url: str, process: Process, log: Path) -> bool:
    assert process.returncode is None, f"it ended with {process.returncode}: {log}"
    try:
        async with ClientSession() as http, http.get(f"{url}/readyz") as answer:
            return answer.status == 200
    except ClientError:
        return False


async def _hold_an_order(urls: Mapping[str, str]) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": str(uuid4())}
    async with ClientSession(headers=headers) as http:
        async with http.put(f"{urls['inventory']}/stock/apple", json={"stocked": 5}) as answer:
            assert answer.status == 200
        async with http.post(f"{urls['order']}/orders", json=ORDER) as answer:
            assert answer.status == 202

        async def waits() -> bool:
            async with http.get(f"{urls['tracker']}/sagas?state=AWAITING_APPROVAL") as answer:
                return len((await answer.json())["sagas"]) == 1

        await eventually(waits, within_seconds=READY_TIMEOUT_SECONDS)


@pytest.mark.parametrize("name", DESCRIBED)
async def test_it_answers_as_its_document_says(urls: Mapping[str, str], name: str, tmp_path: Path) -> None:
    """With the token. That nobody gets in without it, tests/contracts/test_closed_doors.py says."""
    command = Path(sys.executable).with_name("schemathesis")
    process = await asyncio.create_subprocess_exec(
        *(command, "--config-file", CONFIGURATION, "run", f"{urls[name]}/openapi.json"),
        *("--header", f"Authorization: Bearer {TOKEN}"),
        *([] if name == ASKED_FOR_IT else ["--exclude-path-regex", COMMON]),
        cwd=tmp_path,
        stdout=PIPE,
        stderr=STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
