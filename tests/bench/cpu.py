"""How much of the processors each part of the system uses: read from Linux's /proc, before and after."""

import os
from collections.abc import Iterable, Mapping

from compose.local.process_table import family, identify, stat_fields
from compose.local.rig import ComponentStatus

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
# Of /proc/PID/stat, counted from what follows the name: user and system time, then those of ended children.
_OWN, _OF_CHILDREN = slice(11, 13), slice(13, 15)


def cpu_seconds(components: Iterable[ComponentStatus]) -> dict[str, float]:
    """What each has used since it started, its living and its ended children included."""
    return {each.name: _of_family(each.pid) for each in components if each.pid is not None}


def cpu_ms_each(before: Mapping[str, float], after: Mapping[str, float], orders: int) -> dict[str, float]:
    """Milliseconds of processor time for one order, by part, the greediest first."""
    spent = {name: (seconds - before.get(name, 0.0)) * 1_000 / orders for name, seconds in after.items()}
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def _of_family(pid: int) -> float:
    root = identify(pid)
    members = family(root) if root is not None else []
    own = sum(_ticks(member.pid, _OWN) for member in members)
    return (own + _ticks(pid, _OF_CHILDREN)) * _TICK_SECONDS


def _ticks(pid: int, which: slice) -> int:
    """None for one that has just ended."""
    return sum(map(int, (stat_fields(pid) or ["0"] * _OF_CHILDREN.stop)[which]))
