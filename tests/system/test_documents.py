"""The commands of the documents do what the documents show, one after the other, in one shell."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from uuid import UUID, uuid4

from compose.demo.shop import Refused
from compose.local.rig import LocalRig
from compose.local.state import CHECKOUT
from tests.servers import clean_environment
from tests.system.stage import System, until
from tests.tools import GO, NODE, needs

DOCUMENTS = ("README.md", "docs/tour.md", "docs/test-tokens.md", "docs/publish-an-order.md")
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ACT = re.compile(r"""\bact\s+"?\$(\w+)_URL(/[\w/-]+)"?\s+'(\{[^']+\})'""")
EXAMPLES = CHECKOUT / "docs" / "examples"
# The system runs already, and goes on running.
OF_THE_FIXTURE = {"make up"}
END_OF_OUTPUT = "-- end of the output of a command: "
TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Command:
    """A command of a document, and the output that the document shows: `...` stands for anything."""

    text: str
    shown: str

    def check(self, printed: str) -> None:
        pattern = ".*".join(map(re.escape, self.shown.strip().split("...")))
        assert re.fullmatch(pattern, printed.strip(), re.DOTALL), f"{self.text}\nprinted: {printed}"


def commands_of(document: str) -> Iterator[Command]:
    for block in CONSOLE.findall((CHECKOUT / document).read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            end = next((at for at, line in enumerate(lines) if at and not line.startswith("> ")), len(lines))
            text = "\n".join(line.removeprefix("> ") for line in lines[:end])
            yield Command(text, "\n".join(lines[end:]))


def shell_environment(rig: LocalRig) -> dict[str, str]:
    """That of a person whose system this is. The environment of the checkout is as it is."""
    own = {
        "MURMURATION_STATE_DIR": str(rig.state_dir),
        "MAKEFLAGS": "--no-print-directory -o .venv/.ready",
    }
    return {**clean_environment(), **own}


def run_in_one_shell(commands: list[Command], environment: dict[str, str]) -> list[tuple[str, int]]:
    """What each command printed, and with which status it ended."""
    script = "".join(f'{command.text}\necho; echo "{END_OF_OUTPUT}$?"\n' for command in commands)
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    found = re.split(rf"\n{END_OF_OUTPUT}(\d+)\n", ran.stdout)
    outputs = [(found[at], int(found[at + 1])) for at in range(0, len(found) - 1, 2)]
    assert len(outputs) == len(commands), ran.stdout + ran.stderr
    return outputs


async def test_they_print_what_the_documents_show(rig: LocalRig) -> None:
    commands = [command for document in DOCUMENTS for command in commands_of(document)]
    commands = [command for command in commands if command.text not in OF_THE_FIXTURE]
    assert len(commands) > 25
    outputs = await asyncio.to_thread(run_in_one_shell, commands, shell_environment(rig))
    for command, (printed, status) in zip(commands, outputs, strict=True):
        command.check(printed)
        assert status == 0, command.text


@contextmanager
def suppress_not_found() -> Iterator[None]:
    try:
        yield
    except Refused as refused:
        if refused.status != HTTPStatus.NOT_FOUND:
            raise


async def test_what_a_person_does_is_understood(system: System) -> None:
    """Of an order or a dead letter that nobody has: not found, and nothing is wrong with the request."""
    texts = [path.read_text() for path in sorted((CHECKOUT / "docs").glob("*.md"))]
    acts = {act for text in texts for act in ACT.findall(text)}
    assert len(acts) > 6
    for process, path, body in acts:
        to_nobody = re.sub(r"ORDER_ID|LETTER_ID|[0-9a-f-]{36}", str(uuid4()), path)
        act = json.loads(body.replace('"NAME"', '"payment"'))
        with suppress_not_found():
            await system.shop.ask(process.lower(), "POST", to_nobody, body=act)


async def test_the_databases_understand_their_sql(system: System) -> None:
    """EXPLAIN reads a statement with the tables that it names, and carries nothing out."""
    texts = [path.read_text() for path in sorted((CHECKOUT / "docs").glob("*.md"))]
    found = {
        " ".join(sql.split()) for text in texts for sql in re.findall(r"`((?:SELECT|UPDATE) [^`]+)`", text)
    }
    assert len(found) > 3
    for statement in found:
        await system.execute("order", f"EXPLAIN {statement.replace('PID', '0')}")


def test_the_tour_begins_where_the_readme_ends() -> None:
    first, second = [command.text for command in commands_of("README.md")][:2]
    assert (first, second) == ("make up", 'eval "$(make env)"')


async def publish(folder: Path, system: System, *command: str) -> None:
    """An order that a program in another language publishes is an order like any other."""
    await system.shop.stock("apple", 100)
    environment = {**os.environ, "BROKER_URL": system.rig.addresses.broker_url("publisher")}
    ran = await asyncio.to_thread(
        subprocess.run,
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    order_id = UUID(ran.stdout.strip())

    async def completed() -> bool:
        saga = await system.shop.saga(order_id)
        return saga is not None and saga["state"] == "COMPLETED"

    await until(completed, f"order {order_id} did not complete")


@needs(NODE)
async def test_an_order_from_node(system: System, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLES / "node", tmp_path / "node"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefer-offline"]
    await asyncio.to_thread(subprocess.run, install, cwd=folder, check=True, capture_output=True)
    await publish(folder, system, "node", "publish-order.mjs")


@needs(GO)
async def test_an_order_from_go(system: System, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLES / "go", tmp_path / "go"))
    build = ["go", "build", "-o", "publish-order", "."]
    await asyncio.to_thread(subprocess.run, build, cwd=folder, check=True, capture_output=True)
    await publish(folder, system, "./publish-order")
