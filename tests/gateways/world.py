"""What the gateway tests share: settings for a sandbox, and the runtime's way of attempting a call."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any, TypeVar

import aio_pika

from events.decision import Call, Outcome
from events.messaging.topology import declare
from events.outbound.circuit import CircuitBreaker
from events.outbound.dispatcher import CallFailed, Gateway
from events.runtime.definition import ServiceDefinition
from events.runtime.service_runtime import ServiceRuntime
from events.runtime.settings import ServiceSettings
from events.service import EXCHANGE
from notification_svc.mail import SmtpMailServer
from tests.sandbox_process import DIRECTORY_TOKEN, SandboxProcess
from tests.servers import Servers

# Shorter than the sandbox is slow, longer than it ever needs.
CALL_TIMEOUT_SECONDS = 0.8

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def settings_for(kind: type[SettingsT], sandbox: SandboxProcess | None, **more: Any) -> SettingsT:
    """The settings of a service whose outside world is this sandbox."""
    values: dict[str, Any] = {
        "broker_url": "amqp://none",
        "database_url": "postgresql://none",
        "http_port": 1,
        "call_timeout_seconds": CALL_TIMEOUT_SECONDS,
        **more,
    }
    if sandbox is not None:
        values |= {
            f"{party}_url": f"{sandbox.url}/{party}" for party in ("provider", "carrier", "directory", "push")
        }
        values["smtp_url"] = sandbox.smtp_url
        values["directory_token"] = DIRECTORY_TOKEN
    return kind(**{name: value for name, value in (values | more).items() if name in kind.model_fields})


@asynccontextmanager
async def running(
    service: ServiceDefinition,
    kind: type[ServiceSettings],
    servers: Servers,
    sandbox: SandboxProcess,
    **changes: Any,
) -> AsyncIterator[tuple[aio_pika.abc.AbstractExchange, str]]:
    """Inside, the service runs, on servers of its own: where to publish to, and the URL of its database."""
    broker_url = await asyncio.to_thread(servers.new_vhost)
    database_url = await servers.new_database(f"{service.name}_svc")
    await declare([service], broker_url)
    settings = settings_for(kind, sandbox, broker_url=broker_url, database_url=database_url, **changes)
    host = ServiceRuntime(service, settings)
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await aio_pika.connect(broker_url))
        channel = await connection.channel()
        await host.start()
        stack.push_async_callback(host.stop)
        yield await channel.get_exchange(EXCHANGE, ensure=False), database_url


async def carry_out(
    gateway: Gateway[Any], call: Call, *, attempts: int = 4
) -> tuple[Outcome | None, list[CallFailed]]:
    """Attempt a call as the runtime does: look up what may have been done, then try again.

    The outcome, None when every attempt failed; and the failures on the way.
    """
    failures: list[CallFailed] = []
    unknown = False
    for _ in range(attempts):
        try:
            if unknown:
                known = await gateway.look_up(call)
                if known is not None:
                    return known, failures
                unknown = False
            return await gateway.perform(call), failures
        except CallFailed as failure:
            failures.append(failure)
            unknown = unknown or failure.maybe_done
    return None, failures


def in_short(failures: list[CallFailed]) -> list[tuple[str, bool]]:
    """The failures as (reason, maybe_done)."""
    return [(failure.reason, failure.maybe_done) for failure in failures]


async def make_certificate(folder: Path) -> tuple[Path, SSLContext]:
    """A certificate for localhost that nobody trusts, and how a server shows it. Needs openssl."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    wanted = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *wanted]
    command += ["-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    tls = SSLContext(PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return certificate, tls


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def mail_server_that(
    talk: Talk, port: int, *, connections: int, **more: Any
) -> AsyncIterator[SmtpMailServer]:
    """The client of a mail server that talks like this, with `more` settings of its circuit."""
    listener = await asyncio.start_server(talk, "127.0.0.1", port)
    server = SmtpMailServer(
        f"smtp://127.0.0.1:{port}",
        CircuitBreaker("mail_server", settings_for(ServiceSettings, None, **more)),
        sender="shop@shop.example",
        connections=connections,
        timeout_seconds=0.5,
        idle_seconds=5,
    )
    try:
        yield server
    finally:
        await server.close()
        listener.close()
