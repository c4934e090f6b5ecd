"""A call is made outside the transaction, until its outcome is known, and its work is done once."""

from collections.abc import MutableMapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb

from events.decision import RetryPolicy
from events.outbound.dispatcher import CallRow, schedules_of
from events.runtime.settings import ServiceSettings
from tests.runtime.eventually import eventually
from tests.runtime.stage import Stage
from tests.runtime.toy.decide import Ring
from tests.runtime.toy.facts import Answered, Behaviour, RingWanted

Logged = list[MutableMapping[str, Any]]
DEAD = 90_001


def key(order: UUID) -> str:
    return f"ring:{order}"


async def ring(stage: Stage, *plan: Behaviour, look_up_fails: bool = False) -> tuple[UUID, Answered]:
    """Have the toy ring outside, and wait for what comes of it."""
    order = uuid4()
    await stage.say(RingWanted(order_id=order, plan=plan, look_up_fails=look_up_fails))
    await eventually(lambda: stage.published(order, kind="answered"))
    (published,) = [one for one in stage.received if one.correlation_id == str(order)]
    return order, Answered.model_validate_json(published.body)


async def leave_behind(stage: Stage, owner: int, *plan: Behaviour, **columns: Any) -> UUID:
    """A call that a killed instance was about to make, or in the middle of."""
    given: dict[str, Any] = {
        "id": uuid4(),
        "order": uuid4(),
        "attempts": 0,
        "maybe_done": False,
        "due_at": datetime.now(UTC),
    }
    given |= columns
    order: UUID = given["order"]
    call = Ring(order_id=order, plan=plan)
    await stage.rows(
        "INSERT INTO calls (call_id, owner, name, order_id, request, attempts, maybe_done, due_at) VALUES"
        " (%(id)s, %(owner)s, 'ring', %(order)s, %(request)s, %(attempts)s, %(maybe_done)s, %(due_at)s)",
        owner=owner,
        request=Jsonb(call.model_dump(mode="json")),
        **given,
    )
    return order


# What the outside does, attempt by attempt; what is asked of it; the answer in the end.
STORIES: list[tuple[tuple[Behaviour, ...], list[str], str]] = [
    (("answers",), ["asked", "did"], "done"),
    (("refuses",), ["asked"], "refused"),
    (("fails", "answers"), ["asked", "asked", "did"], "done"),
    (("fails", "fails", "refuses"), ["asked", "asked", "asked"], "refused"),
    (("loses",), ["asked", "did", "looked_up"], "done"),
    (("hangs", "answers"), ["asked", "looked_up", "asked", "did"], "done"),
    (("hangs_done",), ["asked", "did", "looked_up"], "done"),
    (("breaks", "answers"), ["asked", "looked_up", "asked", "did"], "done"),
    (
        ("fails", "hangs", "fails", "answers"),
        ["asked", "asked", "looked_up", "asked", "looked_up", "asked", "did"],
        "done",
    ),
]


@pytest.mark.parametrize(
    ("plan", "story", "answer"), [pytest.param(*row, id="-".join(row[0])) for row in STORIES]
)
async def test_it_ends_with_an_outcome_and_the_work_done_at_most_once(
    stage: Stage, plan: tuple[Behaviour, ...], story: list[str], answer: str
) -> None:
    await stage.start(call_timeout_seconds=0.2)
    order, answered = await ring(stage, *plan)
    assert stage.outside.book.story(key(order)) == story
    assert answered == Answered(order_id=order, answer=answer)
    await eventually(stage.drained)
    assert len(stage.published(order, kind="answered")) == 1


# What the outside never stops doing, and whether the work may have been done. Even where a look-up found
# nothing, it may: a request that went out may still be on its way.
HOPELESS: list[tuple[Behaviour, bool, str, bool, list[str]]] = [
    ("fails", False, "attempts_exhausted", False, ["asked"] * 3),
    ("hangs", False, "attempts_exhausted", True, ["asked", "looked_up"] * 3),
    ("hangs", True, "nobody_says", True, ["asked", "looked_up", "looked_up", "looked_up"]),
    ("loses", True, "nobody_says", True, ["asked", "did", "looked_up", "looked_up", "looked_up"]),
    ("breaks", False, "attempts_exhausted", True, ["asked", "looked_up"] * 3),
]


@pytest.mark.parametrize(
    ("behaviour", "look_up_fails", "reason", "maybe_done", "story"),
    [pytest.param(*row, id=f"{row[0]}, {'silence' if row[1] else 'look-up'}") for row in HOPELESS],
)
async def test_attempts_are_capped_and_giving_up_says_whether_it_may_be_done(
    stage: Stage,
    behaviour: Behaviour,
    look_up_fails: bool,
    reason: str,
    maybe_done: bool,
    story: list[str],
) -> None:
    await stage.start(call_timeout_seconds=0.15, call_attempts=3)
    order, answered = await ring(stage, behaviour, look_up_fails=look_up_fails)
    assert answered == Answered(order_id=order, answer=reason, maybe_done=maybe_done)
    assert stage.outside.book.story(key(order)) == story
    await eventually(stage.drained)


@pytest.mark.parametrize(("retry_policy", "attempts"), [("step", 1), ("undo", 2), ("message", 4)])
async def test_a_call_is_tried_as_often_as_it_is_worth(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, retry_policy: RetryPolicy, attempts: int
) -> None:
    monkeypatch.setattr(Ring, "retry_policy", retry_policy)
    await stage.start(call_attempts=1, undo_attempts=2, message_attempts=4)
    order, answered = await ring(stage, "fails")
    assert answered.answer == "attempts_exhausted"
    assert stage.outside.book.story(key(order)) == ["asked"] * attempts


@pytest.mark.parametrize(
    ("retry_policy", "survives_seconds", "gives_up_within_seconds", "silent_within_seconds"),
    [("step", 55, 120, 230), ("undo", 120, 310, 370), ("message", 15 * 60, 36 * 60, 39 * 60)],
)
def test_how_long_an_outage_a_call_survives(
    defaults: ServiceSettings,
    retry_policy: RetryPolicy,
    survives_seconds: float,
    gives_up_within_seconds: float,
    silent_within_seconds: float,
) -> None:
    """Refused at once, or never answered: as the settings say."""
    schedule = schedules_of(defaults)[retry_policy]
    draws = [
        [schedule.pause_after(attempt) for attempt in range(1, schedule.attempts + 1)] for _ in range(200)
    ]
    assert min(sum(pauses[:-1]) for pauses in draws) >= survives_seconds
    assert max(sum(pauses) for pauses in draws) <= gives_up_within_seconds
    waiting_seconds = (schedule.attempts + 1) * defaults.call_timeout_seconds
    assert max(sum(pauses) for pauses in draws) + waiting_seconds <= silent_within_seconds


@pytest.fixture
def defaults() -> ServiceSettings:
    """As they are unless somebody sets them."""
    return ServiceSettings(broker_url="amqp://none", database_url="postgresql://none", http_port=1)


async def test_a_failed_attempt_is_written_down_with_its_reason_and_the_time_of_the_next(
    stage: Stage, logged: Logged
) -> None:
    await stage.start(call_backoff_seconds=100, call_backoff_cap_seconds=150, call_timeout_seconds=0.2)
    asked_at = datetime.now(UTC)
    failing, hanging = uuid4(), uuid4()
    await stage.say(
        RingWanted(order_id=failing, plan=("fails",)), RingWanted(order_id=hanging, plan=("hangs",))
    )
    await eventually(lambda: len([line for line in logged if line["event"] == "call_failed"]) == 2)
    await eventually(lambda: tried(stage, 2))
    found = {row["order_id"]: row for row in await stage.rows("SELECT * FROM calls")}
    assert (found[failing]["attempts"], found[failing]["maybe_done"]) == (1, False)
    assert found[failing]["last_error"] == "out_of_order"
    assert (found[hanging]["attempts"], found[hanging]["maybe_done"]) == (1, True)
    assert found[hanging]["last_error"] == "timeout"
    for row in found.values():
        # Twice the first pause is above the cap: half of the cap to all of it, at random.
        assert 75 <= (row["due_at"] - asked_at).total_seconds() <= 150 + 15


async def tried(stage: Stage, calls: int) -> bool:
    found = await stage.rows("SELECT count(*) AS size FROM calls WHERE attempts > 0")
    return bool(found[0]["size"] == calls)


async def test_pauses_between_attempts_grow_up_to_the_cap(stage: Stage) -> None:
    await stage.start(call_backoff_seconds=0.05, call_backoff_cap_seconds=0.4, call_attempts=5)
    order, _ = await ring(stage, "fails")
    at = [entry.at for entry in stage.outside.book.entries if entry.key == key(order)]
    pauses = [after - before for before, after in pairwise(at)]
    for pause, least in zip(pauses, (0.05, 0.1, 0.2, 0.2), strict=True):
        assert pause >= least


async def test_calls_that_a_dead_instance_left_are_made(stage: Stage) -> None:
    untried = await leave_behind(stage, DEAD, "answers")
    await stage.start()
    await eventually(lambda: stage.published(untried, kind="answered"))
    later = await leave_behind(stage, DEAD, "answers")
    await eventually(lambda: stage.published(later, kind="answered"))
    await eventually(stage.drained)
    assert stage.outside.book.count("did") == {key(untried): 1, key(later): 1}


async def test_a_leftover_call_remembers_how_far_it_came(stage: Stage) -> None:
    done = await leave_behind(stage, DEAD, "answers", attempts=1, maybe_done=True)
    stage.outside.book.write("did", key(done))
    exhausted = await leave_behind(stage, DEAD, "answers", attempts=3)
    await stage.start(call_attempts=3)
    await eventually(
        lambda: stage.published(done, kind="answered") and stage.published(exhausted, kind="answered")
    )
    assert stage.outside.book.story(key(done)) == ["did", "looked_up"]
    assert stage.outside.book.story(key(exhausted)) == ["looked_up"]


async def test_what_a_dead_instance_left_it_may_have_sent(stage: Stage) -> None:
    """Its heir cannot know: nothing that it sends itself gets through, and yet the call may be done."""
    order = await leave_behind(stage, DEAD, "fails")
    await stage.start(call_attempts=2)
    await eventually(lambda: stage.published(order, kind="answered"))
    (published,) = [one for one in stage.received if one.correlation_id == str(order)]
    assert Answered.model_validate_json(published.body).maybe_done


async def test_a_call_that_is_handed_over_after_it_was_found_in_the_table(stage: Stage) -> None:
    """It is attempted again, unaware of the first attempt: what that may have done is not forgotten."""
    order, dispatcher = uuid4(), (await stage.start())._dispatcher
    assert dispatcher is not None
    call = Ring(order_id=order, plan=("loses", "fails", "fails"))
    row = CallRow(uuid4(), "ring", order, call.model_dump(mode="json"), None)
    await leave_behind(stage, 1, *call.plan, order=order, id=row.call_id)
    dispatcher.look_in_table()
    await eventually(lambda: stage.outside.book.story(key(order)) == ["asked", "did"])
    dispatcher.hand_over([row])
    await eventually(lambda: stage.published(order, kind="answered"))
    assert stage.outside.book.story(key(order)) == ["asked", "did", "asked", "looked_up"]


async def test_a_leftover_call_that_is_not_due_yet_is_made_when_it_is(stage: Stage) -> None:
    due_at = datetime.fromtimestamp(datetime.now(UTC).timestamp() + 0.8, UTC)
    order = await leave_behind(stage, DEAD, "answers", attempts=1, due_at=due_at)
    await stage.start(sweep_seconds=60)
    await eventually(lambda: stage.published(order, kind="answered"))
    assert datetime.now(UTC) >= due_at


async def test_a_leftover_call_that_this_version_does_not_know_holds_up_no_other(
    stage: Stage, logged: Logged
) -> None:
    await stage.rows(
        "INSERT INTO calls (call_id, owner, name, order_id, request)"
        " VALUES (gen_random_uuid(), %(owner)s, 'sing', gen_random_uuid(), '{}')",
        owner=DEAD,
    )
    await stage.start(call_concurrency=1)
    await ring(stage, "answers")
    await eventually(lambda: "call_not_understood" in [line["event"] for line in logged])
    assert await stage.size("calls") == 1


async def test_only_so_many_calls_are_under_way_at_a_time(stage: Stage) -> None:
    await stage.start(call_concurrency=4, call_timeout_seconds=20)
    orders = [uuid4() for _ in range(15)]
    await stage.say(*(RingWanted(order_id=order, plan=("waits",)) for order in orders))
    await eventually(lambda: stage.outside.under_way == 4)

    async def all_asked_for() -> bool:
        return await stage.size("calls") == 15

    await eventually(all_asked_for)
    stage.outside.gate.set()
    await eventually(lambda: len(stage.published(*orders, kind="answered")) == 15)
    assert stage.outside.most_under_way == 4
    await eventually(stage.drained)


async def test_past_its_memory_every_call_is_made_and_none_twice(stage: Stage) -> None:
    await stage.start(call_memory=3, call_concurrency=2, batch_size=30)
    orders = [uuid4() for _ in range(50)]
    await stage.say(*(RingWanted(order_id=order) for order in orders))
    await eventually(lambda: len(stage.published(*orders, kind="answered")) == 50)
    assert stage.outside.book.count("asked") == {key(order): 1 for order in orders}
    await eventually(stage.drained)


async def test_past_its_memory_failing_calls_are_tried_again_too(stage: Stage) -> None:
    await stage.start(call_memory=3, call_concurrency=3, call_backoff_seconds=0.01)
    orders = [uuid4() for _ in range(20)]
    await stage.say(*(RingWanted(order_id=order, plan=("fails", "loses")) for order in orders))
    await eventually(lambda: len(stage.published(*orders, kind="answered")) == 20)
    assert stage.outside.book.count("did") == {key(order): 1 for order in orders}
    await eventually(stage.drained)


async def test_a_slow_call_does_not_hold_up_facts(stage: Stage) -> None:
    await stage.start(call_timeout_seconds=20)
    slow = uuid4()
    await stage.say(RingWanted(order_id=slow, plan=("waits",)))
    await eventually(lambda: stage.outside.under_way == 1)
    await ring(stage, "answers")
    assert not stage.published(slow, kind="answered")
    stage.outside.gate.set()
    await eventually(lambda: stage.published(slow, kind="answered"))


async def test_an_outcome_that_decide_does_not_accept_is_offered_again(stage: Stage, logged: Logged) -> None:
    """The work is done, so its outcome must not be lost; and it is not done again."""
    await stage.rows("ALTER TABLE tallies ADD CONSTRAINT no_answers CHECK (answer IS NULL)")
    await stage.start()
    order = uuid4()
    await stage.say(RingWanted(order_id=order, plan=("answers",)))
    await eventually(lambda: len([line for line in logged if line["event"] == "call_failed"]) >= 2)
    await stage.rows("ALTER TABLE tallies DROP CONSTRAINT no_answers")
    await eventually(lambda: stage.published(order, kind="answered"))
    assert stage.outside.book.count("did") == {key(order): 1}
    assert stage.outside.book.count("asked") == {key(order): 1}
    await eventually(stage.drained)


async def test_a_call_whose_row_is_refused_is_tried_again_and_holds_up_no_other(
    stage: Stage, logged: Logged
) -> None:
    await stage.start(message_backoff_cap_seconds=0.2)
    guilty = uuid4()
    await stage.rows("ALTER TABLE calls ADD CONSTRAINT not_again CHECK (attempts = 0)")
    await stage.say(RingWanted(order_id=guilty, plan=("fails", "fails", "answers")))
    await eventually(lambda: len([line for line in logged if line["event"] == "call_set_aside"]) >= 2)
    await ring(stage, "answers")
    await eventually(lambda: stage.published(guilty, kind="answered"))
    assert await stage.size("calls") == 0
    aside = [line for line in logged if line["event"] == "call_set_aside"]
    assert [(line["order_id"], line["times"]) for line in aside] == [(str(guilty), 1), (str(guilty), 2)]
    assert {type(line["exc_info"]).__name__ for line in aside} == {"CheckViolation"}
