"""What any test may ask for."""

from collections.abc import Iterator

import pytest

from tests.servers import Servers, running_servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """A RabbitMQ and a PostgreSQL for this session; see `new_vhost` and `new_database`."""
    with running_servers() as servers:
        yield servers
