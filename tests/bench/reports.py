"""Writes a run as JSON and as a page."""

import json
from pathlib import Path

from compose.local.errors import RigError
from tests.bench.page import page_of
from tests.bench.results import Run

STEM = "bench-report"


def write_reports(run: Run, folder: Path) -> list[Path]:
    """The two files. Raises RigError when they cannot be written."""
    data, page = (folder / f"{STEM}.{ending}" for ending in ("json", "html"))
    try:
        data.write_text(json.dumps(run.as_json(), indent=1))
        page.write_text(page_of(run))
    except OSError as error:
        raise RigError(f"cannot write the report: {error}") from error
    return [data, page]
