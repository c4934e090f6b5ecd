"""Every alert has a paragraph in the runbook, fires when it should, and is silent when it should be."""

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from compose.containers.env import FOLDER
from compose.containers.provision import MONITORED_FILES, config_for, write_config
from compose.local.provision import SANDBOX
from compose.system import PROCESSES, SERVICES
from events.messaging import topology
from events.service import STREAM
from saga_tracker.service import ROUTERS
from tests.tools import PROMETHEUS, needs

OBSERVABILITY = FOLDER / "observability"
ALERTS = OBSERVABILITY / "alerts.yaml"
RULES = ALERTS.read_text()
OPERATE = (FOLDER.parent / "docs" / "operate.md").read_text()
RUNBOOK = OPERATE[OPERATE.index("## When an alert fires") :]
NAMES = re.findall(r"^ +- alert: (\w+)$", RULES, re.MULTILINE)
# Where there is no sandbox, nobody misses it.
WATCHED = [spec.name for spec in PROCESSES if spec.name != SANDBOX]
PARTS = dict(re.findall(r"^ +- alert: (\w+)\n((?:(?! +- alert:).*\n?)+)", RULES, re.MULTILINE))


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation, a value a minute: with which an alert fires, and with which it does not.

    `after_minutes` it must fire, and not before `not_before_minutes`.
    """

    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    after_minutes: int = 3
    not_before_minutes: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)


UP = {f'up{{job="{name}",instance="1"}}': "1x30" for name in WATCHED}
CASES = {
    "SagaStuck": Case(
        {'murmuration_saga_oldest_seconds{job="tracker",state="PENDING_PAYMENT"}': "0+60x30"},
        {
            'murmuration_saga_oldest_seconds{job="tracker",state="AWAITING_APPROVAL"}': "0+3600x30",
            'murmuration_saga_oldest_seconds{job="tracker",state="NEEDS_MANUAL"}': "0+3600x30",
            'murmuration_saga_oldest_seconds{job="tracker",state="COMPLETING"}': "800x30",
        },
        after_minutes=18,
        not_before_minutes=14,
        labels={"state": "PENDING_PAYMENT", "severity": "page"},
    ),
    "SagaNeedsManual": Case(
        {'murmuration_sagas_open{job="tracker",state="NEEDS_MANUAL"}': "1x30"},
        {
            'murmuration_sagas_open{job="tracker",state="NEEDS_MANUAL"}': "0x30",
            'murmuration_sagas_open{job="tracker",state="COMPENSATING"}': "9x30",
        },
    ),
    "SagasTimeOut": Case(
        {
            'murmuration_saga_facts_total{job="tracker",fact="saga.timed_out",instance="1"}': "0x5 0+1x30",
            'murmuration_saga_facts_total{job="tracker",fact="saga.timed_out",instance="2"}': "0x5 0+2x30",
            'murmuration_saga_facts_total{job="tracker",fact="order.created",instance="1"}': "0+50x40",
        },
        {
            'murmuration_saga_facts_total{job="tracker",fact="saga.timed_out"}': "0x5 1x30",
            'murmuration_saga_facts_total{job="tracker",fact="order.created"}': "0+50x40",
        },
        labels={"severity": "page"},
        after_minutes=14,
        not_before_minutes=6,
    ),
    "SagasCancelled": Case(
        {
            'murmuration_saga_seconds_count{job="tracker",end="CANCELLED"}': "0x5 0+50x60",
            'murmuration_saga_seconds_count{job="tracker",end="COMPLETED"}': "0+50x70",
        },
        {
            'murmuration_saga_seconds_count{job="tracker",end="CANCELLED"}': "0+10x70",
            'murmuration_saga_seconds_count{job="tracker",end="COMPLETED"}': "0+50x70",
        },
        labels={"severity": "ticket"},
        after_minutes=25,
        not_before_minutes=8,
    ),
    "SagasDiffer": Case(
        {'murmuration_reconciliation_differences{job="tracker"}': "2x30"},
        {'murmuration_reconciliation_differences{job="tracker"}': "0x30"},
    ),
    "NobodyKeepsDeadlines": Case(
        {
            'murmuration_leader_present{job="tracker",instance="1"}': "0x30",
            'murmuration_leader_present{job="tracker",instance="2"}': "0x30",
        },
        {
            'murmuration_leader_present{job="tracker",instance="1"}': "1x30",
            'murmuration_leader{job="tracker",instance="1"}': "0x30",
        },
    ),
    "TrackerBehind": Case(
        {'murmuration_stream_lag_seconds{job="tracker"}': "0+60x30"},
        # One of two is enough: they write the same view.
        {
            'murmuration_stream_lag_seconds{job="tracker",instance="1"}': "0+60x30",
            'murmuration_stream_lag_seconds{job="tracker",instance="2"}': "0x30",
        },
        after_minutes=4,
        not_before_minutes=1,
    ),
    "ProcessDown": Case(
        UP | {'up{job="order",instance="1"}': "1x5 _x30"},
        UP | {'up{job="order",instance="2"}': "0x30", 'up{job="rabbitmq"}': "0x30"},
        after_minutes=13,
        not_before_minutes=5,
        labels={"job": "order"},
    ),
    "ProcessRestarts": Case(
        {
            'process_start_time_seconds{job="order",instance="1"}': "0+60x30",
            'process_start_time_seconds{job="order",instance="2"}': "7x30",
        },
        {
            # Each replica was rolled out twice.
            'process_start_time_seconds{job="order",instance="1"}': "7x5 400x5 800x30",
            'process_start_time_seconds{job="order",instance="2"}': "9x5 500x5 900x30",
        },
        labels={"job": "order"},
        after_minutes=6,
        not_before_minutes=3,
    ),
    "ProcessCutOff": Case(
        {'murmuration_connected{job="order",to="broker"}': "1 0x30"},
        {
            'murmuration_connected{job="order",to="broker",instance="1"}': "0x30",
            'murmuration_connected{job="order",to="broker",instance="2"}': "1x30",
        },
        labels={"job": "order", "to": "broker"},
    ),
    "OutboxOld": Case(
        {'murmuration_outbox_oldest_seconds{job="order"}': "0+60x30"},
        {'murmuration_outbox_oldest_seconds{job="order"}': "30x30"},
        labels={"job": "order"},
        not_before_minutes=1,
        after_minutes=4,
    ),
    "MessagesRefused": Case(
        {
            'murmuration_outbox_refused{job="order",instance="1"}': "0x4 3x30",
            'murmuration_outbox_refused{job="order",instance="2"}': "0x4 3x30",
        },
        {
            # One that is refused for a moment, and nothing.
            'murmuration_outbox_refused{job="order"}': "0x4 2 0x4 1 0x30",
            'murmuration_outbox_refused{job="tracker"}': "0x40",
        },
        labels={"job": "order", "severity": "page"},
        not_before_minutes=5,
        after_minutes=7,
    ),
    "QueueFilling": Case(
        {
            'rabbitmq_detailed_queue_messages{queue="payment.facts",instance="1"}': "0+100000x30",
            # Of one that led it before.
            'rabbitmq_detailed_queue_messages{queue="payment.facts",instance="2"}': "7x30",
        },
        {
            'rabbitmq_detailed_queue_messages{queue="order.facts"}': "400000x30",
            'rabbitmq_detailed_queue_messages{queue="facts.stream"}': "0+100000x30",
        },
        labels={"queue": "payment.facts"},
        after_minutes=8,
        not_before_minutes=5,
    ),
    "StreamLost": Case(
        {'murmuration_stream_gaps{job="tracker"}': "1x5 2x30"},
        {'murmuration_stream_gaps{job="tracker"}': "3x30"},
        after_minutes=7,
        not_before_minutes=4,
    ),
    "RetentionFails": Case(
        {'murmuration_retention_failures_total{job="tracker"}': "0+1x30"},
        {'murmuration_retention_failures_total{job="tracker"}': "7x30"},
        after_minutes=13,
        not_before_minutes=9,
    ),
    "ServiceDown": Case(
        {'murmuration_service_down{job="tracker",service="payment"}': "0x2 1x30"},
        {'murmuration_service_down{job="tracker",service="payment"}': "1x0 0x30"},
        labels={"service": "payment"},
        after_minutes=5,
        not_before_minutes=2,
    ),
    "BrokerBlocked": Case(
        {'murmuration_broker_blocked{job="order"}': "0x2 1x30"},
        {'murmuration_broker_blocked{job="order"}': "0x30"},
        after_minutes=5,
        not_before_minutes=2,
    ),
    "IntakeRefuses": Case(
        {'murmuration_intake_refused_total{job="order"}': "0+20x30"},
        {'murmuration_intake_refused_total{job="order"}': "20x30"},
        after_minutes=5,
    ),
    "LocksHeld": Case(
        {'murmuration_lock_timeouts_total{job="inventory"}': "0+2x30"},
        {'murmuration_lock_timeouts_total{job="inventory"}': "2x30"},
        labels={"job": "inventory"},
        after_minutes=9,
        not_before_minutes=4,
    ),
    "CallOld": Case(
        {'murmuration_call_oldest_seconds{job="payment"}': "0+60x30"},
        {'murmuration_call_oldest_seconds{job="payment"}': "300x30"},
        after_minutes=13,
        not_before_minutes=9,
    ),
    "CircuitOpen": Case(
        {'murmuration_circuit_open{job="payment",party="provider"}': "1x30"},
        {'murmuration_circuit_open{job="payment",party="provider"}': "1x3 0x30"},
        labels={"party": "provider"},
        after_minutes=7,
        not_before_minutes=4,
    ),
    "MessagesRetried": Case(
        {
            'murmuration_retries_total{job="payment",reason="CheckViolation",instance="1"}': "0x5 0+2x30",
            'murmuration_retries_total{job="payment",reason="CheckViolation",instance="2"}': "0x5 0+2x30",
        },
        {
            'murmuration_retries_total{job="payment",reason="CheckViolation"}': "0x5 3x30",
            'murmuration_retries_total{job="inventory",reason="Locked"}': "0+20x30",
        },
        labels={"job": "payment"},
        after_minutes=14,
        not_before_minutes=6,
    ),
    "DeadLetters": Case(
        {
            'murmuration_dead_letters_open{job="tracker",service="payment",kind="unusable"}': "0x5 2x30",
            'murmuration_dead_letters_open{job="tracker",service="payment",kind="stray"}': "1x30",
        },
        {'murmuration_dead_letters_open{job="tracker",service="payment",kind="case"}': "3x30"},
        labels={"service": "payment"},
    ),
    "CustomerNotNotified": Case(
        {'murmuration_dead_letters_open{job="tracker",service="notification",kind="case"}': "1x30"},
        {'murmuration_dead_letters_open{job="tracker",service="payment",kind="case"}': "1x30"},
    ),
    "RequestsFail": Case(
        {
            'murmuration_http_request_seconds_count{job="order",route="/orders",status="5xx"}': "0+10x30",
            'murmuration_http_request_seconds_count{job="order",route="/orders",status="2xx"}': "0+90x30",
        },
        {
            'murmuration_http_request_seconds_count{job="order",route="/orders",status="4xx"}': "0+10x30",
            'murmuration_http_request_seconds_count{job="order",route="/orders",status="2xx"}': "0+90x30",
            'murmuration_http_request_seconds_count{job="order",route="/readyz",status="5xx"}': "0+900x30",
        },
        after_minutes=5,
    ),
}


def firing_at(name: str, minutes: int, expected: int, labels: Mapping[str, str]) -> dict[str, Any]:
    """Promtool's notation of: so many alerts of this name fire then."""
    wanted = {"alertname": name, "alertstate": "firing", **labels}
    selector = ",".join(f'{label}="{value}"' for label, value in wanted.items())
    return {
        "expr": f"count(ALERTS{{{selector}}}) or vector(0)",
        "eval_time": f"{minutes}m",
        "exp_samples": [{"labels": "{}", "value": expected}],
    }


def with_series(series: Mapping[str, str], *expected: dict[str, Any]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": list(expected),
    }


def test_every_process_is_missed_when_it_is_gone() -> None:
    assert re.findall(r'label_replace\(vector\(1\), "job", "(\w+)"', PARTS["ProcessDown"]) == WATCHED


def test_every_queue_but_the_stream_is_watched_for_its_own_length() -> None:
    pattern = re.search(r'queue=~"([^"]+)"', PARTS["QueueFilling"])
    assert pattern
    watched = {name for name in topology.queues(SERVICES) if re.fullmatch(pattern[1], name)}
    assert watched == set(topology.queues(SERVICES)) - {STREAM}
    assert f"/ {topology.MAX_QUEUE_LENGTH} > " in PARTS["QueueFilling"]
    lengths = {name: given.get("x-max-length") for name, given in topology.queues(SERVICES).items()}
    assert set(lengths.values()) - {lengths[STREAM]} == {topology.MAX_QUEUE_LENGTH}


def test_every_alert_has_a_test() -> None:
    assert sorted(CASES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_says_what_to_do(name: str) -> None:
    rule = PARTS[name]
    assert re.search(r"severity: (page|ticket)\b", rule)
    assert re.search(r"^ +summary: ", rule, re.MULTILINE)
    assert re.search(r"(curl|docker compose) ", rule), "it names no command to run"
    assert f"runbook: docs/operate.md#{name.lower()}\n" in rule + "\n"
    found = re.search(rf"^### {name}\n\n(.*?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert found, "the runbook says nothing of it"
    assert len(found[1].split()) >= 40


def test_the_runbook_tells_of_no_alert_that_is_gone() -> None:
    assert re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE) == NAMES


def test_what_they_tell_to_ask_for_can_be_asked_for() -> None:
    known = {route.path for router in ROUTERS for route in router.routes if isinstance(route, Route)}
    asked_for = set(re.findall(r"\$TRACKER_URL(/[\w/-]+)", RULES + RUNBOOK))
    named = {path.replace("ORDER_ID", "{order_id}") for path in asked_for}
    assert named - known - {"/readyz"} == set()
    assert len(named) > 5


@needs(PROMETHEUS)
@pytest.mark.parametrize("name", NAMES)
def test_it_fires_when_it_should_and_only_then(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    fires = firing_at(name, case.after_minutes, 1, case.labels)
    not_yet = firing_at(name, case.not_before_minutes, 0, {})
    silent = [firing_at(name, minutes, 0, {}) for minutes in (5, 15, 29)]
    content = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [with_series(case.fires, fires, not_yet), with_series(case.quiet, *silent)],
    }
    file = tmp_path / "alerts.json"
    file.write_text(json.dumps(content))
    ran = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs(PROMETHEUS)
def test_the_files_are_what_is_written_for_these_services() -> None:
    asked = [spec.name for spec in PROCESSES]
    for name in MONITORED_FILES:
        text = (OBSERVABILITY / name).read_text()
        assert config_for(text, WATCHED, asked) == text


def test_a_further_service_is_asked_and_missed(tmp_path: Path) -> None:
    write_config(tmp_path, [*WATCHED, "loyalty"], [*WATCHED, "loyalty", SANDBOX])
    assert f"names: [{', '.join(WATCHED)}, loyalty, {SANDBOX}]" in (tmp_path / "prometheus.yaml").read_text()
    missed = re.findall(r'vector\(1\), "job", "(\w+)"', (tmp_path / "alerts.yaml").read_text())
    assert missed == [*WATCHED, "loyalty"]


@pytest.mark.parametrize("what", [("rules", "alerts.yaml"), ("config", "prometheus.yaml")], ids=str)
def test_prometheus_takes_them(what: tuple[str, str]) -> None:
    command = ["promtool", "check", what[0], str(OBSERVABILITY / what[1])]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
