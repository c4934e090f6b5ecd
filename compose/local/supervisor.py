"""Starting, stopping, killing, pausing and awaiting the processes of one rig, and remembering them."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from compose.local import process_table
from compose.local.addresses import Addresses
from compose.local.commands import Progress, RigError, uninterrupted
from compose.local.components import SERVERS, Component
from compose.local.ports import LOOPBACK
from compose.local.process_table import ProcessIdentity, log_tail
from compose.local.state import RigState, StateFile
from compose.waiting import wait_until_ready

MARK_VARIABLE = "MURMURATION_RIG"
KILL_GRACE_SECONDS = 10.0
# It waits for nothing but the rig's lock, and does not have it while somebody else changes the rig.
DISMISS_GRACE_SECONDS = 5.0


class Interrupted(Exception):
    """Raised in a thread that waits when the rig was asked to give up."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process we started ended."""

    exit_code: int | None

    def __str__(self) -> str:
        if self.exit_code is None:
            return "ended"
        if self.exit_code < 0:
            return f"was killed by {signal.Signals(-self.exit_code).name}"
        return f"ended with exit code {self.exit_code}"


class Supervisor:
    """Everything here expects the caller to hold the rig's lock, by `changing`."""

    def __init__(self, files: StateFile, progress: Progress) -> None:
        self._files = files
        self._progress = progress
        self._children: dict[ProcessIdentity, subprocess.Popen[bytes]] = {}
        self._recording = threading.Lock()
        self._give_up = threading.Event()
        self._state: RigState | None = None

    @property
    def state(self) -> RigState:
        """The state under the lock; outside of it a fresh look at the file."""
        return self._files.load() if self._state is None else self._state

    @contextmanager
    def changing(self) -> Iterator[RigState]:
        """Holds the rig's lock; the state is what the file says now, and is saved at the end."""
        note = "another command is changing this rig: waiting for it"
        with self._files.locked(lambda: self._progress.note(note)) as outermost:
            if outermost:
                self._state = self._files.load()
                self._save()
            if self._state is None:
                raise RuntimeError("the rig's lock is held without its state")
            try:
                yield self._state
            finally:
                self._save()
                if outermost:
                    self._state = None

    def start(self, component: Component) -> bool:
        """Starts it, unless it runs; returns whether it had to."""
        if self.state.running(component.name) is not None:
            return False
        launch = component.prepare()
        self._progress.starting(component.name)
        launch = replace(launch, environment={**launch.environment, MARK_VARIABLE: self.state.rig_id})
        with uninterrupted():  # A process that runs must be on record.
            child = launch.start()
            identity = process_table.identify(child.pid)
            with self._recording:
                if identity is not None:
                    self._children[identity] = child
                    self.state.processes[component.name] = identity
            self._save()
        if identity is None:
            raise RigError(f"{component.name} {Ended(child.wait())} at once", details=log_tail(component.log))
        return True

    def wait_ready(self, component: Component, timeout_seconds: float | None = None) -> None:
        """Waits until it does its work.

        Raises RigError with its last log lines when it ended or is not ready in time.
        """
        limit = component.ready_timeout_seconds if timeout_seconds is None else timeout_seconds

        def what_it_lacks() -> str | None:
            problem = component.not_ready()
            if problem is not None and self._give_up.is_set():
                raise Interrupted
            if problem is not None and self.state.running(component.name) is None:
                how = f"{self._ended(component.name)} before it was ready"
                raise RigError(
                    f"{component.name} {how} (log: {component.log})", details=log_tail(component.log)
                )
            return problem

        if (problem := wait_until_ready(what_it_lacks, limit)) is not None:
            raise RigError(
                f"{component.name} is not ready after {limit:.0f} s: {problem} (log: {component.log})",
                details=log_tail(component.log),
            )
        self._progress.ready(component.name)

    def stop(self, components: Sequence[Component], grace_seconds: float | None = None) -> None:
        """Asks all to end, waits, kills those that do not, and forgets them."""
        families = {}
        for component in components:
            if (root := self.state.running(component.name)) is not None:
                self._progress.stopping(component.name)
                families[component.name] = process_table.family(root)
                process_table.send([root], component.stop_signal)
                process_table.send(families[component.name], signal.SIGCONT)
        started = time.monotonic()
        for component in components:
            if (family := families.get(component.name)) is not None:
                grace = component.stop_grace_seconds if grace_seconds is None else grace_seconds
                remaining = max(0.0, grace - (time.monotonic() - started))
                if process_table.wait_gone(family[:1], remaining):
                    self._progress.note(f"{component.name} did not stop within {grace:.0f} s: killing it")
                self._end(family)
                self._progress.stopped(component.name)
            self._forget(component.name)

    def kill(self, name: str) -> None:
        """Ends it and all its descendants as a power failure would."""
        self._end(process_table.family(self._running(name)))
        self._forget(name)

    def pause(self, name: str) -> None:
        """Freezes it and all its descendants."""
        process_table.send(process_table.family(self._running(name)), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Lets it and all its descendants go on."""
        process_table.send(process_table.family(self._running(name)), signal.SIGCONT)

    def how_ended(self, name: str) -> str:
        """How something on record that does not run any more ended, as far as this process can know."""
        return str(self._ended(name))

    def dismiss(self) -> None:
        """Ends the rig's supervisor, so that nothing is started again."""
        if (known := self.state.supervisor) is not None:
            process_table.send([known], signal.SIGTERM)
            if process_table.wait_gone([known], DISMISS_GRACE_SECONDS):
                self._end([known])
            self.state.supervisor = None
            self._save()

    def sweep(self) -> None:
        """Ends whatever still carries this rig's mark, recorded or not."""
        strays = process_table.marked(MARK_VARIABLE, self.state.rig_id)
        # Descendants too: PostgreSQL's overwrite the environment they were started with.
        families = {member for stray in strays for member in process_table.family(stray)}
        self._end([member for member in families if member.pid != os.getpid()])
        for name in list(self.state.processes):
            self._forget(name)

    def give_up(self) -> None:
        """Makes every `wait_ready` raise Interrupted, in whatever thread, until `carry_on`."""
        self._give_up.set()

    def carry_on(self) -> None:
        """Undoes `give_up`."""
        self._give_up.clear()

    def _running(self, name: str) -> ProcessIdentity:
        identity = self.state.running(name)
        if identity is None:
            raise RigError(f"{name} is not running")
        return identity

    def _end(self, family: Sequence[ProcessIdentity]) -> None:
        process_table.send(family, signal.SIGKILL)
        if survivors := process_table.wait_gone(family, KILL_GRACE_SECONDS):
            raise RigError(f"could not kill {', '.join(str(survivor.pid) for survivor in survivors)}")

    def _ended(self, name: str) -> Ended:
        identity = self.state.processes.get(name)
        child = None if identity is None else self._children.get(identity)
        return Ended(None if child is None else child.wait())

    def _forget(self, name: str) -> None:
        with self._recording:
            identity = self.state.processes.pop(name, None)
            child = None if identity is None else self._children.pop(identity, None)
        if child is not None:
            child.wait()
        self._save()

    def _save(self) -> None:
        with self._recording:
            if self._state is not None:
                self._files.save(self._state)


# How one server or process of a rig is.


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """How one server or process is. `ended` says how it ended last, if it ever did by itself."""

    name: str
    condition: Literal["ready", "not ready", "died", "stopped"]
    pid: int | None
    address: str
    problem: str = ""
    restarts: int = 0
    ended: str = ""


def status_of(where: Addresses, component: Component) -> ComponentStatus:
    """As it is now; asks it whether it is ready."""
    name, state = component.name, where.state
    address = f"{'' if name in SERVERS else 'http://'}{LOOPBACK}:{component.port}"
    identity = state.running(name)
    condition: Literal["ready", "not ready", "died", "stopped"]
    if identity is None:
        condition, problem = "died" if name in state.processes else "stopped", None
    else:
        problem = component.not_ready()
        condition = "ready" if problem is None else "not ready"
    pid = None if identity is None else identity.pid
    known = state.restarts.get(name)
    restarts, ended = (known.times, known.last_end) if known is not None else (0, "")
    return ComponentStatus(name, condition, pid, address, problem or "", restarts, ended)
