"""The process that starts the system, stays, and starts again what ends by itself.

It is the parent of what it started, so that it learns how each ended.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from compose.local import process_table
from compose.local.errors import RigError
from compose.local.restarts import Restarter
from compose.local.rig import LocalRig
from events.telemetry.log import configure_logging, log

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
