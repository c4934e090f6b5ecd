"""The cluster for real, and one node of it lost under load. Skipped, and says why, where no engine runs."""

from collections.abc import Iterator

import pytest

from compose.containers.provision import REPLICATED as REPLICATED_QUEUES
from compose.containers.rig import NAMES, ContainerRig, ReplicaRig
from compose.containers.stack import NODES
from compose.drills.catalogue import CLUSTER_DRILLS
from compose.drills.catalogue.servers import killing_nodes
from compose.drills.command import Harness, Options, chosen_drills
from compose.drills.container_rig import REPLICATED, TARGETS, ClusterRig, members_online
from compose.drills.rig import SETTINGS, Deed
from compose.system import SERVICES
from events.messaging import topology
from tests.containers import containers

SEED = 4
ORDERS_PER_SECOND = 5.0

pytestmark = [pytest.mark.alone, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def container_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerRig]:
    with containers(tmp_path_factory.mktemp("cluster"), SETTINGS, clustered=True) as rig:
        yield rig


async def test_everything_is_there_several_times_and_replicated(container_rig: ContainerRig) -> None:
    assert await ClusterRig(container_rig).conditions() == dict.fromkeys(
        (*NAMES, *NODES[1:], *(f"{name}-2" for name in REPLICATED)), "ready"
    )
    everywhere = {f"rabbit@{node}" for node in NODES}
    replicated = (
        name
        for name, given in topology.queues(SERVICES).items()
        if given["x-queue-type"] in REPLICATED_QUEUES
    )
    assert members_online(container_rig) == dict.fromkeys(replicated, everywhere)


async def test_nobody_misses_a_node_that_is_killed(container_rig: ContainerRig) -> None:
    outcome = await Harness(ClusterRig(container_rig), SEED, ORDERS_PER_SECOND).run(killing_nodes(NODES[1:2]))
    assert outcome.result == "pass", outcome.problems
    assert outcome.accepted == sum(outcome.ends.values()) > 0


async def test_who_freezes_a_process_freezes_all_its_replicas(container_rig: ContainerRig) -> None:
    rig = ClusterRig(container_rig)
    replicas = ReplicaRig(container_rig.stack)
    replicas.pause("payment")
    try:
        conditions = await rig.conditions()
        assert conditions["payment"] == conditions["payment-2"] == "not ready (it is frozen)"
    finally:
        replicas.resume("payment")
    replicas.resume("payment")  # not frozen: nothing to do
    await rig.start_all()


def test_a_cluster_can_do_what_its_drills_ask() -> None:
    rig = ClusterRig(ContainerRig())
    assert {deed.target for drill in CLUSTER_DRILLS for deed in drill.deeds} <= set(TARGETS)
    assert [rig.why_not(deed) for drill in CLUSTER_DRILLS for deed in drill.deeds if rig.why_not(deed)] == []
    assert rig.why_not(Deed("isolate", "rabbitmq-4")) == "there is no such node here"
    assert rig.why_not(Deed("isolate", "order")) == "there is no such node here"


def test_a_cluster_has_drills_and_a_load_of_its_own() -> None:
    assert chosen_drills([], "cluster") == list(CLUSTER_DRILLS)
    assert chosen_drills(["poison"], "cluster") == chosen_drills(["poison"])
    assert set(CLUSTER_DRILLS) < set(chosen_drills([]))
    assert Options(rig="cluster").rate < Options().rate
    assert Options(rig="cluster", orders_per_second=50).rate == 50
