"""`make new-service`: writes a new service's folder from `templates/new_service/`.

What it writes is a service like the others, rooms and all: it subscribes to the facts that were named, keeps
a row per order and publishes one fact of its own. The folder is a distribution of its own, whose entry point
is all that the rest of the system needs.
"""

import keyword
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from compose.local.commands import RigError
from events.facts import Fact, published_facts
from events.facts.base import SupersededFact
from events.runtime.definition import installed_services
from events.service import name_of

SUFFIX = ".j2"
MAX_NAME_CHARACTERS = 30
_NAME = re.compile(r"[a-z][a-z0-9]*")


@dataclass(frozen=True, slots=True)
class Subscription:
    """A fact that the new service subscribes to, as its modules import it."""

    kind: type[Fact]

    @property
    def name(self) -> str:
        return name_of(self.kind)

    @property
    def module(self) -> str:
        return self.kind.__module__

    @property
    def type_name(self) -> str:
        return self.kind.__name__


def write_service(name: str, subscribes_to: Sequence[str], folder: Path, today: date | None = None) -> Path:
    """Writes `<name>_svc` into a folder, and returns where it is.

    `subscribes_to`: names of facts without their versions, such as "order.confirmed"; the newest version of
    each is meant. Raises RigError where the name or a fact will not do, or the service exists.
    """
    _check_name(name)
    subscriptions = [Subscription(_fact_named(fact)) for fact in dict.fromkeys(subscribes_to)]
    if not subscriptions:
        raise RigError(f"a service subscribes to something: HEARS=order.confirmed; {_known_facts()}")
    target = folder / f"{name}_svc"
    if target.exists():
        raise RigError(f"{target} exists already")
    templates = Environment(
        loader=PackageLoader("compose", "templates/new_service"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - it is Python that is written, by who runs it
    )
    since = today or datetime.now(UTC).date()
    for template in sorted(templates.list_templates(filter_func=lambda file: file.endswith(SUFFIX))):
        text = templates.get_template(template).render(name=name, subscriptions=subscriptions, since=since)
        path = target / template.removesuffix(SUFFIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    _tidy(target)
    return target


def _tidy(target: Path) -> None:
    """Imports in order and lines as the formatter has them, whatever the names are."""
    for command in (["check", "--quiet", "--fix", "--select", "I"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, str(target)], check=True)  # noqa: S603


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS or keyword.iskeyword(name):
        raise RigError(f"{name!r} is no name for a service: small letters and digits, such as NAME=loyalty")
    if name in {service.name for service in installed_services()} | {"saga", "tracker", "sandbox"}:
        raise RigError(f"there is a {name!r} already: NAME=loyalty names another")


def _fact_named(wanted: str) -> type[Fact]:
    newest = {name_of(kind): kind for kind in _newest()}
    if wanted not in newest:
        raise RigError(f"no fact is named {wanted!r}; {_known_facts()}")
    return newest[wanted]


def _newest() -> list[type[Fact]]:
    facts = (kind for kind in published_facts().values() if not issubclass(kind, SupersededFact))
    return sorted(facts, key=lambda kind: kind.version)


def _known_facts() -> str:
    return f"there are: {', '.join(sorted(name_of(kind) for kind in _newest()))}"
