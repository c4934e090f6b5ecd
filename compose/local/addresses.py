"""Where everything of one rig is, and which settings each process gets."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from compose.local.commands import RigError
from compose.local.components import (
    NAME_SERVICE,
    POSTGRES,
    PREFIX,
    RABBITMQ,
    SMTP_PORT,
    Component,
    NameServiceComponent,
    PostgresComponent,
    RabbitComponent,
    ServiceProcess,
    gateway_variables,
    instance_name,
)
from compose.local.ports import LOOPBACK
from compose.local.postgres import PrivatePostgres
from compose.local.provision import (
    ADMIN_USER,
    ALL_IN_ONE,
    SANDBOX,
    TOGETHER,
    Blueprint,
    ProcessSpec,
    url_of,
)
from compose.local.rabbitmq import MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES_VARIABLE, PrivateRabbit, RabbitPorts
from compose.local.state import Places, RigState
from events.http.sessions import Links, session_key
from events.messaging.topology import TRACKER

POSTGRES_VARIABLE = f"{PREFIX}POSTGRES_URL"
RABBITMQ_VARIABLE = f"{PREFIX}RABBITMQ_URL"
# Known to the rig alone: administrators' URLs are none of a service's business.
KEPT_FROM_PROCESSES = frozenset({POSTGRES_VARIABLE, RABBITMQ_VARIABLE})

PAYMENT, FULFILLMENT = "payment", "fulfillment"
# Whose token a rig has of its own.
LOCAL_NAME = "local"
ALL_IN_ONE_VARIABLE = f"{PREFIX}ALL_IN_ONE"
# Who gets to a process here is on this machine; unless the environment says otherwise.
_ON_LOOPBACK = {f"{PREFIX}AUTH": "open", f"{PREFIX}ORDERS": "internal", f"{PREFIX}SIGN_IN_LINK": "true"}


def given_servers(environment: Mapping[str, str]) -> dict[str, str]:
    """The servers that the environment says to use instead of private ones."""
    found = {POSTGRES: environment.get(POSTGRES_VARIABLE), RABBITMQ: environment.get(RABBITMQ_VARIABLE)}
    return {kind: url for kind, url in found.items() if url}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Derived from the state, the places and the environment; asking assigns ports and passwords."""

    state: RigState
    places: Places
    blueprint: Blueprint
    environment: Mapping[str, str]
    preload: tuple[str, ...] = ()

    @property
    def external_postgres(self) -> str | None:
        """The administrator's URL of a PostgreSQL that is not ours, if one was given."""
        return self.state.given_servers.get(POSTGRES)

    @property
    def external_rabbitmq(self) -> str | None:
        """The administrator's URL of a RabbitMQ that is not ours, if one was given."""
        return self.state.given_servers.get(RABBITMQ)

    @property
    def postgres(self) -> PrivatePostgres:
        return PrivatePostgres(
            home=self.places.postgres_home,
            port=self.state.port(POSTGRES),
            password=self.state.secret(POSTGRES),
            log=self.places.logs / f"{POSTGRES}.log",
            run_as=self.places.run_as,
            preload=self.preload,
        )

    @property
    def rabbitmq(self) -> PrivateRabbit:
        ports = RabbitPorts(
            amqp=self.state.port(RABBITMQ),
            name_service=self.state.port(NAME_SERVICE),
            distribution=self.state.port("rabbitmq-distribution"),
        )
        bound = self.environment.get(MAX_MESSAGE_BYTES_VARIABLE) or str(MAX_MESSAGE_BYTES)
        return PrivateRabbit(self.places.rabbitmq_home, ports, self.places.logs / f"{RABBITMQ}.log", bound)

    @property
    def postgres_admin_url(self) -> str:
        return self.external_postgres or self.postgres.admin_url()

    @property
    def rabbitmq_admin_url(self) -> str:
        return self.broker_url(ADMIN_USER)

    @property
    def database_passwords(self) -> dict[str, str]:
        """By role, which is also the name of the database."""
        names = [spec.name for spec in self.blueprint.with_database]
        return {name: self.state.secret(f"database/{name}") for name in names}

    @property
    def broker_passwords(self) -> dict[str, str]:
        return {user: self.state.secret(f"broker/{user}") for user in self.blueprint.broker_users}

    def database_url(self, name: str) -> str:
        return url_of(self.postgres_admin_url, name, self.database_passwords[name])

    def broker_url(self, user: str) -> str:
        """A broker that is not ours is used as its administrator by everyone."""
        return self.external_rabbitmq or self.rabbitmq.url(user, self.broker_passwords[user])

    @property
    def admin_token(self) -> str:
        return self.state.secret("admin-token")

    @property
    def token(self) -> str:
        """Of whoever uses this rig, by the name of LOCAL_NAME."""
        return self.state.secret("token")

    def sign_in_link(self, name: str) -> str:
        """Where whoever opens it first, and soon, is signed in by this name."""
        token = Links(session_key(self.admin_token)).make(name)
        return f"{self.http(TRACKER)}/sign-in/link?token={token}"

    @property
    def tokens_file(self) -> Path:
        """The named tokens, by their hashes; `make token` adds to it."""
        return self.places.state_dir / "tokens"

    @property
    def sandbox_ledger(self) -> Path:
        return self.places.state_dir / "sandbox.sqlite3"

    def http(self, name: str, instance: int = 1) -> str:
        """The base URL of one process."""
        return f"http://{LOOPBACK}:{self.state.port(instance_name(name, instance))}"

    def process(self, name: str, instance: int = 1, extra: Mapping[str, str] | None = None) -> ServiceProcess:
        """One instance of a process, with all its settings. Raises KeyError for an unknown name."""
        spec = self.blueprint.spec(name)
        full_name = instance_name(name, instance)
        port = self.state.port(full_name)
        environment = self.inherited_environment() | self._own_variables(spec, port) | dict(extra or {})
        log = self.places.logs / f"{full_name}.log"
        return ServiceProcess(full_name, spec.package, port, _ON_LOOPBACK | environment, log)

    def _all_in_one(self, extra: Mapping[str, str] | None) -> ServiceProcess:
        """The process that runs all of them; each variable names whom it is for."""
        together = self.blueprint.with_database
        found = {
            variable.replace(PREFIX, f"{PREFIX}{spec.name.upper()}_"): value
            for spec in together
            for variable, value in self._own_variables(spec, self.state.port(spec.name)).items()
            if variable.startswith(PREFIX)
        }
        environment = _ON_LOOPBACK | self.inherited_environment() | {"PYTHONUNBUFFERED": "1"} | found
        # The tracker's is the one to show.
        *others, port = [self.state.port(spec.name) for spec in together]
        log = self.places.logs / f"{ALL_IN_ONE}.log"
        environment |= dict(extra or {})
        return ServiceProcess(ALL_IN_ONE, TOGETHER.package, port, environment, log, tuple(others))

    def _own_variables(self, spec: ProcessSpec, port: int) -> dict[str, str]:
        """What one process reads besides what is there for all; of some things the environment says where."""
        name = spec.name
        variables = {
            f"{PREFIX}HTTP_HOST": LOOPBACK,
            f"{PREFIX}HTTP_PORT": str(port),
            f"{PREFIX}ADMIN_TOKEN": self.admin_token,
            f"{PREFIX}TOKENS_FILE": str(self.tokens_file),
            "PYTHONUNBUFFERED": "1",
        }
        if spec.has_database:
            variables[f"{PREFIX}DATABASE_URL"] = self.database_url(name)
            variables[f"{PREFIX}BROKER_URL"] = self.broker_url(name)
        if name == SANDBOX:
            variables[f"{PREFIX}SMTP_PORT"] = str(self.state.port(SMTP_PORT))
            variables[f"{PREFIX}SANDBOX_LEDGER"] = str(self.sandbox_ledger)
        if spec.gateways:
            ports = self.state.port(SANDBOX), self.state.port(SMTP_PORT)
            variables |= gateway_variables(spec.gateways, *ports)
        known = {other.name for other in self.blueprint.processes}
        if urls := {asked: self.http(asked) for asked in spec.asks if asked in known}:
            variables[f"{PREFIX}SERVICE_URLS"] = json.dumps(urls)
            # As the release before has them.
            variables |= {f"{PREFIX}{asked.upper()}_URL": url for asked, url in urls.items()}
        given = self.inherited_environment()
        doors = self._stripe(name, given) | self._easypost(name, given)
        outside = doors | self._customers(name, given)
        directory = f"{PREFIX}DIRECTORY_URL"
        if directory in variables and f"{PREFIX}DIRECTORY_TOKEN" in outside:
            # As the release before shows its token; this one shows it as a bearer.
            password = outside[f"{PREFIX}DIRECTORY_TOKEN"]
            variables[directory] = variables[directory].replace("://", f"://murmuration:{password}@")
        return {key: text for key, text in outside.items() if key not in given} | variables

    def _customers(self, name: str, given: Mapping[str, str]) -> dict[str, str]:
        """What the sandbox's directory takes, and where its customers' URLs for apprise lead: to it."""
        token, services = f"{PREFIX}DIRECTORY_TOKEN", f"{PREFIX}PUSH_SERVICES"
        asks = name == SANDBOX or "directory" in self.blueprint.spec(name).gateways
        found = {}
        if asks and not given.keys() & {token, f"{token}_FILE"}:
            found[token] = self.state.secret("directory")
        if "push" in self.blueprint.spec(name).gateways:
            found[services] = json.dumps([f"json@{LOOPBACK}:{self.state.port(SANDBOX)}"])
        return found

    def _stripe(self, name: str, given: Mapping[str, str]) -> dict[str, str]:
        """How payment and the sandbox's door in Stripe's form find each other; nothing for Stripe itself."""
        key, secret = f"{PREFIX}STRIPE_KEY", f"{PREFIX}STRIPE_WEBHOOK_SECRET"
        if given.keys() & {key, f"{key}_FILE", secret, f"{secret}_FILE"}:
            return {}
        signed = {secret: f"whsec_{self.state.secret('stripe-webhooks')}"}
        if name == PAYMENT:
            return {
                f"{PREFIX}STRIPE_API": self.http(SANDBOX),
                key: f"sk_test_{self.state.secret('stripe')}",
            } | signed
        if name == SANDBOX and PAYMENT in {spec.name for spec in self.blueprint.processes}:
            return {f"{PREFIX}SANDBOX_WEBHOOK_URL": f"{self.http(PAYMENT)}/webhooks/stripe"} | signed
        return {}

    def _easypost(self, name: str, given: Mapping[str, str]) -> dict[str, str]:
        """Where fulfilment finds the sandbox's door in EasyPost's form; nothing for EasyPost itself."""
        key = f"{PREFIX}EASYPOST_KEY"
        if name != FULFILLMENT or given.keys() & {key, f"{key}_FILE"}:
            return {}
        return {
            f"{PREFIX}EASYPOST_API": self.http(SANDBOX),
            f"{PREFIX}EASYPOST_FROM": "adr_sandbox",
            key: f"EZTK{self.state.secret('easypost')}",
        }

    @property
    def started(self) -> tuple[ProcessSpec, ...]:
        """What runs as a process of its own."""
        return self.blueprint.started(all_in_one=self.state.all_in_one)

    def runs_in(self, full_name: str) -> str:
        """The process that does the work of this one: itself, or the one that does all of it."""
        together = (spec.name for spec in self.blueprint.with_database)
        return ALL_IN_ONE if self.state.all_in_one and full_name in {*together, ALL_IN_ONE} else full_name

    @property
    def external(self) -> frozenset[str]:
        """The servers that are not ours."""
        found = {POSTGRES} if self.external_postgres else set()
        return frozenset(found | ({RABBITMQ, NAME_SERVICE} if self.external_rabbitmq else set()))

    def component(self, name: str, instance: int = 1, extra: Mapping[str, str] | None = None) -> Component:
        """A server, or one instance of a process. Raises KeyError, and RigError for a server not ours."""
        if name in self.external:
            raise RigError(f"{name} is a server of your own: this rig neither starts nor stops it")
        environment = self.server_environment()
        if name == POSTGRES:
            return PostgresComponent(self.postgres, environment)
        if name == RABBITMQ:
            return RabbitComponent(self.rabbitmq, environment, self.broker_passwords[ADMIN_USER])
        if name == NAME_SERVICE:
            return NameServiceComponent(self.rabbitmq, environment)
        if self.runs_in(instance_name(name, instance)) == ALL_IN_ONE:
            return self._all_in_one(extra)
        return self.process(name, instance, extra)

    def component_named(self, full_name: str, extra: Mapping[str, str] | None = None) -> Component:
        """The same, by a name such as `order-2`."""
        kind, _, number = full_name.rpartition("-")
        instance = (kind, int(number)) if number.isdigit() and kind else (full_name, 1)
        return self.component(*instance, extra)

    def components(self, full_names: Iterable[str]) -> list[Component]:
        """Several of them."""
        return [self.component_named(name) for name in full_names]

    def inherited_environment(self) -> dict[str, str]:
        """What processes get of ours: everything but the administrators' URLs."""
        return {name: value for name, value in self.environment.items() if name not in KEPT_FROM_PROCESSES}

    def server_environment(self) -> dict[str, str]:
        """What servers get of ours: nothing that is meant for us or for Python."""
        foreign = (PREFIX, "PYTHON", "PG", "LC_")
        kept = {name: value for name, value in self.environment.items() if not name.startswith(foreign)}
        return kept | {"LANG": "C.UTF-8", "PATH": kept.get("PATH", os.defpath)}

    def assign_all(self) -> None:
        """Chooses every port and password there will be, so that later uses only read them."""
        for spec in self.blueprint.processes:
            self.state.port(spec.name)
        self.state.port(SMTP_PORT)
        _ = self.database_passwords, self.broker_passwords, self.admin_token, self.token
        for secret in ("stripe", "stripe-webhooks", "easypost", "directory"):
            _ = self.state.secret(secret)
        _ = self.postgres, self.rabbitmq
