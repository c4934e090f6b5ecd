"""What Prometheus is told, for the processes that there are.

`prometheus.yaml` and `alerts.yaml` are complete for the services of this repository, and are checked as they
are. Where others are installed besides, `provision` writes both anew, with all of their names.
"""

import re
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent
FILES = ("prometheus.yaml", "alerts.yaml")
_ASKED = re.compile(r"^( *- names: )\[order, .*\]$", re.MULTILINE)
_MISSED = re.compile(
    r'^( *)label_replace\(vector\(1\), "job", "order", "", ""\)\n(?: *or label_replace.*\n)+', re.MULTILINE
)


def config_for(text: str, watched: Sequence[str], asked: Sequence[str]) -> str:
    """One of these files, where `asked` are whom to ask for numbers, and `watched` those of them to miss."""
    names = ", ".join(asked)
    text = _ASKED.sub(lambda found: f"{found[1]}[{names}]", text)

    def expected(found: re.Match[str]) -> str:
        jobs = (f'label_replace(vector(1), "job", "{name}", "", "")\n' for name in watched)
        return found[1] + f"{found[1]}or ".join(jobs)

    return _MISSED.sub(expected, text)


def write_config(folder: Path, watched: Sequence[str], asked: Sequence[str]) -> None:
    """Write all of it into a folder. Raises OSError."""
    for name in FILES:
        (folder / name).write_text(config_for((FOLDER / name).read_text(), watched, asked))
