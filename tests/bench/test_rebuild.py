"""What the rebuild is measured with are facts as services publish them."""

from collections import Counter
from itertools import islice

from aio_pika import Message

from events.messaging.envelope import decode
from tests.bench.scenarios.rebuild import ONE_SAGA, history


def test_the_history_is_of_facts_that_can_be_read() -> None:
    one = len(ONE_SAGA.split())
    read = [
        decode(Message(each.body, **each.fields), each.routing_key) for each in islice(history(), 3 * one)
    ]
    assert set(Counter(envelope.fact.order_id for envelope in read).values()) == {one}
    assert all(envelope.stated_by and envelope.fact_id for envelope in read)
