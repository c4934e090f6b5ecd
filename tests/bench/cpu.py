"""How much of the processors and of the memory each part of the system uses.

Of the memory, Linux's /proc tells what psutil does not: peaks, and what is nobody else's.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil

from compose.local.components import NAME_SERVICE, POSTGRES
from compose.local.process_table import children_by_parent
from compose.local.rig import LocalRig

LOAD = "load"
"""The name of this very process among the parts."""
_RESET_PEAK = "5"


class Part(Protocol):
    """A server or process, if it runs."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int | None: ...


class Running(NamedTuple):
    """One that runs."""

    name: str
    pid: int | None


def running_parts(rig: LocalRig) -> list[Running]:
    """All that runs of a rig, and this process. Asks nobody, unlike the rig's `status`."""
    known = rig.addresses.state.processes
    parts = [
        Running(name, each.pid) for name, each in known.items() if name != NAME_SERVICE and each.is_running()
    ]
    return [*parts, Running(LOAD, os.getpid())]


def cpu_seconds(parts: Sequence[Part]) -> dict[str, float]:
    """What each has used since it started, its living and its ended children included."""
    members = _members(parts)
    return {
        each.name: sum(_seconds(pid) for pid in members[each.name])
        + (0 if each.name == LOAD else _seconds(each.pid, of_ended_children=True))
        for each in parts
        if each.pid is not None
    }


def cpu_ms_each(before: Mapping[str, float], after: Mapping[str, float], orders: int) -> dict[str, float]:
    """Milliseconds of processor time for one order, by part, the greediest first."""
    spent = {name: (seconds - before.get(name, 0.0)) * 1_000 / orders for name, seconds in after.items()}
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def forget_peaks(parts: Sequence[Part]) -> None:
    """Have `peak_megabytes` count from now on, where the kernel lets us."""
    for pid in (pid for pids in _members(parts).values() for pid in pids):
        try:
            Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
        except OSError:
            continue


def peak_megabytes(parts: Sequence[Part]) -> dict[str, float]:
    """The most memory that each had, its children included.

    PostgreSQL's processes share most of theirs, and each one's peak would count that again: of them, what
    they have now.
    """
    sources = {POSTGRES: ("smaps_rollup", "Pss")}
    return {
        name: sum(_kilobytes(pid, *sources.get(name, ("status", "VmHWM"))) for pid in pids) / 1_024
        for name, pids in _members(parts).items()
    }


def own_megabytes(parts: Sequence[Part]) -> dict[str, float]:
    """What memory each has now that is nobody else's and no file's: what would grow without end in a leak."""
    return {
        name: sum(_kilobytes(pid, "smaps_rollup", "Pss_Anon") for pid in pids) / 1_024
        for name, pids in _members(parts).items()
    }


def _members(parts: Sequence[Part]) -> dict[str, list[int]]:
    """The pids of each part that runs: its own and all its descendants'.

    This process is without its children, which are parts themselves. One look at all processes serves all:
    it takes as long as placing a hundred orders.
    """
    children = children_by_parent()
    found: dict[str, list[int]] = {}
    for part in parts:
        if part.pid is not None:
            found[part.name] = pids = [part.pid]
            if part.name != LOAD:
                for pid in pids:  # which grows meanwhile
                    pids += children.get(pid, [])
    return found


def _kilobytes(pid: int, file: str, field: str) -> int:
    """0 for a process that has just ended, or that we may not look at."""
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _seconds(pid: int, *, of_ended_children: bool = False) -> float:
    """User and system time. None for one that has just ended."""
    try:
        used = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    seconds: float = (
        used.children_user + used.children_system if of_ended_children else used.user + used.system
    )
    return seconds
