"""A broker of several nodes: who loses one goes on with another. Here each is a way to the same broker."""

from functools import partial
from typing import Any
from uuid import UUID, uuid4

from yarl import URL

from compose.drills.local_rig import Proxy
from events.messaging.connection import connection_url, lasting_connection_url
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage, is_ready
from tests.runtime.toy.facts import Bumped

DRAWS = 200


def as_nodes(stage: Stage, one: Proxy, *others: Proxy) -> dict[str, Any]:
    """The settings that name them."""
    urls = [URL(other.url(stage.broker_url)) for other in others]
    return {
        "broker_url": one.url(stage.broker_url),
        "broker_nodes": tuple(f"{url.host}:{url.port}" for url in urls),
    }


async def counted(stage: Stage, order: UUID) -> bool:
    return bool(stage.published(order)) and await stage.count_of(order) == 1


def test_every_node_is_drawn_with_the_credentials_of_the_first(stage: Stage) -> None:
    settings = stage.settings(
        broker_url="amqp://ada:secret@one:5672/shop", broker_nodes=("two:5673", "three:5672")
    )
    assert {connection_url(settings) for _ in range(DRAWS)} == {
        "amqp://ada:secret@one:5672/shop",
        "amqp://ada:secret@two:5673/shop",
        "amqp://ada:secret@three:5672/shop",
    }
    lasting = {URL(lasting_connection_url(settings)).with_query(None) for _ in range(DRAWS)}
    assert {url.host for url in lasting} == {"one", "two", "three"}


async def test_a_service_starts_while_the_node_of_its_url_is_down(stage: Stage) -> None:
    down, up = await stage.proxy_broker(), await stage.proxy_broker()
    down.cut()
    await stage.start(**as_nodes(stage, down, up))
    await stage.say(Bumped(order_id=(order := uuid4())))
    await eventually(partial(counted, stage, order))


async def test_a_service_that_loses_its_node_goes_on_with_the_other(stage: Stage) -> None:
    one, other = await stage.proxy_broker(), await stage.proxy_broker()
    host = await stage.start(**as_nodes(stage, one, other))
    for lost in (one, other, one):
        lost.cut()
        await stage.say(Bumped(order_id=(order := uuid4())))
        await eventually(partial(counted, stage, order))
        await eventually(lambda: is_ready(host), why="all of it found the other node")
        lost.restore()
    assert not await stage.dead_letters()
