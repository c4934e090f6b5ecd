"""What drills do to the servers without killing them, looked at from outside."""

import psycopg
import pytest

from compose.drills.rig import DrillRig
from compose.drills.stage import alarmed, read_only

ALARMS = "rabbit_alarm:get_alarms()."
LIMIT = "vm_memory_monitor:get_vm_memory_high_watermark()."


async def look_at_both(rig: DrillRig) -> None:
    """The alarm is set inside, and the configured limit back afterwards; read-only is as suddenly over."""
    limit = await rig.broker_control("eval", LIMIT)
    async with alarmed(rig):
        assert "memory" in await rig.broker_control("eval", ALARMS)
        assert await rig.broker_control("eval", LIMIT) != limit
    assert "memory" not in await rig.broker_control("eval", ALARMS)
    assert await rig.broker_control("eval", LIMIT) == limit
    async with read_only(rig):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await _change_something(rig)
    await _change_something(rig)


async def _change_something(rig: DrillRig) -> None:
    url = rig.where.database_url("order")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS drilled (n int)")
