"""Who imports whom (.importlinter), and that what decides calls no clock and no chance."""

import ast
import re
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    *("events", "order_svc", "inventory_svc", "payment_svc", "fulfillment_svc", "notification_svc"),
    *("saga_tracker", "compose"),
)
PURE = (
    *sorted(ROOT.glob("*_svc/decide.py")),
    ROOT / "saga_tracker/projection.py",
    *sorted(ROOT.glob("saga_tracker/consistency/*.py")),
)
IMPURE_CALLS = {
    "now",
    "utcnow",
    "today",
    "fromtimestamp",
    "uuid1",
    "uuid4",
    "getnode",
    "open",
    "input",
    "print",
}


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    linter = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [linter, "--no-cache"], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )


def test_import_contracts_are_kept() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("order_svc/decide.py", "import time"),
        ("payment_svc/decide.py", "from random import random"),
        ("fulfillment_svc/decide.py", "import events.messaging.envelope"),
        ("inventory_svc/decide.py", "from events.runtime import settings"),
        ("saga_tracker/projection.py", "import asyncio"),
        ("notification_svc/service.py", "import order_svc.decide"),
        ("saga_tracker/service.py", "import payment_svc.decide"),
        ("inventory_svc/repository.py", "import compose.check"),
        ("events/decision.py", "import order_svc.decide"),
    ],
)
def test_a_forbidden_import_is_noticed(module: str, planted: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    source = tmp_path / module
    source.write_text(f"{source.read_text()}\n{planted}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert f"{module.removesuffix('.py').replace('/', '.')} -> {planted.split()[1]}" in result.stdout


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_decides_calls_no_clock_and_no_chance(path: Path) -> None:
    assert impure_calls(path.read_text()) == []


def test_a_call_of_a_clock_is_noticed() -> None:
    planted = "from datetime import UTC, datetime\n\ndef decide(): return datetime.now(UTC), uuid4()"
    assert impure_calls(planted) == ["line 3: now()", "line 3: uuid4()"]


def impure_calls(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if name in IMPURE_CALLS:
                found.append(f"line {node.lineno}: {name}()")
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = {
        re.sub(r"(/__init__)?\.py$", "", str(path.relative_to(ROOT))).replace("/", "."): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    imported: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
        named = {node.module or "" for node in found}
        named |= {f"{node.module}.{alias.name}" for node in found for alias in node.names}
        imported[name] = (named & modules.keys()) - {name}
    TopologicalSorter(imported).prepare()
