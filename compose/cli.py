"""The command line: `python -m compose COMMAND`, or `make COMMAND`."""

import getpass
import os
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from compose.local.addresses import ALL_IN_ONE_VARIABLE, LOCAL_NAME
from compose.local.commands import Progress, RigError, ending_in_order
from compose.local.components import NAME_SERVICE, POSTGRES, RABBITMQ
from compose.local.rig import LocalRig
from compose.local.state import CHECKOUT, DEFAULT_STATE_DIR
from compose.local.supervise import supervise, up_supervised
from compose.local.supervisor import ComponentStatus
from events.http.tokens import NAMED_ROLES
from events.http.tokens import main as main_of_tokens

STATE_DIR_VARIABLE = "MURMURATION_STATE_DIR"
SUPERVISE = "supervise"
FOLLOW_SECONDS = 0.2
REPORT_WIDTH = 100

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False)
problems = Console(stderr=True, highlight=False)

StateDir = Annotated[
    Path,
    typer.Option(envvar=STATE_DIR_VARIABLE, help="Where this system keeps its data, ports and logs."),
]


@app.callback()
def common(context: typer.Context, state_dir: StateDir = DEFAULT_STATE_DIR) -> None:
    """Runs the whole system from local processes, with servers of its own."""
    context.obj = state_dir


def rig_of(
    context: typer.Context, progress: Progress | None = None, settings: Mapping[str, str] | None = None
) -> LocalRig:
    """The rig that this command works on. What it starts has these settings, unless ours say otherwise."""
    state_dir: Path = context.obj
    return LocalRig(state_dir, progress=progress, environment={**(settings or {}), **os.environ})


@app.command()
def up(context: typer.Context) -> None:
    """Start everything that does not run yet, and leave it running; what ends by itself is started again."""
    started = time.monotonic()
    with ConsoleProgress() as progress:
        rig = rig_of(context, progress)
        names = rig.up() if rig.is_supervised else _up_supervised(rig.state_dir)
    if names:
        console.print(f"up after {time.monotonic() - started:.1f} s")
    else:
        console.print("everything is running already")
    console.print(status_table(rig.status()))
    link = rig.addresses.sign_in_link(getpass.getuser())
    console.print(f"the board, signed in once, within 15 minutes: {link}", soft_wrap=True, markup=False)
    hint = "logs: make logs NAME=order   URLs with passwords: make status URLS=1   stop: make down"
    console.print(hint, soft_wrap=True)


@app.command()
def all_in_one(context: typer.Context) -> None:
    """The same as `up`, with all services and the tracker in one process: for development and small shops."""
    os.environ[ALL_IN_ONE_VARIABLE] = "1"
    up(context)


def _up_supervised(state_dir: Path) -> list[str]:
    command = [sys.executable, "-m", "compose", f"--state-dir={state_dir}", SUPERVISE]
    started = up_supervised(command)
    if isinstance(started, int):
        raise typer.Exit(started)  # it has shown why
    return started


@app.command(SUPERVISE, hidden=True)
def stay_and_supervise(context: typer.Context) -> None:
    """What `up` leaves behind: starts everything, and starts again what ends by itself."""
    with ConsoleProgress() as progress:
        supervise(rig_of(context, progress))


@app.command()
def prepare(context: typer.Context) -> None:
    """Make sure that the servers' programs are on this machine; install what is missing."""
    rig_of(context).prepare()


@app.command()
def status(
    context: typer.Context,
    urls: Annotated[bool, typer.Option(help="Show URLs with passwords, and the admin token, too.")] = False,
) -> None:
    """Show what runs. Exit code 1 when something that should run does not."""
    rig = rig_of(context)
    found = rig.status()
    if all(component.pid is None and component.condition != "died" for component in found):
        console.print("nothing is running (make up starts it)")
        return
    console.print(status_table(found))
    if not rig.is_supervised:
        console.print("nothing starts again what ends by itself (make up does)")
    if urls:
        print_urls(rig)
    if any(component.condition != "ready" for component in found):
        raise typer.Exit(1)


@app.command()
def down(
    context: typer.Context,
    delete_data: Annotated[bool, typer.Option(help="Delete databases, queues and logs too.")] = False,
) -> None:
    """Stop everything; the data stays unless asked otherwise."""
    with ConsoleProgress() as progress:
        rig = rig_of(context, progress)
        if delete_data:
            from compose.drills.command import delete_leftovers

            delete_leftovers(context.obj, progress, os.environ)
            rig.destroy()
        else:
            rig.down()
    console.print("everything is stopped" + (" and its data deleted" if delete_data else ""))


@app.command()
def demo(
    context: typer.Context,
    only: Annotated[list[str] | None, typer.Option(help="Play this scenario alone; may be repeated.")] = None,
) -> None:
    """Place orders that go every way, show their sagas, check the invariants. Exit code 1 on a surprise."""
    from compose.demo.command import SETTINGS  # here, so that other commands start without it
    from compose.demo.command import demo as show

    with ConsoleProgress() as progress:
        if not show(rig_of(context, progress, SETTINGS), report_console(), only or ()):
            raise typer.Exit(1)


@app.command()
def check(
    context: typer.Context,
    patience: Annotated[
        float, typer.Option(min=0, help="How many seconds an order may take to get where it should be.")
    ] = 10,
) -> None:
    """Check the invariants of the running system. Exit code 1 when one is broken."""
    from compose.check import check as judge

    if not judge(rig_of(context), report_console(), patience):
        raise typer.Exit(1)


@app.command()
def drills(
    context: typer.Context,
    only: Annotated[list[str] | None, typer.Option(help="Run this drill alone; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Repeat a run by its seed.")] = None,
    report: Annotated[Path | None, typer.Option(help="A folder for the reports.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.1, max=1_000, help="Orders a second (30; on a cluster 8).")
    ] = None,
    rig: Annotated[str, typer.Option(help="What it runs on: local, compose or cluster.")] = "local",
    long: Annotated[bool, typer.Option("--long", help="Also the drills that take ten minutes each.")] = False,
) -> None:
    """Break a system made for it, under load, in every way, and judge it. Exit code 1 when a drill fails."""
    from compose.drills.command import Options, drill

    options = Options(only or (), seed, report, rate, rig, long)
    with ConsoleProgress() as progress:
        if not drill(context.obj, report_console(), progress, os.environ, options):
            raise typer.Exit(1)


@app.command()
def env(context: typer.Context) -> None:
    """Print the addresses of the running system for a shell: eval "$(make env)". Exit code 1 without one."""
    from events.messaging.topology import PUBLISHER

    rig = rig_of(context)
    if all(component.pid is None for component in rig.status()):
        raise RigError("nothing is running: make up starts it")
    where = rig.addresses
    found = {f"{spec.name.upper()}_URL": where.http(spec.name) for spec in rig.blueprint.processes}
    found |= {"TOKEN": where.token, "ADMIN_TOKEN": where.admin_token}
    found |= {"BROKER_URL": where.broker_url(PUBLISHER)}
    for name, value in found.items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


@app.command()
def token(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    role: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMED_ROLES)}.")],
    file: Annotated[Path | None, typer.Option(help="Where to keep its hash; this system's own file.")] = None,
) -> None:
    """Make a named token, and print it this once. It is good at once, as long as its line is in the file."""
    path = file or rig_of(context).addresses.tokens_file
    if main_of_tokens([str(path), name, role]):
        raise typer.Exit(1)


@app.command("map")
def redraw_map() -> None:
    """Draw the map of facts anew, as a table and as a picture, from the services' types."""
    from compose.map import DOCUMENT, PICTURE, draw_map, draw_picture, with_map
    from compose.system import SERVICES

    DOCUMENT.write_text(with_map(DOCUMENT.read_text(), draw_map(SERVICES)))
    PICTURE.write_text(draw_picture(SERVICES))
    console.print(f"{DOCUMENT.name} and {PICTURE.name} show what the types say")


@app.command()
def logs(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A process or server, for example order, order-2 or rabbitmq.")],
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="How many lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what is added.")] = False,
) -> None:
    """Show the last lines that a process or server logged."""
    log = rig_of(context).state_dir / "logs" / f"{Path(name).name}.log"
    if not log.is_file():
        known = ", ".join(sorted(path.stem for path in log.parent.glob("*.log"))) or "none yet"
        raise RigError(f"there is no log of {name!r} (known: {known})")
    with log.open(errors="replace") as file:
        sys.stdout.writelines(deque(file, maxlen=lines))
        while follow:
            sys.stdout.write(file.read())
            sys.stdout.flush()
            time.sleep(FOLLOW_SECONDS)


@app.command()
def new_service(
    name: Annotated[str, typer.Argument(help="What it is called: loyalty is loyalty_svc.")],
    subscribes_to: Annotated[
        str, typer.Argument(help="Facts it subscribes to, between commas: order.confirmed")
    ],
) -> None:
    """Write the folder of a new service, which runs with the others from the next `up` on."""
    from compose.local.bootstrap import install_services
    from compose.new_service import write_service

    folder = write_service(
        name, [fact.strip() for fact in subscribes_to.split(",") if fact.strip()], CHECKOUT
    )
    install_services([folder])
    console.print(
        f"wrote {folder.name}: begin with {folder.name}/decide.py; `make up` runs it with the others"
    )


def main() -> int:
    """Runs the command line; returns the exit code. An expected failure is one line, no traceback."""
    try:
        with ending_in_order():
            app()
    except RigError as error:
        print_problem(error)
        return 1
    return 0


def print_problem(error: RigError) -> None:
    """One clear line, and the log lines that explain it where there are any."""
    problems.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
    if error.details:
        problems.print(f"[dim]{escape(error.details)}[/]", soft_wrap=True)


def report_console() -> Console:
    """For what is made to be read or quoted: as wide on paper as on a wide terminal."""
    found = Console(highlight=False)
    found.width = min(found.width, REPORT_WIDTH) if found.is_terminal else REPORT_WIDTH
    return found


def status_table(found: list[ComponentStatus]) -> Table:
    """What runs, where, and how it is."""
    table = Table("", "condition", "pid", "address", "restarts", box=None, padding=(0, 2, 0, 0))
    colours = {"ready": "green", "stopped": "dim"}
    for component in found:
        colour = colours.get(component.condition, "red")
        condition = f"[{colour}]{component.condition}[/]"
        if component.problem:
            condition += f" ({escape(component.problem)})"
        restarts = f"{component.restarts}; {component.ended}" if component.ended else ""
        table.add_row(component.name, condition, str(component.pid or ""), component.address, restarts)
    return table


def print_urls(rig: LocalRig) -> None:
    """What a client needs to get in. Passwords are this rig's own, drawn at random."""
    where = rig.addresses
    found = {f"{POSTGRES} (administrator)": where.postgres_admin_url}
    found |= {f"database {name}": where.database_url(name) for name in where.database_passwords}
    found |= {f"{RABBITMQ} as {user}": where.broker_url(user) for user in rig.blueprint.broker_users}
    found |= {f"token of {LOCAL_NAME}": where.token, "admin token": where.admin_token}
    for label, url in found.items():
        console.print(f"{label:<26}{url}", soft_wrap=True, markup=False)


class ConsoleProgress(Progress):
    """A line for each server or process that got ready; on a terminal also what is being waited for."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._doing = "starting"
        self._lock = threading.Lock()
        self._status = Status("", console=problems)

    def __enter__(self) -> "ConsoleProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def starting(self, name: str) -> None:
        self._begin("starting", name)

    def ready(self, name: str) -> None:
        self._end(name, "ready")

    def stopping(self, name: str) -> None:
        self._begin("stopping", name)

    def stopped(self, name: str) -> None:
        self._end(name, "stopped")

    def note(self, text: str) -> None:
        problems.print(escape(text), soft_wrap=True)

    def _begin(self, doing: str, name: str) -> None:
        with self._lock:
            self._doing = doing
            self._since[name] = time.monotonic()
            self._show()

    def _end(self, name: str, outcome: str) -> None:
        with self._lock:
            # Without a beginning it was running before, which is no news.
            if (began := self._since.pop(name, None)) is not None and name != NAME_SERVICE:
                problems.print(f"  {name:<14} {outcome} ({time.monotonic() - began:.1f} s)")
            self._show()

    def _show(self) -> None:
        waiting = [name for name in self._since if name != NAME_SERVICE]
        if waiting and problems.is_terminal:
            self._status.update(f"{self._doing} {', '.join(waiting)}")
            self._status.start()
        else:
            self._status.stop()
