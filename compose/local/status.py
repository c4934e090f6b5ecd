"""How one server or process of a rig is."""

from dataclasses import dataclass
from typing import Literal

from compose.local.addresses import Addresses
from compose.local.servers import SERVERS
from compose.local.supervisor import Component


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
    address = where.http(name) if name not in SERVERS else f"127.0.0.1:{component.port}"
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
