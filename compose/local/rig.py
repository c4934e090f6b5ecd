"""The whole system from local processes: start it, know it, break it, stop it."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path

from compose.local import addresses, provision, rabbitmq
from compose.local.addresses import ALL_IN_ONE_VARIABLE, Addresses, given_servers
from compose.local.commands import Progress, RigError, uninterrupted
from compose.local.components import NAME_SERVICE, POSTGRES, RABBITMQ, SERVERS, Component, instance_name
from compose.local.ports import is_free
from compose.local.process_table import unprivileged_user
from compose.local.provision import SANDBOX, Blueprint
from compose.local.state import (
    DEFAULT_STATE_DIR,
    Places,
    RigState,
    StateFile,
    exclusive,
    places_of,
    prepare_places,
    remove_places,
)
from compose.local.supervisor import ComponentStatus, Interrupted, Supervisor, status_of
from compose.local.system_packages import NotProvided, provide
from events.http import tokens

MAX_INSTANCES = 9
YES = ("1", "true")

Task = Callable[[], None]


class LocalRig:
    """One private instance of the system, known by its state folder.

    Every change holds the folder's lock, so that several commands (and threads) may use one rig. With
    MURMURATION_POSTGRES_URL or MURMURATION_RABBITMQ_URL (administrators' URLs) in `environment`, that
    server is used instead of a private one, and cannot be started or broken from here. A private PostgreSQL
    loads the libraries `preload`, as far as they are installed.

    Methods raise RigError for what a person can act on, and KeyError for a name nobody has.
    """

    def __init__(
        self,
        state_dir: Path | None = None,
        *,
        blueprint: Blueprint | None = None,
        progress: Progress | None = None,
        environment: Mapping[str, str] | None = None,
        preload: Sequence[str] = (),
    ) -> None:
        self.state_dir = (state_dir or DEFAULT_STATE_DIR).absolute()
        self._blueprint = blueprint
        self._progress = progress or Progress()
        self._environment = dict(os.environ if environment is None else environment)
        self._preload = tuple(preload)
        self._run_as = unprivileged_user()
        self._files = StateFile(self.state_dir)
        self._supervisor = Supervisor(self._files, self._progress)
        self._started_here: list[str] = []

    @property
    def blueprint(self) -> Blueprint:
        """What this rig runs; loaded on first use, because it imports every service."""
        if self._blueprint is None:
            from compose.system import murmuration

            self._blueprint = murmuration()
        return self._blueprint

    # -- the whole system ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Installs RabbitMQ through the system's package manager if it is missing and will be needed."""
        if not (RABBITMQ in self._current(self._supervisor.state).given_servers or rabbitmq.is_installed()):
            try:
                provide([rabbitmq.DEBIAN_PACKAGE], "RabbitMQ")
            except NotProvided as error:
                raise RigError(str(error)) from error

    def up(self) -> list[str]:
        """Starts whatever does not run and waits until all of it is ready; returns what it started.

        When that fails or is interrupted, what it started is stopped again.
        """
        self.prepare()
        with self.changing() as where, self._undone_on_failure() as started:
            self._demand_same_servers(where.state)
            specs = where.started
            # Some need neither server. The rest would wait for a broker that is away, but their logs
            # should not begin with an outage.
            early = where.components([spec.name for spec in specs if not spec.has_database])
            late = where.components([spec.name for spec in specs if spec.has_database])
            servers = [lambda: self._start_databases(where), lambda: self._start_broker(where)]
            self._together([*servers, *(self._starting(component) for component in early)])
            self._together([self._starting(component) for component in late])
            return list(started)

    def up_servers(self) -> list[str]:
        """Starts the database and the broker alone, with no databases in it but PostgreSQL's own."""
        self.prepare()
        with self.changing() as where, self._undone_on_failure() as started:
            self._together([lambda: self._start_postgres(where), lambda: self._start_broker(where)])
            return list(started)

    def down(self) -> None:
        """Stops everything, processes before servers, and leaves no process behind."""
        if not self.state_dir.is_dir():
            return
        with uninterrupted(), self.changing() as where:
            self._supervisor.dismiss()
            names = list(where.state.processes)
            instances = [name for name in names if name not in SERVERS and name != SANDBOX]
            self._supervisor.stop(where.components(instances))
            self._supervisor.stop(where.components([SANDBOX] if SANDBOX in names else []))
            self._supervisor.stop(where.components([name for name in SERVERS if name in names]))
            self._supervisor.sweep()
            where.state.restarts.clear()

    def destroy(self) -> None:
        """Kills everything at once and deletes all data, even when the state cannot be understood."""
        if self.state_dir.is_dir():
            with uninterrupted(), suppress(RigError), self._supervisor.changing():
                self._supervisor.dismiss()
                self._supervisor.sweep()
        remove_places(self.state_dir)

    @contextmanager
    def running(self) -> Iterator["LocalRig"]:
        """The system is up inside, and afterwards as it was before.

        One command at a time: a second one waits until the first is through.
        """
        note = "another command is using this rig: waiting until it is through"
        prepare_places(self._places())
        with exclusive(self.state_dir / "in-use", lambda: self._progress.note(note)):
            ran_before = any(status.pid is not None for status in self.status())
            started = self.up()
            try:
                yield self
            finally:
                with uninterrupted():
                    if not ran_before:
                        self.down()
                    else:
                        for name in reversed(started):
                            self._stop_by_full_name(name)

    def status(self) -> list[ComponentStatus]:
        """How every server and process is, servers first."""
        if not self.state_dir.is_dir():
            return []
        where = self.addresses
        names = [name for name in SERVERS if name != NAME_SERVICE and name not in where.external]
        names += [spec.name for spec in where.started]
        names += [name for name in where.state.processes if name not in {*names, NAME_SERVICE}]
        components = where.components(names)
        # At the same time: each may take its time to say that it is not well.
        with ThreadPoolExecutor(len(components)) as threads:
            return list(threads.map(lambda component: status_of(where, component), components))

    @property
    def is_supervised(self) -> bool:
        """Whether somebody starts again what ends by itself."""
        supervisor = self._supervisor.state.supervisor
        return supervisor is not None and supervisor.is_running()

    @property
    def state(self) -> RigState:
        """What is on record now."""
        return self._supervisor.state

    # -- one server or process -----------------------------------------------------------------------

    def start(
        self,
        name: str,
        *,
        instance: int = 1,
        extra_environment: Mapping[str, str] | None = None,
        wait_ready: bool = True,
        timeout_seconds: float | None = None,
    ) -> None:
        """Starts one server (`postgres`, `rabbitmq`) or one instance of a process, unless it runs."""
        if not 1 <= instance <= MAX_INSTANCES:
            raise RigError(f"an instance is a number from 1 to {MAX_INSTANCES}")
        with self.changing() as where:
            component = where.component(name, instance, extra_environment)
            self._start_alone(where, component)
            where.state.extra_environments[component.name] = dict(extra_environment or {})
            if wait_ready:
                self._supervisor.wait_ready(component, timeout_seconds)
                if name == RABBITMQ:
                    self._teach_broker(where)

    def start_again(self, name: str) -> None:
        """Starts what ended by itself, in the environment that it had; does not wait until it is ready."""
        with self.changing() as where:
            extra = where.state.extra_environments.get(name)
            self._start_alone(where, where.component_named(name, extra))

    def how_ended(self, name: str) -> str:
        """How something that is on record, and does not run, ended; its exit code if it is known here."""
        return self._supervisor.how_ended(name)

    def wait_ready(self, name: str, *, instance: int = 1, timeout_seconds: float | None = None) -> None:
        """Waits until a started server or process does its work."""
        component = self.addresses.component(name, instance)
        self._supervisor.wait_ready(component, timeout_seconds)

    def stop(self, name: str, *, instance: int = 1, grace_seconds: float | None = None) -> None:
        """Asks it to end; kills it when it does not within `grace_seconds`."""
        with self.changing() as where:
            self._supervisor.stop([where.component(name, instance)], grace_seconds)

    def kill(self, name: str, *, instance: int = 1) -> None:
        """Ends it as a power failure would, children included (SIGKILL)."""
        with self.changing() as where:
            self._supervisor.kill(where.runs_in(instance_name(name, instance)))

    def pause(self, name: str, *, instance: int = 1) -> None:
        """Freezes it, children included (SIGSTOP): it keeps its connections and answers nothing."""
        with self.changing() as where:
            self._supervisor.pause(where.runs_in(instance_name(name, instance)))

    def resume(self, name: str, *, instance: int = 1) -> None:
        """Lets a frozen one go on (SIGCONT)."""
        with self.changing() as where:
            self._supervisor.resume(where.runs_in(instance_name(name, instance)))

    def pid(self, name: str, *, instance: int = 1) -> int | None:
        """Its process id; None when it does not run."""
        identity = self._supervisor.state.running(self.addresses.runs_in(instance_name(name, instance)))
        return None if identity is None else identity.pid

    # -- what it knows -------------------------------------------------------------------------------

    @property
    def addresses(self) -> Addresses:
        """Every URL, password and path of this rig, as of now."""
        state = self._current(self._supervisor.state)
        return Addresses(state, self._places(), self.blueprint, self._environment, self._preload)

    def log(self, name: str, *, instance: int = 1) -> Path:
        """The log file of one server or process."""
        return self._places().logs / f"{instance_name(name, instance)}.log"

    def rabbitmqctl(self, *arguments: str) -> str:
        """Runs RabbitMQ's command line tool on the private broker; returns what it prints."""
        where = self.addresses
        return where.rabbitmq.control(where.server_environment(), *arguments)

    def import_definitions(self, definitions: provision.Definitions) -> None:
        """Adds users, vhosts, queues and so on to the private broker (RabbitMQ's definitions format)."""
        where = self.addresses
        where.rabbitmq.import_definitions(where.server_environment(), definitions)

    # -- how -----------------------------------------------------------------------------------------

    def _places(self) -> Places:
        return places_of(self.state_dir, self._run_as)

    @contextmanager
    def changing(self) -> Iterator[Addresses]:
        """Holds the rig's lock; what is changed of the state inside is kept."""
        prepared = self._places()
        prepare_places(prepared)
        with self._supervisor.changing() as state:
            current = self._current(state)
            where = Addresses(current, prepared, self.blueprint, self._environment, self._preload)
            where.assign_all()
            _enter_own_token(where)
            if not state.any_running():
                state.move_taken_ports()
            yield where

    def _current(self, state: RigState) -> RigState:
        """What runs stays as it was started, whatever the environment of this command says."""
        if not state.any_running():
            state.given_servers = given_servers(self._environment)
            state.all_in_one = self._wants_all_in_one
        return state

    def _demand_same_servers(self, state: RigState) -> None:
        for kind, url in given_servers(self._environment).items():
            if state.given_servers.get(kind) != url:
                raise RigError(f"the system is running with another {kind}: stop it first (make down)")
        if self._wants_all_in_one and not state.all_in_one:
            raise RigError("the system is running, each service as a process: stop it first (make down)")

    @property
    def _wants_all_in_one(self) -> bool:
        return self._environment.get(ALL_IN_ONE_VARIABLE, "") in YES

    @contextmanager
    def _undone_on_failure(self) -> Iterator[list[str]]:
        self._started_here = []
        try:
            yield self._started_here
        except BaseException:
            with uninterrupted():
                where = self.addresses
                self._supervisor.stop(where.components(reversed(self._started_here)))
                if not where.state.any_running():
                    self._supervisor.sweep()
            raise

    def _start_databases(self, where: Addresses) -> None:
        self._start_postgres(where)
        admin_url, passwords = where.postgres_admin_url, where.database_passwords
        provision.provision_databases(admin_url, passwords)
        provision.migrate(self.blueprint, admin_url, passwords)

    def _start_postgres(self, where: Addresses) -> None:
        if where.external_postgres is None:
            self._start_and_wait(where.component(POSTGRES))

    def _start_broker(self, where: Addresses) -> None:
        if where.external_rabbitmq is not None:
            provision.declare(self.blueprint, where.external_rabbitmq)
            return
        self._start_and_wait(where.component(NAME_SERVICE))
        self._start_and_wait(where.component(RABBITMQ))
        self._teach_broker(where)

    def _teach_broker(self, where: Addresses) -> None:
        passwords = where.broker_passwords
        definitions = self.blueprint.definitions(passwords)
        where.rabbitmq.learn(where.server_environment(), definitions, passwords)

    def _start_alone(self, where: Addresses, component: Component) -> None:
        if component.name == RABBITMQ:
            self._start_and_wait(where.component(NAME_SERVICE))
        if not is_free(component.port) and where.state.running(component.name) is None:
            raise RigError(f"port {component.port} of {component.name} is taken by another program")
        self._supervisor.start(component)

    def _start_and_wait(self, component: Component) -> None:
        if self._supervisor.start(component):
            self._started_here.append(component.name)
        self._supervisor.wait_ready(component)

    def _starting(self, component: Component) -> Task:
        return lambda: self._start_and_wait(component)

    def _together(self, tasks: Sequence[Task]) -> None:
        """Runs all at the same time; the first failure, or Ctrl-C, makes the others give up."""
        with ThreadPoolExecutor(len(tasks)) as threads:
            running = [threads.submit(task) for task in tasks]
            try:
                wait(running, return_when=FIRST_EXCEPTION)
                failures = [failed for task in running if task.done() and (failed := task.exception())]
            except BaseException:
                failures = [Interrupted()]
                raise
            finally:
                if failures:
                    self._supervisor.give_up()
                    wait(running)
                    self._supervisor.carry_on()
            if failures:
                raise failures[0]

    def _stop_by_full_name(self, name: str) -> None:
        with self.changing() as where:
            self._supervisor.stop(where.components([name]))


def _enter_own_token(where: Addresses) -> None:
    """Also where somebody deleted the file: what this rig remembers is good."""
    entry = tokens.named(addresses.LOCAL_NAME, tokens.Role.ADMIN, where.token)
    try:
        known = tokens.entries_in(where.tokens_file.read_text()) if where.tokens_file.exists() else []
        if entry.hash not in {each.hash for each in known}:
            tokens.add(where.tokens_file, [entry])
    except (OSError, tokens.BadEntry) as error:
        raise RigError(f"{where.tokens_file} cannot be used: {error}") from error
