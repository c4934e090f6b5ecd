"""`python -m compose.sandbox`: run the outside world until SIGTERM or SIGINT."""

import asyncio
import logging
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from compose.sandbox.app import Sandbox, SandboxSettings
from events.runtime.process import collect_garbage_rarely
from events.runtime.settings import read_settings
from events.telemetry.log import configure_logging, log
from events.telemetry.metrics import say_what_runs


class AbortableHttp(HttpToolsProtocol):
    """uvicorn's protocol, which also lets the application drop the connection instead of answering."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Hand the transport to the requests of this connection, as `scope["state"]["transport"]`."""
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, "transport": transport}


class Server(uvicorn.Server):
    """uvicorn's server, which takes SIGTERM as a wish and not as a failure: the exit code is 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully on a signal; on a second SIGINT at once."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


async def run(settings: SandboxSettings) -> None:
    """Serve until asked to stop. Raises sqlite3.OperationalError or OSError when it cannot begin."""
    sandbox = Sandbox(settings)
    await sandbox.mail_server.listen(settings.http_host, settings.smtp_port)
    config = uvicorn.Config(
        sandbox.app(),
        host=settings.http_host,
        port=settings.http_port,
        http=AbortableHttp,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=settings.sandbox_connection_limit,
        timeout_keep_alive=settings.sandbox_keep_alive_seconds,
        timeout_graceful_shutdown=settings.sandbox_stop_seconds,
    )
    collect_garbage_rarely()
    say_what_runs()
    log.info(
        "sandbox_opens",
        http=f"http://{settings.http_host}:{settings.http_port}",
        smtp=f"smtp://{settings.http_host}:{settings.smtp_port}",
        ledger=str(settings.sandbox_ledger),
    )
    await Server(config).serve()
    log.info("sandbox_closed")


def main() -> int:
    """Returns the exit code: 0 after a graceful stop, 2 when the ledger or a port cannot be had."""
    settings = read_settings(SandboxSettings)
    configure_logging("sandbox", settings.log_format, settings.log_level)
    # aiosmtpd's, which repeats every address.
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    try:
        uvloop.run(run(settings))
    except sqlite3.OperationalError as error:
        log.error("ledger_unusable", ledger=str(settings.sandbox_ledger), error=str(error))
        return 2
    except OSError as error:
        log.error("port_unusable", smtp_port=settings.smtp_port, error=str(error))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
