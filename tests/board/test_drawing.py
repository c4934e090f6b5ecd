"""Drawings are pure: what they are given is in them, once, well-formed and escaped."""

from datetime import timedelta
from xml.etree import ElementTree

import pytest

from saga_tracker.board.drawing import Published, Series, choreography, lanes, plot, still_to_come
from saga_tracker.board.letters import HIDDEN, diff, masked, unmasked
from saga_tracker.causes.cause import Cause
from saga_tracker.http.views import CausationView, FactView, SagaWithTimeline, WaitView
from saga_tracker.projection import State, project
from tests.planted import SCRIPT, planted
from tests.tracker.facts import BEGAN, PATHS, envelopes, facts_named

SVG = "{http://www.w3.org/2000/svg}"


def saga_of(names: str) -> SagaWithTimeline:
    """A saga as the API tells of it."""
    published = envelopes(names)
    facts = [
        FactView(
            fact_id=envelope.fact_id,
            name=envelope.fact.wire_name.rpartition(".")[0],
            wire_name=envelope.fact.wire_name,
            stated_by=envelope.stated_by,
            stated_at=envelope.stated_at,
            doubtful=None,
            read_at=envelope.stated_at,
            causation_id=envelope.causation_id,
            causation=CausationView(fact_id=envelope.causation_id, name="a.b", directly=False)
            if envelope.causation_id
            else None,
            since_start_seconds=(envelope.stated_at - BEGAN).total_seconds(),
            since_causation_seconds=1.0 if envelope.causation_id else None,
            stream_offset=place,
            body={},
        )
        for place, envelope in enumerate(published)
    ]
    saga = project(facts_named(names))
    waits = [
        WaitView(
            service=wait.service,
            facts=list(wait.facts),
            since=wait.since,
            because_of=wait.because_of,
            because_of_id=wait.because_of_id,
            person=wait.person,
        )
        for wait in saga.waits
    ]
    shown: SagaWithTimeline = planted(SagaWithTimeline)
    return shown.model_copy(update={"facts": facts, "waits": waits, "state": saga.state})


@pytest.mark.parametrize("names", [*PATHS.values(), "created", "created reserved held"])
def test_a_saga_is_drawn_with_each_fact_once(names: str) -> None:
    drawn = ElementTree.fromstring(lanes(saga_of(names)))
    dots = [link.attrib["href"] for link in drawn.iter(f"{SVG}a")]
    assert len(dots) == len(set(dots)) == len(names.split())
    assert "style" not in lanes(saga_of(names))


def test_what_is_still_to_come_follows_the_steps_to_the_end() -> None:
    saga = saga_of("created reserved")
    assert {each.name for each in still_to_come(saga.waits)} == {
        "payment.captured",
        "fulfillment.shipment_scheduled",
        "order.confirmed",
        "inventory.stock_sold",
        "fulfillment.shipment_dispatched",
        "notification.customer_notified",
    }
    drawn = ElementTree.fromstring(lanes(saga))
    dashed = [dot for dot in drawn.iter(f"{SVG}circle") if "coming" in dot.attrib["class"]]
    assert len(dashed) == len(still_to_come(saga.waits))
    assert still_to_come([]) == []
    assert "coming" not in lanes(saga_of(PATHS["completed"]))


def test_each_attempt_that_failed_is_on_the_bar_of_its_wait() -> None:
    saga = saga_of("created reserved")
    (wait,) = saga.waits
    since = wait.since
    failed_at = tuple(since + timedelta(seconds=second) for second in (1, 2, 4, 8))
    wait.cause = Cause(
        kind="call",
        what="authorise",
        error=SCRIPT,
        attempt=5,
        since=since,
        failed_at=failed_at,
        known_at=since + timedelta(seconds=10),
    )
    text = lanes(saga)
    assert SCRIPT not in text
    drawn = ElementTree.fromstring(text)
    (bar,) = (each for each in drawn.iter(f"{SVG}rect") if each.attrib["class"] == "call open")
    strokes = [each.attrib["d"] for each in drawn.iter(f"{SVG}path") if each.attrib["class"] == "attempt"]
    places = [float(stroke[1:].split()[0]) for stroke in strokes]
    left, width = float(bar.attrib["x"]), float(bar.attrib["width"])
    assert places == pytest.approx([left + width * share for share in (0.1, 0.2, 0.4, 0.8)], abs=0.1)


def test_later_facts_stand_further_right() -> None:
    saga = saga_of(PATHS["completed"])
    saga.facts[3] = saga.facts[3].model_copy(update={"read_at": saga.facts[3].read_at + timedelta(days=1)})
    drawn = ElementTree.fromstring(lanes(saga))
    places = {
        link.attrib["href"].rpartition("/")[2]: float(link[1].attrib["cx"]) for link in drawn.iter(f"{SVG}a")
    }
    in_time = sorted(saga.facts, key=lambda fact: fact.read_at)
    assert [places[str(fact.fact_id)] for fact in in_time] == sorted(places.values())


def test_whatever_a_saga_says_is_escaped() -> None:
    saga: SagaWithTimeline = planted(SagaWithTimeline)
    saga.state = State.PENDING_PAYMENT
    assert SCRIPT not in lanes(saga)
    ElementTree.fromstring(lanes(saga))


def test_a_plot_has_a_line_a_series_and_lifts_it_where_there_is_nothing() -> None:
    text = plot("sagas", [Series("begun", "started", [0.0, 3.0, None, 7.0]), Series("none", "ended", [])])
    drawn = ElementTree.fromstring(text)
    begun, none = (line for line in drawn.iter(f"{SVG}path"))
    assert begun.attrib["d"].count("M") == 2
    assert none.attrib["d"] == "M0 0"
    labels = [each.text for each in drawn.iter(f"{SVG}text")]
    assert labels[:2] == ["0", "10"]
    assert "4 min ago" in labels
    assert SCRIPT not in plot(SCRIPT, [Series(SCRIPT, "started", [])])


def test_a_map_has_an_arrow_to_each_subscriber() -> None:
    fact = Published("a.happened", "a.happened.v1", "a", ["b", "c"], "forward")
    drawn = ElementTree.fromstring(choreography(["a", "b", "c"], [fact]))
    assert len([line for line in drawn.iter(f"{SVG}line") if "fact" in line.attrib["class"]]) == 2
    assert [link.attrib["href"] for link in drawn.iter(f"{SVG}a")] == ["/ui/facts/a.happened.v1"]


def test_a_payment_token_is_hidden_and_stays_what_it_was() -> None:
    body = '{"payment_token": "tok_1", "amount": 1}'
    shown = masked(body)
    assert "tok_1" not in shown
    assert HIDDEN in shown
    edited = shown.replace('"amount": 1', '"amount": 2')
    assert "tok_1" in unmasked(edited, body)
    assert "tok_1" not in masked('not JSON "payment_token": "tok_1"')
    assert [look for look, _ in diff(shown, edited)] == ["quiet", "", "", "removed", "added", ""]
