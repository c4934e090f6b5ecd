"""What the documents name exists, and what they show is what the code has."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from pydantic_settings import BaseSettings
from starlette.routing import Route

from compose.demo.scenarios import SCENARIOS
from compose.drills.catalogue import DRILLS
from compose.local.addresses import POSTGRES_VARIABLE, RABBITMQ_VARIABLE
from compose.local.state import CHECKOUT as ROOT
from compose.map import BEGIN, DOCUMENT, END, PICTURE, draw_map, draw_picture, subscribers, with_map
from compose.sandbox.app import SandboxSettings
from compose.sandbox.operations import FaultRule
from compose.sandbox.provider import CARDS
from compose.system import SERVICE_NAMES, SERVICES, TRACKER
from events.facts.base import SupersededFact
from events.runtime.definition import CHOSEN_VARIABLE
from events.runtime.settings import ENV_PREFIX, ServiceSettings
from events.service import STREAM, name_of
from order_svc.api import OrderRequest
from saga_tracker.http.views import SagaWithTimeline
from saga_tracker.service import ROUTERS
from saga_tracker.settings import TrackerSettings
from tests.contracts.published import PUBLISHED

README = ROOT / "README.md"
CHOREOGRAPHY, OPERATE, PRODUCTION, CONCEPTS, ADD_A_SERVICE = (
    ROOT / "docs" / f"{name}.md"
    for name in ("choreography", "operate", "production", "concepts", "add-a-service")
)
DOCUMENTS = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
EXAMPLES = "tests/examples"
EXAMPLE = f"{EXAMPLES}/loyalty_svc"
README_LINES = 150
GLOSSARY_TERMS = 20
# What is there only where somebody wrote it, or was there in an earlier release.
NOT_IN_THE_TREE = {"compose/settings.env", "compose/.env"}
OF_AN_EARLIER_RELEASE = {"compose/GOING_FURTHER.md", "compose/RUNBOOK.md", "events/CHOREOGRAPHY.md"}
OWNED = {*SERVICE_NAMES, TRACKER}
OWNERS = "|".join([*(service.name for service in SERVICES), "saga"])
RIG_VARIABLES = {POSTGRES_VARIABLE, RABBITMQ_VARIABLE, CHOSEN_VARIABLE, "MURMURATION_STATE_DIR"}
KINDS_OF_SETTINGS: list[type[BaseSettings]] = [
    TrackerSettings,
    SandboxSettings,
    *(service.settings for service in SERVICES),
]
SETTINGS = {field.upper() for kind in KINDS_OF_SETTINGS for field in kind.model_fields}
# By the first words of what a block of JSON says that it is: ```json POST /orders
BODIES: dict[str, type[BaseModel]] = {
    "POST /orders": OrderRequest,
    "PUT /faults": FaultRule,
    "GET /sagas/ORDER_ID": SagaWithTimeline,
    **{fact.wire_name: fact for fact in PUBLISHED.values()},
}
# What is named of RabbitMQ, PostgreSQL, PgBouncer and their clients.
NAMES_OF_OTHERS = {
    "quorum_status",
    "server_idle_timeout",
    "synchronous_standby_names",
    "target_session_attrs",
    "wal_compression",
}
# Words that a newcomer would have to look up; each has a usual one in the place of it.
PRIVATE_WORDS = r"hears?|heard|told|said|keepers?|trails?|settles?|settled|dead letter office|workspace"
CODE_FOLDERS = ("compose", "events", "saga_tracker", "tests", *(service.package for service in SERVICES))
CODE_SUFFIXES = {".py", ".yaml", ".conf"}
BLOCK = re.compile(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def blocks_of(document: Path, language: str) -> list[tuple[str, str]]:
    """What each block in this language says that it is, and what is in it."""
    return [(about, text) for kind, about, text in BLOCK.findall(document.read_text()) if kind == language]


def anchors_of(document: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def default_of(settings: type[BaseSettings], field: str) -> Any:
    return settings.model_fields[field].get_default(call_default_factory=True)


@pytest.mark.parametrize("document", [*DOCUMENTS, WORKFLOW], ids=lambda path: path.name)
def test_every_command_it_names_is_one_of_makes(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(
        r"(?:`|run: |^[ >$]*|\(|[A-Z_]+=\S+ )make ([a-z][a-z-]*)\b", document.read_text(), re.MULTILINE
    )
    assert set(named) <= targets


@every_document
def test_every_file_it_names_exists(document: Path) -> None:
    named = re.findall(
        r"`((?:events|compose|tests|docs|saga_tracker|\w+_svc)/[\w/.-]+)", document.read_text()
    )
    unknown = set(named) - NOT_IN_THE_TREE - OF_AN_EARLIER_RELEASE
    for path in unknown:
        assert (ROOT / path).exists() or (ROOT / EXAMPLES / path).exists(), path


@every_document
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors_of(linked), target


@every_document
def test_every_test_it_names_exists(document: Path) -> None:
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", document.read_text()):
        found = re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
        assert found, f"{path}::{name}"


@every_document
def test_every_fact_it_names_is_published(document: Path) -> None:
    text = document.read_text()
    named = set(re.findall(rf"`((?:{OWNERS})\.[a-z_]+)`", text)) - {f"{owner}.facts" for owner in OWNERS}
    assert named <= {name_of(fact) for fact in PUBLISHED.values()}
    wire_names = set(re.findall(rf"`((?:{OWNERS})\.[a-z_]+\.v\d+)`", text))
    assert wire_names <= {fact.wire_name for fact in PUBLISHED.values()}


@every_document
def test_every_setting_it_names_is_one(document: Path) -> None:
    text = document.read_text()
    named = set(re.findall(rf"\b{ENV_PREFIX}([A-Z][A-Z_]+[A-Z])\b", text))
    named |= set(re.findall(r"`([A-Z_]+_(?:SECONDS|DAYS|BYTES|DIR|SIZE))\b", text)) - {"MAX_STREAM_BYTES"}
    named = {name.removeprefix(ENV_PREFIX) for name in named}
    # One may be for one of them alone (compose/all_in_one.py).
    owned = {name: name.partition("_") for name in named}
    named = {rest if owner.lower() in OWNED else name for name, (owner, _, rest) in owned.items()}
    assert {name for name in named if f"{ENV_PREFIX}{name}" not in RIG_VARIABLES} <= SETTINGS


@pytest.fixture(scope="module")
def names_in_the_code() -> set[str]:
    """Every word of code and configuration, and every file's name."""
    found: set[str] = set()
    for folder in CODE_FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in CODE_SUFFIXES:
                found |= {path.stem, *re.findall(r"\w+", path.read_text())}
    return found


@every_document
def test_every_identifier_it_names_is_in_the_code(document: Path, names_in_the_code: set[str]) -> None:
    """Log lines, reasons, fields, metrics, settings: whatever is written as code and has an underscore."""
    spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", document.read_text()))
    named = {word for span in spans for word in re.findall(r"\w+", span) if "_" in word.strip("_")}
    bare = {word: word.removeprefix(ENV_PREFIX) for word in named}
    settings = {word for word, name in bare.items() if {name, name.removesuffix("_FILE")} & SETTINGS}
    assert named - settings - NAMES_OF_OTHERS <= names_in_the_code


@every_document
def test_every_module_it_runs_exists(document: Path) -> None:
    for module in re.findall(r"python3? -m ([\w.]+)", document.read_text()):
        assert find_spec(module) is not None, module


@every_document
def test_every_path_it_names_is_a_route(document: Path) -> None:
    text = document.read_text()
    routers: list[APIRouter] = [*ROUTERS, *(router for service in SERVICES for router in service.routers)]
    known = {route.path for router in routers for route in router.routes if isinstance(route, Route)}
    known |= {"/healthz", "/readyz", "/metrics", "/asyncapi.json", "/docs", "/redoc"}
    known |= {"/states", "/states/forget"}
    for source in (ROOT / "compose" / "sandbox").glob("*.py"):
        known |= set(re.findall(r'"(/[a-z][\w/{}-]*)"', source.read_text()))
    shapes = {re.sub(r"\{\w+\}", "*", path) for path in known}
    named = re.findall(r"\b(?:GET|POST|PUT|DELETE) (?:\$\w+)?(/[\w/{}.-]*)", text)
    named += re.findall(r"\$(?:\w+)_URL(/[\w/{}.-]+)", text)
    for path in named:
        shape = re.sub(r"\{\w+\}|[A-Z]+(?:_[A-Z0-9]+)*|[0-9a-f]{8}-[0-9a-f-]{27}", "*", path.rstrip("./"))
        variants = {shape, re.sub(r"^(/stock|/directory/customers)/[^/]+$", r"\1/*", shape)}
        assert variants & shapes or path == "/", path


@every_document
def test_its_json_is_what_the_code_takes(document: Path) -> None:
    for about, text in blocks_of(document, "json"):
        read = json.loads(text)
        if about:
            kind = BODIES[about]
            kind.model_validate_json(text)
            assert set(read) <= set(kind.model_fields), "it has fields that nobody knows"


@every_document
def test_its_blocks_of_files_are_these_files(document: Path) -> None:
    """A block that names a file shows it whole."""
    for kind, about, text in BLOCK.findall(document.read_text()):
        if kind != "json" and "/" in about:
            assert text == (ROOT / about).read_text(), about


def test_adding_a_service_shows_every_file_of_the_example() -> None:
    shown = {about for _, about, _ in BLOCK.findall(ADD_A_SERVICE.read_text()) if about.startswith(EXAMPLE)}
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / EXAMPLE).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shown == files


def test_its_stanza_for_the_containers_is_like_that_of_another_service() -> None:
    (_, stanza), *_ = blocks_of(ADD_A_SERVICE, "yaml")
    compose = (ROOT / "compose" / "compose.yaml").read_text()
    found = re.search(r"^  inventory:\n(?:    .+\n)+", compose, re.MULTILINE)
    assert found
    renamed = stanza.replace("loyalty", "inventory").replace("LOYALTY", "INVENTORY").replace("18008", "18002")
    assert renamed == found[0]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES


def test_its_table_of_drills_has_each_of_them() -> None:
    text = README.read_text()
    table = text[text.index("<!-- drills:") : text.index("<!-- end of the drills -->")]
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", table, re.MULTILINE)
    assert rows == [(drill.name, drill.title) for drill in DRILLS]
    assert "not run" not in table


def test_the_glossary_says_where_each_term_lives() -> None:
    text = CONCEPTS.read_text()
    table = text[text.index("<!-- glossary:") : text.index("<!-- end of the glossary -->")]
    rows = re.findall(r"^\| ([^|]+) \| [^|]{20,} \| `([^`|]+)` \|$", table, re.MULTILINE)
    assert len(rows) >= GLOSSARY_TERMS
    assert [term for term, _ in rows] == sorted(term for term, _ in rows)
    for _, path in rows:
        assert (ROOT / path).is_file(), path


def test_the_demo_that_the_tour_shows_is_the_demo() -> None:
    text = " ".join((ROOT / "docs" / "tour.md").read_text().split())
    (number, title), *_ = re.findall(r"```text (\d+) ([A-Z][a-z ]+?) order ", text)
    scenario = SCENARIOS[int(number) - 1]
    assert title == scenario.title
    assert scenario.point in text
    assert f"{len(SCENARIOS)} of {len(SCENARIOS)} orders ended as expected" in text


def test_the_test_tokens_are_those_of_the_sandbox() -> None:
    text = (ROOT / "docs" / "test-tokens.md").read_text()
    assert set(re.findall(r"^\| `(tok_\w+)` \|", text, re.MULTILINE)) == set(CARDS)


@every_document
def test_it_says_things_in_the_usual_words(document: Path) -> None:
    """In its sentences: what the code calls something is written as code, and the map is drawn from it."""
    text = re.sub(f"{BEGIN}.*?{END}", "", document.read_text(), flags=re.DOTALL)
    sentences = " ".join(re.sub(r"`[^`]+`", "", BLOCK.sub("", text)).lower().split())
    assert re.findall(rf"\b(?:{PRIVATE_WORDS})\b", sentences) == []
    assert re.findall(r"(?<!\bdead[ -])\bletters?\b", sentences) == []


# -- the map -----------------------------------------------------------------------------------------


def test_the_map_is_what_the_types_say() -> None:
    text = DOCUMENT.read_text()
    assert with_map(text, draw_map(SERVICES)) == text, "make map writes it anew"
    assert PICTURE.read_text() == draw_picture(SERVICES), "make map draws it anew"


def test_the_map_shows_every_fact() -> None:
    drawn = draw_map(SERVICES)
    for fact in PUBLISHED.values():
        assert issubclass(fact, SupersededFact) or f"`{fact.wire_name}`" in drawn


def test_the_picture_shows_every_fact_that_a_service_subscribes_to() -> None:
    labels = re.findall(r'<text class="label"[^>]*>([^<]+)</text>', draw_picture(SERVICES))
    for fact in PUBLISHED.values():
        if not issubclass(fact, SupersededFact) and subscribers(fact, SERVICES) != ["tracker"]:
            assert name_of(fact).partition(".")[2] in labels


def test_the_picture_has_both_directions() -> None:
    """The way forward, in the order in which it goes, and under it the way back."""
    labels = re.findall(r'<text class="(?:label|title \w+)"[^>]*>([^<]+)</text>', draw_picture(SERVICES))
    forward = ["The way forward", "created", "stock_reserved", "captured", "shipment_scheduled", "confirmed"]
    back = ["The way back", "withdrawn", "shipment_cancelled", "refunded", "stock_released", "cancelled"]
    assert [label for label in labels if label in forward + back] == forward + back


# -- what is undone by what, deadlines and bounds ------------------------------------------------------


def test_it_says_how_each_step_before_the_pivot_is_undone() -> None:
    """Of the steps that leave something behind."""
    forward = [
        "order.created",
        "inventory.stock_reserved",
        "payment.held",
        "payment.captured",
        "fulfillment.shipment_scheduled",
    ]
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", CHOREOGRAPHY.read_text(), re.MULTILINE)
    undone_by = {published.strip("` "): undo for published, undo in rows}
    for fact in forward:
        assert re.search(rf"`(?:{OWNERS})\.", undone_by[fact]), fact


def test_the_deadlines_are_those_of_the_settings() -> None:
    named = re.findall(r"^\| `([A-Z_]+_SECONDS)`.* \| ([^|]+) \|$", OPERATE.read_text(), re.MULTILINE)
    assert named
    for name, default in named:
        in_code = default_of(TrackerSettings, name.lower())
        if default.isdigit():
            assert set(in_code.values() if isinstance(in_code, dict) else [in_code]) == {float(default)}, name


def test_the_step_deadlines_are_those_of_the_services() -> None:
    cell = re.search(r"^\| `STEP_DEADLINE_SECONDS`.*\| ([^|]+) \|$", OPERATE.read_text(), re.MULTILINE)
    assert cell
    for names, seconds in re.findall(r"([a-z]+(?: and [a-z]+)?) (\d+)", cell[1]):
        for name in names.split(" and "):
            (service,) = (service for service in SERVICES if service.name == name)
            assert service.step_deadline_seconds == float(seconds)


@pytest.mark.parametrize("document", [PRODUCTION, OPERATE], ids=lambda path: path.name)
def test_the_bounds_are_those_of_the_settings(document: Path) -> None:
    bounds = re.findall(r"`([A-Z_]+)` ?\((\d+(?:\.\d+)?)[;)]", document.read_text())
    assert bounds
    for name, value in bounds:
        kind = ServiceSettings if name.lower() in ServiceSettings.model_fields else TrackerSettings
        assert str(default_of(kind, name.lower())) in (value, f"{value}.0"), name


def test_how_long_what_is_kept_is_what_the_settings_say() -> None:
    rows = re.findall(
        r"^ *\| `([A-Z_]+_DAYS)` \| (\d+) \| ([a-z ]+) \|", PRODUCTION.read_text(), re.MULTILINE
    )
    assert len(rows) == 6
    for name, days, whose in rows:
        kind = ServiceSettings if whose == "each service" else TrackerSettings
        assert default_of(kind, name.lower()) == int(days), name


def test_the_stream_is_named_as_it_is() -> None:
    assert f"`{STREAM}`" in PRODUCTION.read_text()
