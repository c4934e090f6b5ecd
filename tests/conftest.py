"""What any test may ask for."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import structlog

from tests.servers import Servers, running_servers
from tests.tools import require, summary

CANCEL_AGAIN_AFTER_SECONDS = 0.2
CANCEL_FOR_SECONDS = 10.0


def pytest_configure(config: pytest.Config) -> None:
    # A shell has what it starts in the background ignore Ctrl-C, and so would all that a test starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "alone: run afterwards, with all of the machine for itself")
    config.addinivalue_line("markers", "needs(*tools): skipped where one of these tools cannot be used")
    # A rich traceback draws all variables of every frame: minutes, where they hold a whole application.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: a system need not start for a test that is skipped."""
    for mark in item.iter_markers("needs"):
        require(*mark.args)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was skipped for want of a tool, and how to get it: a line a tool."""
    skipped = (report.longrepr for report in terminalreporter.getreports("skipped"))
    reasons = (why[2].removeprefix("Skipped: ") for why in skipped if isinstance(why, tuple))
    for line in summary(reasons):
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """A RabbitMQ and a PostgreSQL for this session; see `new_vhost` and `new_database`."""
    with running_servers() as servers:
        yield servers


@pytest_asyncio.fixture(scope="session", loop_scope="session", autouse=True)
async def no_task_outlives_the_session() -> AsyncIterator[None]:
    """Cancel what is left at the end, more than once where it takes that.

    A connection of aio-pika that is just reconnecting takes a cancellation for a failed attempt and goes on.
    The loop cancels once when it closes, and would wait for such a task for ever.
    """
    yield
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CANCEL_FOR_SECONDS
    while (left := asyncio.all_tasks() - {asyncio.current_task()}) and loop.time() < deadline:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_AGAIN_AFTER_SECONDS)
    assert not left, f"these tasks do not end: {left}"
