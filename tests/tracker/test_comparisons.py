"""As many orders are taken to be compared as are asked for, whatever plan PostgreSQL makes of it."""

import psycopg
import pytest
from psycopg.rows import dict_row

from saga_tracker.reconciliation import comparisons
from tests.servers import Servers

WAITING, LIMIT = 400, 15
PLANS: dict[str, tuple[str, ...]] = {
    "as it likes": (),
    "no hashes": ("hashagg", "hashjoin"),
    # What is selected within another statement is then selected once for every row of it.
    "nested loops": ("hashagg", "hashjoin", "mergejoin", "sort", "material"),
}


@pytest.mark.parametrize("without", PLANS.values(), ids=PLANS.keys())
async def test_no_more_are_taken_than_asked_for(servers: Servers, without: tuple[str, ...]) -> None:
    url = await servers.new_database("saga_tracker")
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
        await connection.execute(
            "INSERT INTO comparisons SELECT gen_random_uuid(), now() - interval '1 hour'"
            " FROM generate_series(1, %s)",
            [WAITING],
        )
        await connection.execute("ANALYZE comparisons")
        await connection.commit()
        for way in without:
            await connection.execute(f"SET enable_{way} = off".encode())
        taken = await comparisons.take(connection, 0, 10, LIMIT)
        assert taken is not None
        assert len(taken.order_ids) == LIMIT
        await comparisons.hurry(connection, LIMIT, LIMIT)
        hurried = await connection.execute(
            "SELECT count(*) AS rows FROM comparisons WHERE waiting_since = '-infinity'"
        )
        assert await hurried.fetchone() == {"rows": LIMIT}
