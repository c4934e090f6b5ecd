"""Short drills on containers. Skipped, and says why, where no engine runs."""

from collections.abc import Iterator

import pytest

from compose.containers.rig import NAMES, ContainerRig
from compose.drills.catalogue.servers import cutting_off_from_broker
from compose.drills.catalogue.services import killing_services
from compose.drills.command import Harness
from compose.drills.container_rig import NO_DELAYS, ContainerDrillRig
from compose.drills.rig import ONE_NODE, ONE_RELEASE, POSTGRES, RABBITMQ, SETTINGS, Deed
from compose.drills.stage import Drill, Victims
from compose.local.commands import RigError
from tests.containers import containers
from tests.drills.servers import look_at_both

SEED = 4
LIMIT_SECONDS = 90.0
AWAY_SECONDS = 4.0

pytestmark = [pytest.mark.alone, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def container_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerRig]:
    with containers(tmp_path_factory.mktemp("drills"), SETTINGS) as rig:
        yield rig


@pytest.fixture
def rig(container_rig: ContainerRig) -> ContainerDrillRig:
    return ContainerDrillRig(container_rig)


async def demand_pass(rig: ContainerDrillRig, drill: Drill) -> None:
    outcome = await Harness(rig, SEED, 10.0, limit_seconds=LIMIT_SECONDS).run(drill)
    assert outcome.result == "pass", outcome.problems
    assert outcome.accepted == sum(outcome.ends.values()) > 0


async def test_a_service_is_killed(rig: ContainerDrillRig) -> None:
    await demand_pass(rig, killing_services(["payment"], {}))


async def test_a_service_is_cut_off_from_the_broker(rig: ContainerDrillRig) -> None:
    await demand_pass(rig, cutting_off_from_broker(Victims({"order": AWAY_SECONDS})))


async def test_an_alarm_and_read_only_are_there_and_gone_again(rig: ContainerDrillRig) -> None:
    await rig.start_all()
    await look_at_both(rig)


async def test_conditions_are_as_of_now(rig: ContainerDrillRig) -> None:
    assert await rig.conditions() == dict.fromkeys(NAMES, "ready")
    await rig.kill("notification")
    await rig.pause("inventory")
    await rig.cut_off("fulfillment", POSTGRES)
    assert not await rig.running("notification")
    conditions = await rig.conditions()
    assert conditions["notification"] == "died"
    assert conditions["inventory"] == "not ready (it is frozen)"
    assert conditions["fulfillment"].startswith("not ready")
    assert conditions["payment"] == "ready"
    await rig.reconnect("fulfillment", POSTGRES)
    await rig.start_all()
    assert await rig.conditions() == dict.fromkeys(NAMES, "ready")


async def test_what_the_engine_refuses_is_shown(rig: ContainerDrillRig) -> None:
    await rig.stop("sandbox")
    with pytest.raises(RigError, match=r"docker kill failed: .*is not running"):
        await rig.kill("sandbox")
    with pytest.raises(RigError, match="there is no container of rabbitmq-2"):
        await rig.kill("rabbitmq-2")
    await rig.start("sandbox")


def test_what_containers_cannot_do_is_shown() -> None:
    rig = ContainerDrillRig(ContainerRig())
    assert rig.why_not(Deed("delay", "inventory", POSTGRES)) == NO_DELAYS
    assert rig.why_not(Deed("kill", "rabbitmq-2")) == rig.why_not(Deed("isolate", RABBITMQ)) == ONE_NODE
    assert rig.why_not(Deed("cut_off", "sandbox", RABBITMQ)) == "there is no such container here"
    assert rig.why_not(Deed("replace", "order")) == ONE_RELEASE
    assert rig.why_not(Deed("kill", RABBITMQ)) is None
