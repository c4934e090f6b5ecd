"""Acts when a saga is late: the deadline scheduler, redrives, the watch over services, its outbox."""
