"""What the tracker reads from its environment."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode

from events.http.sessions import SessionSettings
from events.http.tokens import NAMED_ROLES, Role
from events.outbound.http_party import HttpUrl
from events.runtime.definition import installed_services
from events.runtime.settings import FromJson
from events.service import name_of
from saga_tracker.deadlines import Rules
from saga_tracker.steps import SERVICES, STEPS

ServicesUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^/\s{}]*\{service\}[^\s{}]*$")]

# How long each service may take for a step, and for how long an outage of it makes none of its orders late.
STEP_DEADLINES_SECONDS = {service.name: service.step_deadline_seconds for service in installed_services()} | {
    f"{step.service}:{name_of(step.trigger)}": step.deadline_seconds
    for step in STEPS
    if step.deadline_seconds is not None
}
SERVICE_PATIENCE_SECONDS = {service.name: service.patience_seconds for service in installed_services()}


Kind = Literal["sagas", "states", "dead_letters", "unreadable", "audit", "tombstones"]


@dataclass(frozen=True, slots=True)
class Keep:
    """For how many days each kind is kept; 0 is for ever.

    | kind         | what goes                            | days since    | stays, however old               |
    |--------------|--------------------------------------|---------------|----------------------------------|
    | sagas        | a saga, its facts and ledger entries | its end       | unended; open letter, difference |
    | states       | what the services keep of an order   | its end       | what a service is not done with  |
    | dead_letters | one replayed, discarded, resolved    | that was done | open                             |
    | unreadable   | that a message had no saga           | it was read   |                                  |
    | audit        | who did what                         | they did it   | of a saga that has not ended     |
    | tombstones   | that an order was forgotten          | it was        | its services know it still       |
    """

    sagas: int = 0
    states: int = 0
    dead_letters: int = 0
    unreadable: int = 0
    audit: int = 0
    tombstones: int = 0

    def problem(self) -> str | None:
        """Why these do not go together, if they do not.

        The services' states outlive the saga, so that a saga that is shown can always be compared; and what
        tells a repetition of an old fact from a new order outlives both.
        """
        if self.states and not 0 < self.sagas <= self.states:
            return "the services' states cannot be forgotten before their saga"
        return None


class TrackerSettings(SessionSettings):
    """Where things are, and the bounds of reading the stream."""

    batch_size: int = Field(default=1_000, gt=0)
    # Before the next batch, so that it is one of many facts: then each of them costs less.
    pause_seconds: float = Field(default=0.2, ge=0)
    prefetch: int = Field(default=3_000, gt=0, le=65_535)
    # Of so many sagas under way the facts are kept in memory, some 4 kB each.
    remembered_sagas: int = Field(default=5_000, ge=0)
    connect_timeout_seconds: float = Field(default=10.0, gt=0)
    # How long the stream may be silent when asked for a message that it must have.
    stream_answer_seconds: float = Field(default=10.0, gt=0)
    lag_probe_seconds: float = Field(default=5.0, gt=0)

    # How often the outbox is looked into for what another tracker has left there.
    sweep_seconds: float = Field(default=1.0, gt=0)

    # By service, or by service and the fact that it received: {"payment:inventory.stock_reserved": 9}.
    step_deadline_seconds: Annotated[dict[str, PositiveFloat], NoDecode, FromJson] = Field(
        default_factory=dict, validate_default=True
    )
    redrive_grace_seconds: float = Field(default=5.0, gt=0)
    saga_deadline_seconds: float = Field(default=40.0, gt=0)
    overdue_after_seconds: float = Field(default=30.0, gt=0)
    approval_deadline_seconds: float = Field(default=7 * 86_400.0, gt=0)
    # How often, and for how many sagas in one transaction, to see whether something is late.
    deadline_tick_seconds: float = Field(default=0.25, gt=0)
    deadline_batch_size: int = Field(default=200, gt=0)
    # By then the broker has certainly sent what was published, to a reader that is not behind.
    stream_delay_seconds: float = Field(default=0.5, gt=0)
    # A view that was not up to date for longer begins all deadlines anew: who was not received was not late.
    interrupted_after_seconds: float = Field(default=5.0, gt=0)
    # When to look again at a saga that was acted on, if nothing has been read of it since.
    deadline_revisit_seconds: float = Field(default=10.0, gt=0)
    # The longest pause before it looks again at a saga that it could not act on.
    deadline_aside_cap_seconds: float = Field(default=600.0, gt=0)
    lease_seconds: float = Field(default=5.0, gt=0)

    # For how long an outage of a service makes none of its orders late: {"payment": 300}.
    service_patience_seconds: Annotated[dict[str, NonNegativeFloat], NoDecode, FromJson] = Field(
        default_factory=lambda: dict(SERVICE_PATIENCE_SECONDS)
    )
    # How often to look whether each service is there, and how long its readiness may take to answer.
    service_probe_seconds: float = Field(default=1.0, gt=0)
    service_probe_timeout_seconds: float = Field(default=2.0, gt=0)
    # One that is not ready is down if it answered nobody for so long.
    service_unready_seconds: float = Field(default=2.0, gt=0)
    # One that looks well again is back once it has answered somebody, or after so long. Longer than
    # `deadline_revisit_seconds`, for a silent one is looked at so often.
    service_settled_seconds: float = Field(default=15.0, gt=0)

    # Why sagas wait is asked of their services: of those that have waited for so long, so often, at most so
    # many at a time, those first that are late next; and when somebody looks at one, if it was not just now.
    # While somebody has it open, it is among those that are asked about so often.
    cause_after_seconds: float = Field(default=3.0, ge=0)
    cause_watch_seconds: float = Field(default=1.5, gt=0)
    cause_timeout_seconds: float = Field(default=1.0, gt=0)
    cause_cache_seconds: float = Field(default=3.0, ge=0)
    # What a provider or carrier says of a failure is asked of its service, for who looks at the manual case.
    outside_cache_seconds: float = Field(default=10.0, ge=0)
    cause_orders: int = Field(default=150, gt=0, le=200)
    # How many are kept, and for how long.
    cause_rows: int = Field(default=50_000, gt=0)
    cause_keep_seconds: float = Field(default=86_400.0, gt=0)

    # By how much a date in a message must be impossible to be shown as doubtful. Nothing is reckoned with it.
    clock_doubt_seconds: float = Field(default=30.0, gt=0)

    # Of each service's dead letters. One may be as large as the broker lets any message be: it is kept whole,
    # to be replayed.
    dead_letter_prefetch: int = Field(default=10, gt=0, le=65_535)
    dead_letter_batch_size: int = Field(default=200, gt=0)
    dead_letter_batch_bytes: int = Field(default=16_000_000, gt=0)
    close_cases_seconds: float = Field(default=2.0, gt=0)
    # How many dead letters one request may replay, and how many of them in one transaction.
    replay_dead_letters: int = Field(default=1_000, gt=0)
    replay_batch_size: int = Field(default=50, gt=0)
    # How many one selection may have, which is replayed or discarded at a pace.
    selection_letters: int = Field(default=10_000, gt=0)
    # Less than `presumed_dead_after_seconds`: the dead letters are locked in the database meanwhile.
    replay_timeout_seconds: float = Field(default=5.0, gt=0)

    # For how many days what is over is kept; 0: for ever (retention/rules.py). An order's history is the
    # shop's to delete, so sagas and audit stay until somebody says for how long.
    saga_retention_days: int = Field(default=0, ge=0, le=36_500)
    # What the services keep of the order, asked of them over HTTP; not less than the above.
    state_retention_days: int = Field(default=0, ge=0, le=36_500)
    dead_letter_retention_days: int = Field(default=90, ge=0, le=36_500)
    audit_retention_days: int = Field(default=0, ge=0, le=36_500)
    tombstone_retention_days: int = Field(default=0, ge=0, le=36_500)
    # Where to write what is deleted, before that; without it nothing is written.
    export_dir: Path | None = None
    retention_interval_seconds: float = Field(default=3_600.0, gt=0)
    retention_batch_size: int = Field(default=200, gt=0, le=200)
    # Of the time a pass takes, so much is work.
    retention_share_of_time: float = Field(default=0.1, gt=0, le=1)

    # Sign-in by OpenID Connect: the issuer, what it knows this system as, and where people reach this one.
    oidc_issuer: HttpUrl | None = None
    oidc_client_id: str | None = None
    oidc_client_secret: SecretStr | None = None
    oidc_scopes: str = "openid profile email"
    public_url: HttpUrl | None = None
    # Which claim names a person, and which one their roles or groups, with what each is here:
    # {"shop-ops": "operator"}. A name with dots leads into a claim: realm_access.roles.
    oidc_name_claim: str = "email"
    oidc_role_claim: str = "roles"
    oidc_roles: Annotated[dict[str, Role], NoDecode, FromJson] = Field(default_factory=dict)
    # Whether settling takes two people, and for how long the first one's proposal stands.
    second_approver: bool = False
    proposal_seconds: int = Field(default=3_600, gt=0)

    # Which fields of facts only some see: the others see that there is one, or nothing of it. By the field,
    # the least role that sees it: {"customer": "operator"}. A payment token nobody sees.
    masked_fields: Annotated[dict[str, Role], NoDecode, FromJson] = Field(default_factory=dict)
    hidden_fields: Annotated[dict[str, Role], NoDecode, FromJson] = Field(default_factory=dict)

    # How often one look at the database says to all open pages what changed, and how many pages that may be.
    board_poll_seconds: float = Field(default=1.0, gt=0)
    board_max_tabs: int = Field(default=100, gt=0)
    # For how long what the first page tells is shown to others as it is, or while it is looked up anew.
    board_fresh_seconds: float = Field(default=2.0, gt=0)
    board_stale_seconds: float = Field(default=30.0, gt=0)
    # The same of how many sagas ever ended, which takes a look at an index of all of them.
    board_ended_seconds: float = Field(default=20.0, gt=0)
    # Sagas that have waited longer than this for a service are an incident.
    board_late_seconds: float = Field(default=5.0, gt=0)

    # Where a person sees Jaeger's pages, for links to them.
    jaeger_url: HttpUrl | None = None
    # And Grafana's.
    grafana_url: HttpUrl | None = None

    # Where the services answer, whom the view is compared with: one form for all of them, such as
    # http://{service}:8000, and by name what differs: {"order": "http://..."}. Who has no URL is left out.
    services_url: ServicesUrl | None = None
    service_urls: Annotated[dict[str, HttpUrl], NoDecode, FromJson] = Field(default_factory=dict)
    # The first page of the provider's ledger.
    provider_ledger_url: HttpUrl | None = None
    reconciliation_interval_seconds: float = Field(default=5.0, gt=0)
    # How long everybody has to get to a saga's end, and how long a difference must last to be one.
    reconciliation_settle_seconds: float = Field(default=5.0, gt=0)
    # When to look again at what needs a person, at what did not fit, and at who did not answer.
    reconciliation_recheck_seconds: float = Field(default=30.0, gt=0)
    # So many orders fit into a URL that every server takes.
    reconciliation_batch_size: int = Field(default=150, gt=0, le=200)
    reconciliation_batches: int = Field(default=50, gt=0)
    # Of how many orders each service is asked in a round whether the tracker ever saw them (0: of none); and
    # with how many that it did not see it looks for no more.
    reconciliation_walk_orders: int = Field(default=1_000, ge=0, le=1_000)
    reconciliation_unseen_orders: int = Field(default=1_000, gt=0)
    # How many of the sagas that ended last are compared once more when a person asks for it.
    reconciliation_recent: int = Field(default=1_000, ge=0, le=10_000)
    reconciliation_timeout_seconds: float = Field(default=5.0, gt=0)
    # After a gap in the stream, for how long sagas have no deadlines that are asked for at the services.
    look_up_patience_seconds: float = Field(default=60.0, ge=0)
    ledger_page_size: int = Field(default=1_000, gt=1, le=1_000)
    ledger_pages: int = Field(default=20, gt=0)

    @field_validator("step_deadline_seconds")
    @classmethod
    def _with_defaults(cls, given: dict[str, float]) -> dict[str, float]:
        known = {f"{step.service}:{name_of(step.trigger)}" for step in STEPS} | set(STEP_DEADLINES_SECONDS)
        unknown = sorted(set(given) - known)
        if unknown:
            raise ValueError(f"no step is named {unknown[0]!r}")
        return STEP_DEADLINES_SECONDS | given

    @field_validator("service_patience_seconds")
    @classmethod
    def _patience_with_defaults(cls, given: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(given) - set(SERVICE_PATIENCE_SECONDS))
        if unknown:
            raise ValueError(f"no service is named {unknown[0]!r}")
        return SERVICE_PATIENCE_SECONDS | given

    @field_validator("oidc_roles", "masked_fields", "hidden_fields")
    @classmethod
    def _of_people(cls, given: dict[str, Role]) -> dict[str, Role]:
        if unknown := sorted(set(given.values()) - set(NAMED_ROLES)):
            raise ValueError(f"{unknown[0]} is nobody's role")
        return given

    @field_validator("service_urls")
    @classmethod
    def _of_known_services(cls, given: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(given) - set(SERVICES))
        if unknown:
            raise ValueError(f"no service is named {unknown[0]!r}")
        return given

    @property
    def credentials(self) -> dict[str, str]:
        """What it shows to the services: that it is one of the machines."""
        token = self.admin_token
        return {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}

    def service_url(self, name: str) -> str | None:
        """Where this service answers HTTP, if that is known."""
        return self.service_urls.get(name) or (self.services_url and self.services_url.format(service=name))

    @model_validator(mode="after")
    def _all_of_openid(self) -> Self:
        if self.oidc_issuer and not (self.oidc_client_id and self.oidc_client_secret and self.oidc_roles):
            raise ValueError("OIDC_ISSUER takes OIDC_CLIENT_ID, OIDC_CLIENT_SECRET and OIDC_ROLES")
        return self

    @model_validator(mode="after")
    def _kept_together(self) -> Self:
        if problem := self.keep.problem():
            raise ValueError(problem)
        return self

    @property
    def keep(self) -> Keep:
        return Keep(
            sagas=self.saga_retention_days,
            states=self.state_retention_days,
            dead_letters=self.dead_letter_retention_days,
            unreadable=self.dead_letter_retention_days,
            audit=self.audit_retention_days,
            tombstones=self.tombstone_retention_days,
        )

    @property
    def deadline_rules(self) -> Rules:
        return Rules(
            step_seconds=self.step_deadline_seconds,
            redrive_grace_seconds=self.redrive_grace_seconds,
            saga_seconds=self.saga_deadline_seconds,
            overdue_after_seconds=self.overdue_after_seconds,
            approval_seconds=self.approval_deadline_seconds,
        )


class RebuildSettings(TrackerSettings):
    """The same for `rebuild`, which serves no HTTP, and has many messages to read at once."""

    http_port: int = 0
    # With more, each message costs the broker more: twice as much with 15,000, nine times with 60,000.
    prefetch: int = Field(default=3_000, gt=0, le=65_535)
    batch_size: int = Field(default=3_000, gt=0)
    rebuild_lock_timeout_seconds: float = Field(default=30.0, gt=0)
