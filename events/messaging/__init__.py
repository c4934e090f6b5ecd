"""How facts travel: topology, envelope, consumer, outbox publisher, retries and dead letters."""
