"""A scenario from the first process to the last, on a real system."""

import os
from dataclasses import replace

import pytest

from compose.local.rig import LocalRig
from tests.bench.cpu import LOAD, running_parts
from tests.bench.results import Result
from tests.bench.runner import play_one
from tests.bench.scenarios.rates import at_rate
from tests.bench.stage import Choices
from tests.servers import rig_folder

PROCESSES = {"order", "inventory", "payment", "fulfillment", "notification", "tracker", "sandbox"}


pytestmark = pytest.mark.skipif(
    os.environ.get("INFRA") == "docker", reason="the bench starts servers of its own"
)


def test_a_round_counts_and_times_every_order_and_leaves_nothing_behind() -> None:
    scenario = replace(at_rate(25, 2.0), rounds=1)
    result = Result(scenario.name, scenario.title)
    with rig_folder() as folder:
        play_one(scenario, Choices(1), result, folder / "bench", print)
        assert [part.name for part in running_parts(LocalRig(folder / "bench"))] == [LOAD]
        assert not (folder / "bench").exists()
    assert not result.all_problems
    (found,) = result.rounds
    assert found.accepted == 50
    assert found.figures["completed_percent"] + found.figures["cancelled_percent"] == 100
    assert found.figures["cancelled_percent"] >= 6
    assert 0 < found.figures["end_to_end_p50_ms"] <= found.figures["end_to_end_p99_ms"]
    assert found.figures["tracker_lag_p50_ms"] > 0
    assert found.cpu_ms.keys() == PROCESSES | {"postgres", "rabbitmq", LOAD}
    assert min(found.peak_megabytes.values()) > 1
    assert sum(second.ended for second in found.seconds) == 50
    assert result.per_saga["broker"]["published"] >= 6
