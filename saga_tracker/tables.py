"""The tracker's tables: the view of every saga, and what it was made from."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()

sagas = Table(
    "sagas",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("state", Text, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("waits", JSONB, nullable=False),
    # The names of the services and facts in `waits`, to filter by.
    Column("waiting_for", JSONB, nullable=False),
    Column("timed_out", Boolean, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("reason", Text),
    Column("trace_id", Text),
    Column("fact_count", Integer, nullable=False),
    # When the scheduler has to look at it next, or NULL: nothing of it has a deadline.
    Column("due_at", DateTime(timezone=True)),
    Index("sagas_by_since", "since", "order_id"),
    Index("sagas_by_state", "state", "since", "order_id"),
    # Only a saga that has not ended waits for anything; these are few beside the ended ones.
    Index("sagas_unended", "since", "order_id", postgresql_where=text("ended_at IS NULL")),
    Index("sagas_by_start", "started_at"),
    Index("sagas_by_end", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    Index("sagas_due", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("sagas_by_reason", "reason", "since", "order_id", postgresql_where=text("reason IS NOT NULL")),
    comment="What the facts read so far say of each order.",
)

saga_facts = Table(
    "saga_facts",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("fact_id", Uuid, primary_key=True),
    Column("wire_name", Text, nullable=False),
    Column("stated_by", Text, nullable=False),
    Column("causation_id", Uuid),
    # What the message says of the time: shown, and never reckoned with.
    Column("stated_at", DateTime(timezone=True), nullable=False),
    Column("dated", Boolean, nullable=False),
    Column("traceparent", Text),
    Column("stream_offset", BigInteger, nullable=False),
    Column("body", JSONB, nullable=False),
    # To tell a repetition from something else under its id. NULL where an older release wrote it.
    Column("content", BigInteger),
    # By this database's clock, and kept by a rebuild. NULL where an older release wrote it.
    Column("read_at", DateTime(timezone=True)),
    # Under which ids orders began: only an outside publisher can use one twice.
    Index("saga_facts_begun", "fact_id", postgresql_where=text("starts_with(wire_name, 'order.created.')")),
    # By whom something was ordered, and what: of one fact an order.
    Index(
        "saga_facts_by_customer",
        text("(body ->> 'customer')"),
        "order_id",
        postgresql_where=text("starts_with(wire_name, 'order.created.')"),
    ),
    Index(
        "saga_facts_by_line",
        literal_column("(body -> 'lines')").label("lines"),
        postgresql_using="gin",
        postgresql_ops={"lines": "jsonb_path_ops"},
        postgresql_where=text("starts_with(wire_name, 'order.created.')"),
    ),
    comment="Every fact read, once.",
)
# From when everything counts that follows from a fact.
FIRST_READ_AT = func.coalesce(saga_facts.c.read_at, saga_facts.c.stated_at)

# Only the release before uses it: to be dropped with the next one.
undated_facts = Table(
    "undated_facts",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("fact_id", Uuid, primary_key=True),
    Column("first_read_at", DateTime(timezone=True), nullable=False),
    comment="When a fact that does not say when it was stated was first read. Kept by a rebuild.",
)

unreadable_messages = Table(
    "unreadable_messages",
    metadata,
    Column("stream_offset", BigInteger, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("message_id", Text),
    Column("wire_name", Text),
    Column("stated_by", Text),
    Column("read_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    comment="Messages of the stream that tell of no saga, and why.",
)

stream_position = Table(
    "stream_position",
    metadata,
    Column("only_row", Boolean, CheckConstraint("only_row"), primary_key=True),
    Column("stream_offset", BigInteger, nullable=False),
    Column("message_id", Text),
    Column("reading", Integer, nullable=False),
    Column("moved_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    comment="The last message that is in these tables, and which reading of the stream this is.",
)

outbox = Table(
    "outbox",
    metadata,
    # One fact may be on its way to several services at once.
    Column("message_id", Uuid, primary_key=True),
    Column("exchange", Text, primary_key=True),
    Column("routing_key", Text, primary_key=True),
    Column("wire_name", Text, nullable=False),
    Column("order_id", Uuid, nullable=False),
    Column("stated_by", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("stated_at", DateTime(timezone=True), nullable=False),
    Column("causation_id", Uuid),
    Column("traceparent", Text),
    Column("entered_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    # What the broker refused is set aside until then, with its error.
    Column("refusals", Integer, nullable=False, server_default="0"),
    Column("due_at", DateTime(timezone=True)),
    Column("last_error", Text),
    Index("outbox_by_entry", "entered_at"),
    comment="What the tracker has to publish, until the broker confirms it.",
)

lease = Table(
    "lease",
    metadata,
    Column("only_row", Boolean, CheckConstraint("only_row"), primary_key=True),
    Column("holder", Text),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    comment="Which of several trackers acts on deadlines, and until when it may without renewing.",
)

dead_letters = Table(
    "dead_letters",
    metadata,
    # Derived from the dead letter itself: delivered again, it is the same one.
    Column("letter_id", Uuid, primary_key=True),
    Column("service", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("arrived_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("first_at", DateTime(timezone=True)),
    Column("last_at", DateTime(timezone=True)),
    Column("attempts", Integer),
    Column("message_id", Text),
    Column("wire_name", Text),
    Column("stated_by", Text),
    Column("order_id", Uuid),
    Column("replay_of", Uuid),
    Column("routing_key", Text, nullable=False),
    # As text, not JSONB: what arrives may hold what PostgreSQL's JSON does not.
    Column("properties", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("dead_letters_by_arrival", "arrived_at", "letter_id"),
    Index("dead_letters_by_group", "service", "reason", "arrived_at", "letter_id"),
    Index("dead_letters_by_order", "order_id", "arrived_at", "letter_id"),
    Index("dead_letters_by_replay", "replay_of", postgresql_where=text("replay_of IS NOT NULL")),
    Index("dead_letters_open", "arrived_at", "letter_id", postgresql_where=text("state = 'open'")),
    Index("dead_letters_closed", "state_at", postgresql_where=text("state <> 'open'")),
    Index("open_cases", "order_id", postgresql_where=text("state = 'open' AND kind = 'case'")),
    comment="What services could not use, and cases for a person. Kept by a rebuild.",
)

selections = Table(
    "selections",
    metadata,
    Column("selection_id", Uuid, primary_key=True),
    Column("made_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("made_by", Text, nullable=False),
    # What was asked for, in words.
    Column("of", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # What is done with them, by whom and why, and how many in a second.
    Column("verb", Text),
    Column("by", Text),
    Column("role", Text),
    Column("signed_in_by", Text),
    Column("note", Text),
    Column("per_second", Integer),
    Column("last_error", Text),
    Index("selections_by_time", "made_at"),
    Index("selections_running", "made_at", postgresql_where=text("state = 'running'")),
    comment="Dead letters that a person chose, to replay or discard them together. Kept by a rebuild.",
)

selected_letters = Table(
    "selected_letters",
    metadata,
    Column("selection_id", Uuid, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("letter_id", Uuid, nullable=False),
    # What became of it: replayed, discarded, or skipped, for it was not open any more.
    Column("outcome", Text),
    Index("selected_letters_left", "selection_id", "position", postgresql_where=text("outcome IS NULL")),
    comment="Which dead letters a selection has, from when it was made on.",
)

causes = Table(
    "causes",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("service", Text, primary_key=True),
    # The fact since which the service is waited for.
    Column("because_of_id", Uuid, nullable=False),
    Column("cause", JSONB, nullable=False),
    Column("known_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # What was published of it when the order timed out: who publishes that again says the same.
    Column("reason", Text),
    Index("causes_by_age", "known_at"),
    comment="Why sagas wait, as their services said last. Not from the stream; old ones are deleted.",
)

audit = Table(
    "audit",
    metadata,
    Column("entry_id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("by", Text, nullable=False),
    # In which role, and how that was known; NULL of what is older than these columns.
    Column("role", Text),
    Column("signed_in_by", Text),
    Column("action", Text, nullable=False),
    Column("note", Text),
    Column("service", Text),
    Column("order_id", Uuid),
    Column("letter_id", Uuid),
    # The fact by which a service reported that it failed: it is answered once, by a retry or a settlement. Or
    # the fact that tells of what a person decided at a service.
    Column("case_id", Uuid, unique=True),
    Index("audit_by_order", "order_id", "entry_id"),
    Index("audit_by_letter", "letter_id", "entry_id"),
    comment="Who did what about dead letters and manual cases, and when. Kept by a rebuild.",
)

proposals = Table(
    "proposals",
    metadata,
    Column("action", Text, primary_key=True),
    # Of an edit, the dead letter's id.
    Column("order_id", Uuid, primary_key=True),
    Column("by", Text, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    # What is to be sent, of an edit.
    Column("content", LargeBinary),
    comment="Acts that wait for a second person. Kept by a rebuild.",
)

used_links = Table(
    "used_links",
    metadata,
    Column("once", Text, primary_key=True),
    Column("used_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    comment="Sign-in links that were used, until they are too old to be used again. Kept by a rebuild.",
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("waiting_since", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("comparisons_by_wait", "waiting_since"),
    comment="Orders whose saga is to be compared with the services and the provider once it has settled.",
)

differences = Table(
    "differences",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("service", Text, primary_key=True),
    Column("about", Text, primary_key=True),
    Column("expected", Text, nullable=False),
    Column("found", Text, nullable=False),
    Column("first_seen_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("last_seen_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("differences_by_first_seen", "first_seen_at", "order_id"),
    comment="What did not fit when it was compared last. Kept by a rebuild.",
)

ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("entry_id", BigInteger, primary_key=True, autoincrement=False),
    Column("order_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Index("ledger_entries_by_order", "order_id"),
    comment="The provider's ledger, as far as it was read. Kept by a rebuild.",
)

ledger_position = Table(
    "ledger_position",
    metadata,
    Column("only_row", Boolean, CheckConstraint("only_row"), primary_key=True),
    Column("entry_id", BigInteger, nullable=False),
    Column("entry", Text),
    comment="The last entry of the provider's ledger that was read, to tell it from another ledger's.",
)

tombstones = Table(
    "tombstones",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("state", Text, nullable=False),
    Column("ended_at", DateTime(timezone=True), nullable=False),
    Column("forgotten_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # Whether the services have deleted their states of it, too.
    Column("states_forgotten", Boolean, nullable=False, server_default="false"),
    Index("tombstones_with_states", "ended_at", "order_id", postgresql_where=text("NOT states_forgotten")),
    comment="Orders whose saga was deleted after its retention time. Kept by a rebuild.",
)

stream_gaps = Table(
    "stream_gaps",
    metadata,
    Column("gap_id", BigInteger, Identity(always=True), primary_key=True),
    Column("why", Text, nullable=False),
    # The last message read before it, and the first after it; of a stream made anew both count by themselves.
    Column("after_offset", BigInteger, nullable=False),
    Column("before_offset", BigInteger, nullable=False),
    Column("after_at", DateTime(timezone=True)),
    Column("before_at", DateTime(timezone=True), nullable=False),
    comment="Facts between these were never read: the stream no longer had them. Kept by a rebuild.",
)

look_ups = Table(
    "look_ups",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # Until then it has no deadlines: it is not late for what the tracker missed.
    Column("waited_for_until", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # What the services' states proved when they were looked at before.
    Column("proved", JSONB),
    Index("look_ups_by_due", "due_at"),
    comment="Sagas that were under way in a gap: their services are asked what was missed.",
)
