"""What a service keeps: database sessions, inbox and outbox tables, its repository, locks aside, retention."""
