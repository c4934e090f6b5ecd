"""The dashboard is what its description says, and hangs together with what provisions it."""

import json
import re

import pytest

from compose.containers.env import FOLDER
from compose.dashboard import DATASOURCE, FILE, Panel, panels, text

GRAFANA = FOLDER / "observability" / "grafana"


def test_the_file_is_what_the_description_says() -> None:
    assert FILE.read_text() == text(), "python -m compose.dashboard writes it anew"


def test_it_asks_the_data_source_that_is_provisioned() -> None:
    provisioned = (GRAFANA / "datasources" / "murmuration.yaml").read_text()
    assert f"uid: {DATASOURCE['uid']}\n" in provisioned
    drawn = [panel for panel in json.loads(FILE.read_text())["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in drawn if panel["datasource"] != DATASOURCE] == []


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(FILE.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("panel", list(panels()), ids=lambda panel: panel.title)
def test_what_several_instances_report_is_counted_once(panel: Panel) -> None:
    """Every query says which labels count: none is a sum of what two trackers say of the same view."""
    for line in panel.lines:
        assert re.match(r"(sum|max|min|count|topk|histogram_quantile|1 - min)\b", line.query), line.query
        shared = re.search(r"sum\(murmuration_(saga|dead|stream|leader|outbox|call)", line.query)
        assert shared is None, line.query
