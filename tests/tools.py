"""Tools that some tests need and not every machine has. Each is asked to do something, not only looked for.

A test that needs one is marked `@needs(TOOL)`, or its fixture calls `require(TOOL)`: it is skipped where that
does not work. At the end pytest prints a line for each tool that was missed (`conftest.py`).

    python -m tests.tools      as root on Debian: install what Debian has of the missing ones
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial

import pytest

from compose.local import rabbitmq
from compose.local.state import CHECKOUT
from compose.local.system_packages import NotProvided, install
from compose.release_before import COMMIT, HOW_TO_GET_IT, why_not_here
from tests.jaeger import find_program

ANSWER_SECONDS = 20
PULL_SECONDS = 300
BASE_IMAGES = ("postgres:17", "rabbitmq:4-management", "python:3.13-slim")
GO_EXAMPLE = CHECKOUT / "docs" / "examples" / "go"
# Of `!override` in compose/cluster.yaml.
COMPOSE_VERSION = (2, 24, 4)


@dataclass(frozen=True)
class Tool:
    """`ask` says why it cannot be used, or nothing. `packages` are Debian's, each with the least version."""

    name: str
    ask: Callable[[], str | None]
    how_to_get_it: str
    packages: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.name)


def answer_of(*command: str, seconds: float | None = None) -> tuple[str, str | None]:
    """What a command prints, and what is wrong with it, if anything is."""
    what = " ".join(command[:2])
    if shutil.which(command[0]) is None:
        return "", f"{command[0]} is not installed"
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=seconds or ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "", f"{what} does not answer"
    except OSError as error:
        return "", f"{command[0]} cannot be run: {error.strerror}"
    if answer.returncode != 0:
        output = (answer.stderr or answer.stdout).strip().splitlines()
        return "", f"{what} fails{f': {output[0]}' if output else ''}"
    return answer.stdout.strip(), None


def version_in(text: str) -> tuple[int, ...]:
    """The first thing in it that looks like a version: (2, 26, 1) of `v2.26.1-4`."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def works(*command: str) -> str | None:
    return answer_of(*command)[1]


def ask_engine() -> str | None:
    version, problem = answer_of("docker", "info", "--format", "{{.ServerVersion}}")
    # Older clients end well and print nothing where no engine answers.
    return problem or (None if version_in(version) else "no Docker engine answers")


def ask_compose() -> str | None:
    output, problem = answer_of("docker", "compose", "version", "--short")
    if problem or not (version := version_in(output)):
        return problem if shutil.which("docker") is None else "docker has no compose plug-in"
    wanted = ".".join(map(str, COMPOSE_VERSION))
    return None if version >= COMPOSE_VERSION else f"docker compose is {output}, older than {wanted}"


def ask_images() -> str | None:
    missing = (image for image in BASE_IMAGES if not image_is_here(image))
    return next((f"{image} is not here and cannot be pulled" for image in missing), None)


def image_is_here(image: str) -> bool:
    """Whether the engine has an image, pulled now if need be."""
    here, _ = answer_of("docker", "images", "--quiet", image)
    return bool(here) or answer_of("docker", "pull", "--quiet", image, seconds=PULL_SECONDS)[1] is None


def ask_jaeger() -> str | None:
    program = find_program()
    return works(str(program), "version") if program else "it has not been built"


def ask_rabbitmq() -> str | None:
    if not rabbitmq.is_installed():
        return "it is not installed"
    return works("erl", "-noshell", "-eval", "halt().")


def ask_node() -> str | None:
    """With npm, and the package that the example needs in a registry that npm reaches."""
    return works("node", "--version") or works("npm", "view", "amqplib", "version")


def ask_go() -> str | None:
    """With the modules of the example, in the cache or from a proxy."""
    return works("go", "version") or works("go", "-C", str(GO_EXAMPLE), "list", "-deps", ".")


ENGINE = Tool(
    "Docker engine",
    ask_engine,
    "apt-get install docker.io docker-cli, and start it",
    {"docker.io": (), "docker-cli": ()},
)
COMPOSE = Tool(
    "docker compose",
    ask_compose,
    "apt-get install docker-compose docker-cli (Debian 13), or Docker's own docker-compose-plugin",
    {"docker-compose": COMPOSE_VERSION, "docker-cli": ()},
)
IMAGES = Tool("images of the servers", ask_images, f"docker pull {' '.join(BASE_IMAGES)}")
PROMETHEUS = Tool(
    "Prometheus",
    lambda: works("promtool", "--version") or works("prometheus", "--version"),
    "apt-get install prometheus",
    {"prometheus": ()},
)
JAEGER = Tool("Jaeger", ask_jaeger, "make jaeger, which takes ten minutes once, where Go is installed")
OPENSSL = Tool("openssl", partial(works, "openssl", "version"), "apt-get install openssl", {"openssl": ()})
RABBITMQ = Tool("RabbitMQ", ask_rabbitmq, "apt-get install rabbitmq-server", {"rabbitmq-server": ()})
CHROMIUM = Tool(
    "Chromium",
    lambda: works("chromium", "--version"),
    "apt-get install chromium",
    {"chromium": ()},
)
# Of these two nobody installs so many packages for the sake of one example each.
NODE = Tool("Node", ask_node, "apt-get install nodejs npm")
GO = Tool("Go", ask_go, "apt-get install golang-go")
STRIPE_MOCK = Tool(
    "stripe-mock",
    partial(works, "stripe-mock", "-version"),
    "make stripe-mock, where Go is installed, with its folder of programs on the PATH",
)
RELEASE_BEFORE = Tool(f"the release before ({COMMIT[:7]})", why_not_here, HOW_TO_GET_IT)
TOOLS = (
    *(ENGINE, COMPOSE, IMAGES, PROMETHEUS, JAEGER, OPENSSL, RABBITMQ, CHROMIUM),
    *(NODE, GO, STRIPE_MOCK, RELEASE_BEFORE),
)


@cache
def problem_of(tool: Tool) -> str | None:
    """Why a tool cannot be used here; None if it can. It is asked once."""
    return tool.ask()


def require(*tools: Tool) -> None:
    """Skip the test where one of these cannot be used."""
    for tool in tools:
        if (problem := problem_of(tool)) is not None:
            pytest.skip(f"needs {tool.name}: {problem}")


def needs(*tools: Tool) -> pytest.MarkDecorator:
    """Marks a test that is skipped where one of these cannot be used."""
    return pytest.mark.needs(*tools)


def summary(reasons: Iterable[str]) -> list[str]:
    """A line for each missing tool, of the reasons for which tests were skipped."""
    lines: list[str] = []
    counted = Counter(reasons)
    for tool in TOOLS:
        begin = f"needs {tool.name}: "
        mine = {reason: count for reason, count in counted.items() if reason.startswith(begin)}
        if mine:
            count, problem = sum(mine.values()), next(iter(mine)).removeprefix(begin)
            tests = "1 test" if count == 1 else f"{count} tests"
            missed = f"{tests} skipped for want of {tool.name}: {problem}"
            lines.append(f"{missed}. To get it: {tool.how_to_get_it}")
    return lines


def provide_all() -> None:
    """Install what Debian has of what is missing; says so in a line where that does not work."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print("optional tools are installed as root on Debian only", file=sys.stderr)
        return
    missing = [tool for tool in TOOLS if tool.packages and problem_of(tool) is not None]
    if missing:
        answer_of("apt-get", "-qq", "update", seconds=PULL_SECONDS)
    for tool in missing:
        offered = [name for name, least in tool.packages.items() if _is_offered(name, least)]
        if not offered:
            print(f"{tool.name}: this Debian has nothing to install for it", file=sys.stderr)
            continue
        try:
            install(offered)
        except NotProvided as error:
            print(f"{tool.name}: {str(error).splitlines()[-1]}", file=sys.stderr)


def _is_offered(package: str, least: tuple[int, ...]) -> bool:
    """Whether Debian has it, new enough, and it is not installed already: then it is not what is missing."""
    policy, _ = answer_of("apt-cache", "policy", package)
    found = dict(re.findall(r"^  (Installed|Candidate): (\S+)$", policy, re.MULTILINE))
    candidate = found.get("Candidate", "(none)")
    return candidate not in ("(none)", found.get("Installed")) and version_in(candidate) >= least


if __name__ == "__main__":
    provide_all()
