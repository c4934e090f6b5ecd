"""The tracker's own RabbitMQ user, on the real topology, may take in dead letters and replay them."""

import asyncio
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import aio_pika

from compose.system import SERVICES
from events.messaging.definitions import definitions, user_names
from events.messaging.topology import ADMIN, TRACKER
from events.service import DEAD_LETTER_EXCHANGE
from tests.runtime.eventually import eventually
from tests.servers import Servers
from tests.tracker.dead_letters import TOKEN, TOKENS, in_queue, reason_of, sees_dead_letters, unusable
from tests.tracker.watch import Watch, post


async def test_a_letter_goes_from_a_service_to_the_tracker_and_back_to_that_service(servers: Servers) -> None:
    admin_url = await asyncio.to_thread(servers.new_vhost)
    address = urlsplit(admin_url)
    passwords = {name: uuid4().hex for name in user_names(SERVICES)}
    passwords[ADMIN] = address.password or ""
    vhost = address.path.removeprefix("/")
    await asyncio.to_thread(servers.import_definitions, definitions(SERVICES, passwords, vhost))

    def url_of(user: str) -> str:
        host = address.netloc.rpartition("@")[2]
        return urlunsplit(address._replace(netloc=f"{user}:{passwords[user]}@{host}"))

    watch = Watch(admin_url, await servers.new_database("saga_tracker"))
    try:
        await watch.join()
        app = watch.app(await watch.start(broker_url=url_of(TRACKER), tokens=TOKENS))
        message = unusable(headers=reason_of())
        async with await aio_pika.connect(url_of("payment")) as connection, connection.channel() as channel:
            exchange = await channel.get_exchange(DEAD_LETTER_EXCHANGE, ensure=False)
            await exchange.publish(message, "payment")
        (dead_letter,) = await sees_dead_letters(app, 1)
        answer = await post(app, f"/dead-letters/{dead_letter['letter_id']}/replay", {}, token=TOKEN)
        assert answer.status == 200, answer.text
        await eventually(lambda: in_queue(watch, "payment.facts"))
        depths = {service.name: await in_queue(watch, service.queue) for service in SERVICES}
        assert depths == {"order": 0, "inventory": 0, "payment": 1, "fulfillment": 0, "notification": 0}
    finally:
        await watch.strike()
