"""Every scenario by its name, in the order in which they are played."""

from tests.bench.scenarios import (
    board,
    broker_away,
    burst,
    flash_sale,
    intake,
    memory,
    old_orders,
    rates,
    rebuild,
    sustained,
    two_instances,
)
from tests.bench.scenarios.scenario import Scenario

MODULES = (
    rates,
    sustained,
    burst,
    intake,
    flash_sale,
    two_instances,
    broker_away,
    rebuild,
    old_orders,
    board,
    memory,
)
SCENARIOS: tuple[Scenario, ...] = tuple(each for module in MODULES for each in module.SCENARIOS)
