"""compose.yaml says of every process what the code says, and leaves no door open. No engine is needed."""

import re

import pytest

from compose.containers.env import FOLDER, broker_variable, database_variable, secrets_in
from compose.containers.rig import NAMES
from compose.containers.stack import PRIVATE_PORTS
from compose.local.components import STOP_GRACE_SECONDS
from compose.local.provision import ProcessSpec
from compose.system import PROCESSES
from events.runtime.settings import ServiceSettings

TEXT = (FOLDER / "compose.yaml").read_text()
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
BOUNDS = ("restart:", "stop_grace_period:", "mem_limit:", "pids_limit:", "security_opt:", "logging:")
WITH_DATABASE = [spec for spec in PROCESSES if spec.has_database]
ONE_SHOT = "provision"


def section(name: str) -> str:
    """A top-level part of the file."""
    found = re.search(rf"^{re.escape(name)}:.*?\n(.*?)(?=^\S|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"there is no {name}"
    return found[1]


def services() -> dict[str, str]:
    """The text of each service, with what it takes over from the common part."""
    parts = re.split(r"^  ([a-z]+):\n", section("services"), flags=re.MULTILINE)
    common = {"*process": section("x-process"), "*environment": section("x-process-environment")}
    found = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        inherited = "".join(common[anchor] for anchor in re.findall(r"<<: (\*\w+)", text) if anchor in common)
        found[name] = text + inherited
    return found


SECRETS = secrets_in()
SERVICES = services()


def variable(service: str, name: str) -> str | None:
    """What a service is told, as it stands in the file."""
    found = re.search(rf'^ +{name}: "?(.*?)"?$', SERVICES[service], re.MULTILINE)
    return found[1] if found else None


def test_it_runs_every_server_and_process() -> None:
    optional = {name for name, text in SERVICES.items() if "profiles:" in text}
    assert optional == {"mailpit", "jaeger", "prometheus", "grafana"}
    assert set(SERVICES) - optional == {*NAMES, ONE_SHOT}


@pytest.mark.parametrize("spec", PROCESSES, ids=lambda spec: spec.name)
def test_a_process_runs_its_package_and_knows_whom_it_calls(spec: ProcessSpec) -> None:
    assert f"command: [{spec.package}]\n" in SERVICES[spec.name]
    for gateway in spec.gateways:
        if gateway == "smtp":
            assert variable(spec.name, "MURMURATION_SMTP_URL") == "${MAIL_SINK_URL:-smtp://sandbox:8025}"
        else:
            url = f"http://sandbox:8000/{gateway.replace('_', '/')}"
            assert variable(spec.name, f"MURMURATION_{gateway.upper()}_URL") == url
    for asked in spec.asks:
        form = variable(spec.name, "MURMURATION_SERVICES_URL")
        assert form is not None
        assert form.format(service=asked) == f"http://{asked}:8000"


@pytest.mark.parametrize("spec", WITH_DATABASE, ids=lambda spec: spec.name)
def test_a_process_has_a_role_a_database_and_a_user_of_its_own(spec: ProcessSpec) -> None:
    name = spec.name
    database, broker = database_variable(name), broker_variable(name)
    assert variable(name, "MURMURATION_DATABASE_URL") == (
        f"postgresql://{name}:${{{database}:?}}@postgres:5432/{name}"
    )
    assert variable(name, "MURMURATION_BROKER_URL") == f"amqp://{name}:${{{broker}:?}}@rabbitmq:5672/"
    # Whoever takes webhooks knows what signs them, whoever asks the directory its token; nobody else does.
    own = {"STRIPE_WEBHOOK_SECRET"} if name == "payment" else set()
    own |= {"DIRECTORY_TOKEN"} if "directory" in spec.gateways else set()
    demanded = set(re.findall(r"\$\{(\w+):\?", SERVICES[name]))
    assert demanded == {database, broker, "ADMIN_TOKEN", "TOKENS"} | own


@pytest.mark.parametrize("name", SERVICES)
def test_everything_is_bounded(name: str) -> None:
    text = SERVICES[name]
    assert [bound for bound in BOUNDS if not re.search(rf"^ +{bound}", text, re.MULTILINE)] == []


def networks_of(text: str) -> set[str]:
    """The networks a service is on: its own line counts for more than what it takes over."""
    found = re.search(r"^ +networks: (.*)$", text, re.MULTILINE)
    assert found, "it is on the default network"
    listed = re.search(r"\[(.*)\]", section("x-both-servers") if found[1] == "*both" else found[1])
    assert listed
    return set(listed[1].split(", "))


def test_whoever_talks_to_a_server_is_on_its_network_and_no_other_is() -> None:
    both = {ONE_SHOT, *(spec.name for spec in WITH_DATABASE)}
    on = {name: networks_of(text) for name, text in SERVICES.items()}
    assert {name for name, found in on.items() if "broker" in found} == both | {"rabbitmq", "prometheus"}
    assert {name for name, found in on.items() if "databases" in found} == both | {"postgres"}
    # An internal network publishes no ports.
    assert {name for name, found in on.items() if not found & {"web", "outside"}} == {ONE_SHOT}
    assert section("networks").count("internal: true") == 2


def test_every_process_takes_settings_of_a_persons_own() -> None:
    assert 'env_file: [{path: "${SETTINGS_FILE:-settings.env}", required: false}]' in section("x-process")
    assert {name for name, text in SERVICES.items() if "env_file:" in text} == {
        ONE_SHOT,
        *(spec.name for spec in PROCESSES),
    }


def test_every_port_is_on_loopback() -> None:
    ports = [
        port
        for text in SERVICES.values()
        for listed in re.findall(r"^    ports:(.*?)(?=^    \w|\Z)", text, re.MULTILINE | re.DOTALL)
        for port in re.findall(r'"(.*?)"', listed)
    ]
    assert len(ports) == len(NAMES) + 1 + 4, "one each, the broker's management, and the four optional ones"
    assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\$\{\w+_PORT:-\d+\}:\d+", port)] == []
    assert "network_mode" not in TEXT
    own = {
        re.findall(r"\w+_PORT", port)[0]
        for name in NAMES
        for port in re.findall(r'"(.*?)"', SERVICES[name])
        if "_PORT" in port
    }
    assert own == set(PRIVATE_PORTS), "a private stack has others"


def test_no_secret_has_a_default() -> None:
    # The nodes of a cluster have one more: see test_cluster_file.py.
    assert set(re.findall(r"\$\{(\w+):\?", TEXT)) == set(SECRETS) - {"ERLANG_COOKIE"}
    defaults = set(re.findall(r"\$\{(\w+):-", TEXT))
    assert defaults & set(SECRETS) == set()
    secrets = re.findall(r"^ +(\w*(?:PASS|TOKEN|SECRET)\w*): (.*)$", TEXT, re.MULTILINE)
    assert [entry for entry in secrets if not re.fullmatch(r"\$\{\w+:\?.*\}", entry[1])] == []
    credentials = re.findall(r"//\w+:(.*?)@", TEXT)
    assert [password for password in credentials if not re.fullmatch(r"\$\{\w+:\?\}", password)] == []


def test_what_a_process_needs_is_there_before_it_starts() -> None:
    provisioned = section("x-provisioned")
    for needed in ("postgres: {condition: service_healthy}", "rabbitmq: {condition: service_healthy}"):
        assert needed in provisioned
        assert needed in SERVICES[ONE_SHOT]
    assert "provision: {condition: service_completed_successfully}" in provisioned
    for spec in WITH_DATABASE:
        assert "*provisioned" in SERVICES[spec.name], spec.name
        if spec.gateways and not spec.asks:
            assert "sandbox: {condition: service_healthy}" in SERVICES[spec.name], spec.name
    for server in ("postgres", "rabbitmq"):
        assert "healthcheck:" in SERVICES[server]


def test_what_must_not_stop_is_restarted_and_what_stops_has_the_time() -> None:
    assert 'restart: "no"' in SERVICES[ONE_SHOT]
    assert [name for name, text in SERVICES.items() if "restart: unless-stopped" not in text] == []
    grace = [int(seconds) for seconds in re.findall(r"stop_grace_period: (\d+)s", section("x-process"))]
    own = ServiceSettings.model_fields["stop_grace_seconds"].default
    assert grace
    assert grace[0] >= STOP_GRACE_SECONDS > own


def test_a_process_can_change_nothing_in_its_container() -> None:
    common = section("x-process")
    for line in ("read_only: true", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]'):
        assert line in common
    built, final = DOCKERFILE.split("\nFROM ")[1:]
    assert built.split()[0] == final.split()[0] == "python:3.13-slim"
    assert "USER 10001:10001" in final
    assert "HEALTHCHECK" in final
    assert "pip" not in final, "nothing is installed where it runs"


def test_no_secret_and_no_data_is_sent_to_the_builder() -> None:
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    packages = {spec.package.partition(".")[0] for spec in PROCESSES}
    matched = {name for name in packages if name in sent or (name.endswith("_svc") and "*_svc" in sent)}
    assert matched == packages
    for private in ("compose/.env*", "compose/settings.env"):
        assert ignored.index(private) > ignored.index("!compose")
