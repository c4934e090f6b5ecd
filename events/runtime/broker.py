"""What says that the broker is away; and AMQP as this process reads it."""

from aio_pika.exceptions import AMQPError

from events.lenient_amqp import be_lenient

# RuntimeError: aiormq's for a channel or connection that was closed under one's hands.
BROKER_AWAY = (AMQPError, OSError, TimeoutError, RuntimeError)

# A message with malformed properties must not end the connection, and with it every message behind.
be_lenient()
