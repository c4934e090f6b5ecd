"""requirements.lock: everything pinned, nothing that pyproject.toml asks for left out."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from compose.local.state import CHECKOUT


def locked() -> dict[str, str]:
    """Version by name."""
    lines = (CHECKOUT / "requirements.lock").read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert [line for line in pinned if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[a-z0-9.]+", line)] == []
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in pinned)}


def test_every_dependency_is_locked_at_a_version_it_allows() -> None:
    content = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    project = content["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    # The environment is built without fetching anything else, the build tool included.
    wanted += content["build-system"]["requires"]
    versions = locked()
    refused = [
        str(requirement)
        for requirement in map(Requirement, wanted)
        if not requirement.specifier.contains(versions[canonicalize_name(requirement.name)], prereleases=True)
    ]
    assert refused == []
