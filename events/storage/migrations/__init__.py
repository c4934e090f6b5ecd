"""Brings a process's database to the schema of its code: the runtime's tables and its own.

Migrations run first, while replicas of the release before go on working. So from that release on
(`compose/release_before.py` names it) a migration only expands: it adds tables, indexes that are not unique,
and columns that are nullable or have a default for good, which the release before neither writes nor misses.
It drops and renames nothing, changes no type, takes no default away, and adds no constraint or trigger to
what there was; the list of a CHECK may grow. What is to go is left unused by one release and dropped by the
next, in a migration that says so: `contracts = "<revision>"`, a revision that the release before has already,
by which it came to be unused. `tests/runtime/test_expanding.py` applies every migration, and sees to it.
"""

from importlib.resources import files

from alembic import command
from alembic.config import Config

from events.runtime.definition import installed_services


def upgrade(database_url: str, package: str) -> None:
    """Apply every migration that `package` (such as `order_svc`) and the runtime beneath it still need.

    Raises what psycopg raises when the database cannot be reached.
    """
    command.upgrade(alembic_config(database_url, package), "heads")


def alembic_config(database_url: str, package: str) -> Config:
    """Alembic's configuration for one package's database.

    What is installed as a service has the runtime's tables, too, whatever its package is called.
    """
    here = files(__name__)
    locations = [str(files(package) / "migrations")]
    if package in {service.package for service in installed_services()}:
        locations.append(str(here / "versions"))
    config = Config()
    config.set_main_option("script_location", str(here))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(locations))
    config.attributes["database_url"] = database_url
    return config
