"""What is built of this checkout has everything that its programs read at run time."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_SHIPPED = ("tests", "build")


def test_a_wheel_has_every_template_and_what_pages_load(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [name for name in tracked.stdout.splitlines() if name.partition("/")[0] not in NOT_SHIPPED]
    for name in files:
        if (ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    built = subprocess.run(
        [sys.executable, "-c", build, "dist"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    templates = {name for name in files if name.endswith((".jinja", ".j2"))}
    assert "saga_tracker/board/templates/home.html.jinja" in templates
    static = {name for name in files if name.startswith("saga_tracker/board/static/")}
    assert "saga_tracker/board/static/htmx.LICENSE" in static
    assert templates | static <= set(zipfile.ZipFile(wheel).namelist())
