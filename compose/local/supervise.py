"""The process that starts the system, stays, and starts again what ends by itself.

It is the parent of what it started, so that it learns how each ended.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from compose.local import process_table
from compose.local.commands import RigError
from compose.local.process_table import ProcessIdentity
from compose.local.rig import LocalRig
from compose.local.state import Restarts
from events.telemetry.log import configure_logging, log

# Starts again what ended by itself: what is on record as running, and does not run.
#
# What the rig itself stops or kills it takes off the record, under its lock; so nothing that was stopped on
# purpose is ever started here, and what is frozen still runs.


POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long to wait before a start: longer each time, until a process has run well for a while."""

    first_seconds: float = 1.0
    cap_seconds: float = 30.0
    ran_well_seconds: float = 60.0

    def after(self, ends_in_a_row: int) -> float:
        """Seconds before the start that follows this many ends."""
        pause: float = min(self.cap_seconds, self.first_seconds * 2.0 ** min(ends_in_a_row - 1, 30))
        return pause


@dataclass(slots=True)
class _Watched:
    identity: ProcessIdentity
    since: float
    ends_in_a_row: int = 0
    start_at: float | None = None


class Restarter:
    """Looks after one rig on behalf of the process `me`, for as long as that is the rig's supervisor."""

    def __init__(
        self,
        rig: LocalRig,
        me: ProcessIdentity,
        pauses: Pauses | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rig = rig
        self._me = me
        self._pauses = pauses or Pauses()
        self._clock = clock
        self._watched: dict[str, _Watched] = {}

    def run(self) -> None:
        """Until there is nothing to look after any more."""
        while self.look():
            time.sleep(POLL_SECONDS)

    def look(self) -> bool:
        """Do what there is to do now; says whether to go on."""
        try:
            state = self._rig.state
        except RigError:
            return False
        if state.supervisor != self._me or not state.processes:
            return False
        now = self._clock()
        self._watched = {name: seen for name, seen in self._watched.items() if name in state.processes}
        for name, identity in state.processes.items():
            watched = self._watched.setdefault(name, _Watched(identity, now))
            if watched.identity != identity:
                watched.identity, watched.since, watched.start_at = identity, now, None
            if not identity.is_running():
                self._see_to(name, watched, now)
        return True

    def _see_to(self, name: str, watched: _Watched, now: float) -> None:
        if watched.start_at is not None and now < watched.start_at:
            return
        with self._rig.changing() as where:
            # Only now it is certain that nobody is stopping it.
            if where.state.processes.get(name) != watched.identity:
                return
            restarts = where.state.restarts.setdefault(name, Restarts())
            if watched.start_at is None:
                if now - watched.since >= self._pauses.ran_well_seconds:
                    watched.ends_in_a_row = 0
                how = self._rig.how_ended(name)
                restarts.last_end = f"{how} at {datetime.now().astimezone():%H:%M:%S}"
                pause_seconds = self._pause(watched, now)
                log.warning("process_ended", name=name, how=how, again_in_seconds=pause_seconds)
                return
            try:
                self._rig.start_again(name)
            except RigError as error:
                pause_seconds = self._pause(watched, now)
                log.error("process_not_started", name=name, why=str(error), again_in_seconds=pause_seconds)
                return
            restarts.times += 1
            log.info("process_started_again", name=name, times=restarts.times)

    def _pause(self, watched: _Watched, now: float) -> float:
        watched.ends_in_a_row += 1
        pause_seconds = self._pauses.after(watched.ends_in_a_row)
        watched.start_at = now + pause_seconds
        return pause_seconds


NAME = "supervisor"


def up_supervised(command: Sequence[str]) -> list[str] | int:
    """Runs a command that supervises (see below); returns what it started, or its exit code if it ended.

    Until everything is up, it says what it does on this terminal, and Ctrl-C is for it, too.
    """
    child = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        answer = child.stdout.readline()
        if not answer:
            return child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    finally:
        child.stdout.close()
    started: list[str] = json.loads(answer)
    return started


def supervise(rig: LocalRig) -> None:
    """Starts everything, tells `up_supervised` of it, and looks after it in the background until `down`."""
    started = rig.up()
    me = process_table.identify(os.getpid())
    if me is None:
        raise RigError("this process is not to be found in the process table")
    with rig.changing() as where:
        where.state.supervisor = me
    print(json.dumps(started), flush=True)  # noqa: T201
    _leave_terminal(rig)
    configure_logging(NAME, "json", "INFO")
    log.info("supervising", started=started)
    Restarter(rig, me).run()
    log.info("nothing_to_supervise")


def _leave_terminal(rig: LocalRig) -> None:
    """From now on neither Ctrl-C nor a closed terminal reaches this process."""
    os.setsid()
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_RDONLY)
    lines = os.open(rig.log(NAME), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(nothing, 0)
    os.dup2(lines, 1)
    os.dup2(lines, 2)
    os.close(nothing)
    os.close(lines)
