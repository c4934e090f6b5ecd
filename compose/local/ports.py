"""Free loopback ports that stay free while their server is down.

A port that the kernel hands out (`bind` to 0) lies in the range of outgoing connections: while a server
is stopped for a drill, any client could be given its port. So ports are drawn from below that range.
"""

import random
import socket
from collections.abc import Container
from pathlib import Path

LOOPBACK = "127.0.0.1"
LOWEST_PORT = 10_000
DEFAULT_HIGHEST_PORT = 32_767
ATTEMPTS = 500
# Where servers of a machine tend to listen, and what RabbitMQ's own tools use.
TAKEN_BY_CUSTOM = frozenset({15671, 15672, 15692, 25672, *range(35672, 35683)})


def highest_port(range_file: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")) -> int:
    """The last port below the range of outgoing connections."""
    try:
        first_outgoing = int(range_file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return DEFAULT_HIGHEST_PORT
    return first_outgoing - 1 if first_outgoing > LOWEST_PORT + ATTEMPTS else DEFAULT_HIGHEST_PORT


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        # As servers do: a connection lingering in TIME_WAIT does not occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(taken: Container[int] = ()) -> int:
    """A free port that is not in `taken`.

    Raises RuntimeError when none was found.
    """
    highest = highest_port()
    for _ in range(ATTEMPTS):
        port = random.randint(LOWEST_PORT, highest)  # noqa: S311
        if port not in taken and port not in TAKEN_BY_CUSTOM and is_free(port):
            return port
    raise RuntimeError(f"no free port between {LOWEST_PORT} and {highest}")
