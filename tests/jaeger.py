"""A real Jaeger for the tests of traces: `make jaeger` builds one from its Go module, where Go is installed.

It is kept in the user's cache folder, for it takes some ten minutes to build.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from compose.local.ports import LOOPBACK, free_port
from compose.waiting import wait_until_ready

MODULE, VERSION, COMMAND = "github.com/jaegertracing/jaeger", "v1.76.0", "all-in-one"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "murmuration"
BUILT = CACHE / f"jaeger-{VERSION}"
BUILD_SECONDS = 3_600
START_SECONDS = 20.0
# Beside the two that are used: every port it opens must be free.
OTHER_PORTS = (
    *("admin.http.host-port", "collector.otlp.grpc.host-port", "collector.grpc-server.host-port"),
    *("collector.http-server.host-port", "query.grpc-server.host-port"),
)


@dataclass(frozen=True, slots=True)
class Jaeger:
    """A running one: where spans go, and where a person looks."""

    otlp_url: str
    query_url: str

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace, each with the name of its `service`; none while there is no such trace."""
        return self._spans(f"/api/traces/{trace_id}")

    def find(self, service: str, tags: dict[str, str]) -> list[dict[str, Any]]:
        """The spans of the traces in which a span of this service has these tags."""
        asked = {"service": service, "tags": json.dumps(tags), "limit": 100, "lookback": "1h"}
        return self._spans(f"/api/traces?{urlencode(asked)}")

    def _spans(self, path: str) -> list[dict[str, Any]]:
        try:
            with urlopen(self.query_url + path, timeout=10) as answer:
                found = json.load(answer)["data"] or []
        except OSError:  # "not found" among them
            return []
        return [
            span | {"service": trace["processes"][span["processID"]]["serviceName"]}
            for trace in found
            for span in trace["spans"]
        ]


def find_program() -> Path | None:
    """Where Jaeger's program is on this machine, if it is."""
    on_path = shutil.which("jaeger-all-in-one")
    return BUILT if BUILT.exists() else Path(on_path) if on_path else None


@contextmanager
def running_jaeger(program: Path) -> Iterator[Jaeger]:
    """Inside, it runs, and keeps what it is sent in memory."""
    ports: list[int] = []
    for _ in range(2 + len(OTHER_PORTS)):
        ports.append(free_port(taken=set(ports)))
    otlp, query, *others = (f"{LOOPBACK}:{port}" for port in ports)
    names = ("collector.otlp.http.host-port", "query.http-server.host-port", *OTHER_PORTS)
    command = [
        str(program),
        *(f"--{name}={at}" for name, at in zip(names, (otlp, query, *others), strict=True)),
    ]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            _wait_for(process, ports[:2])
            yield Jaeger(f"http://{otlp}", f"http://{query}")
        finally:
            process.terminate()
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], ports: list[int]) -> None:
    def what_it_lacks() -> str | None:
        assert process.poll() is None, "Jaeger ended at once"
        for port in ports:
            try:
                socket.create_connection((LOOPBACK, port), 1).close()
            except OSError:
                return f"Jaeger does not listen on port {port}"
        return None

    problem = wait_until_ready(what_it_lacks, START_SECONDS)
    assert problem is None, problem


def build() -> Path:
    """Build it, unless that was done before. Raises CalledProcessError."""
    if BUILT.exists():
        return BUILT
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        fetch = ["go", "mod", "download", "-json", f"{MODULE}@{VERSION}"]
        output = subprocess.run(fetch, cwd=folder, check=True, stdout=subprocess.PIPE).stdout
        source, program = Path(folder) / "source", Path(folder) / COMMAND
        # Go keeps it read-only, and builds only where it may write.
        shutil.copytree(json.loads(output)["Dir"], source, copy_function=shutil.copyfile)
        for each in [source, *(path for path in source.rglob("*") if path.is_dir())]:
            each.chmod(0o755)
        print(f"building Jaeger {VERSION} (some ten minutes) ...", file=sys.stderr)
        command = ["go", "build", "-o", str(program), f"./cmd/{COMMAND}"]
        subprocess.run(command, cwd=source, check=True, timeout=BUILD_SECONDS)
        program.replace(BUILT)
    return BUILT


if __name__ == "__main__":
    if find_program() is None and shutil.which("go") is None:
        sys.exit("error: Jaeger is built from its Go module, and Go is not installed")
    print(find_program() or build())
