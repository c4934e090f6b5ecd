"""What of the README is generated is what would be generated now, and the commands it names exist."""

import re

from compose.drills.catalogue import DRILLS
from compose.map import README, draw_map, with_map
from compose.system import SERVICES
from events.facts.base import SupersededFact
from tests.contracts.published import PUBLISHED

TEXT = README.read_text()


def test_the_map_is_what_the_types_say() -> None:
    assert with_map(TEXT, draw_map(SERVICES)) == TEXT, "make map writes it anew"


def test_the_map_shows_every_fact() -> None:
    drawn = draw_map(SERVICES)
    for fact in PUBLISHED.values():
        assert issubclass(fact, SupersededFact) or f"`{fact.wire_name}`" in drawn


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (README.parent / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", TEXT)) <= targets


def test_its_table_of_drills_has_each_of_them() -> None:
    table = TEXT[TEXT.index("<!-- drills:") : TEXT.index("<!-- end of the drills -->")]
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", table, re.MULTILINE)
    assert rows == [(drill.name, drill.title) for drill in DRILLS]
