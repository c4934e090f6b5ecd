"""Grafana's dashboard, described: `python -m compose.dashboard` writes it.

Read from the top: is anything stuck, are sagas completing, how fast, where do they wait, what is failing.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FILE = Path(__file__).parent / "observability" / "dashboards" / "murmuration.json"
DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
COLUMNS, STAT_HEIGHT, GRAPH_HEIGHT = 24, 4, 8
# Grafana's: long enough for two scrapes.
RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Line:
    """One query. `legend` names its series; `{{step}}` is the value of a label."""

    query: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One answer. `unit` is Grafana's name of it. `bad_from`: the value from which on a number is red."""

    title: str
    lines: tuple[Line, ...]
    unit: str = "short"
    kind: Literal["stat", "timeseries"] = "timeseries"
    bad_from: float | None = None
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A question, and the panels that answer it, side by side."""

    question: str
    panels: tuple[Panel, ...]


def quantile(share: float, metric: str, by: str = "", only: str = "") -> str:
    """The query of a histogram's quantile."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{only}{RATE})))"


def number(title: str, query: str, unit: str = "short", bad_from: float | None = None) -> Panel:
    """A panel of one number."""
    return Panel(title, (Line(query, ""),), unit, "stat", bad_from)


_ENDED = "murmuration_saga_seconds_count"
_FACTS = "murmuration_saga_facts_total"
_REQUESTS = "murmuration_http_request_seconds_count"

ROWS = (
    Row(
        "Is anything stuck?",
        (
            number("Completed a second", f'sum(rate({_ENDED}{{end="COMPLETED"}}{RATE}))', "ops"),
            number("In flight", "sum(max by (state) (murmuration_sagas_open))"),
            number(
                "Oldest that nobody decides on",
                'max(murmuration_saga_oldest_seconds{state!~"AWAITING_APPROVAL|NEEDS_MANUAL"})',
                "s",
                900,
            ),
            number("Need a person", 'max(murmuration_sagas_open{state="NEEDS_MANUAL"})', bad_from=1),
            number(
                "Dead letters",
                "sum(max by (service, kind) (murmuration_dead_letters_open))",
                bad_from=1,
            ),
            number("Alerts", 'count(ALERTS{alertstate="firing"}) or vector(0)', bad_from=1),
        ),
    ),
    Row(
        "Are sagas completing, and how fast?",
        (
            Panel(
                "Sagas a second",
                (
                    Line(f'sum(rate({_FACTS}{{fact="order.created"}}{RATE}))', "created"),
                    Line(f"sum by (end) (rate({_ENDED}{RATE}))", "{{end}}"),
                ),
                "ops",
            ),
            Panel(
                "Time to completion",
                tuple(
                    Line(quantile(share, "murmuration_saga_seconds", only='{end="COMPLETED"}'), name)
                    for share, name in ((0.5, "half"), (0.9, "9 of 10"), (0.99, "99 of 100"))
                ),
                "s",
            ),
            Panel(
                "In flight, by state",
                (Line("max by (state) (murmuration_sagas_open)", "{{state}}"),),
                stacked=True,
            ),
        ),
    ),
    Row(
        "Where do they wait?",
        (
            Panel(
                "Waiting, by service and what it received",
                (Line("topk(8, max by (step) (murmuration_saga_waits))", "{{step}}"),),
                stacked=True,
            ),
            Panel(
                "Step time, 19 of 20",
                (Line(quantile(0.95, "murmuration_saga_step_seconds", "step"), "{{step}}"),),
                "s",
            ),
            Panel(
                "Late",
                (
                    Line(
                        f'sum by (fact) (rate({_FACTS}{{fact=~"saga.(redriven|timed_out|overdue)"}}{RATE}))',
                        "{{fact}}",
                    ),
                    Line(
                        f"sum by (step) (rate(murmuration_saga_step_lateness_seconds_count{RATE}))",
                        "{{step}} late",
                    ),
                ),
                "ops",
            ),
        ),
    ),
    Row(
        "What is failing?",
        (
            Panel(
                "Calls to the outside, by outcome",
                (
                    Line(
                        f"sum by (call, outcome) (rate(murmuration_call_attempt_seconds_count{RATE}))",
                        "{{call}} {{outcome}}",
                    ),
                ),
                "ops",
            ),
            Panel(
                "Retried and given up, by reason",
                (
                    Line(
                        f"sum by (job, reason) (rate(murmuration_retries_total{RATE}))", "{{job}} {{reason}}"
                    ),
                    Line(
                        f"sum by (job, reason) (rate(murmuration_dead_letters_total{RATE}))",
                        "{{job}} {{reason}}, dead",
                    ),
                ),
                "ops",
            ),
            Panel(
                "Failing requests by route",
                (
                    Line(
                        f'sum by (job, route, status) (rate({_REQUESTS}{{status=~"[45]xx"}}{RATE}))',
                        "{{job}} {{route}} {{status}}",
                    ),
                ),
                "ops",
            ),
            Panel(
                "Away: circuits open, connections lost, messages refused",
                (
                    Line("max by (job, party) (murmuration_circuit_open)", "{{job}}: {{party}}"),
                    Line("1 - min by (job, to) (murmuration_connected)", "{{job}}: {{to}}"),
                    Line("1 - min by (job) (up)", "{{job}}"),
                    Line("max by (job) (murmuration_outbox_refused)", "{{job}}: messages refused"),
                ),
            ),
        ),
    ),
    Row(
        "How do the processes do?",
        (
            Panel(
                "Age of what waits",
                (
                    Line("max by (job) (murmuration_outbox_oldest_seconds)", "{{job}} outbox"),
                    Line("max by (job) (murmuration_call_oldest_seconds)", "{{job}} call"),
                    Line("min(murmuration_stream_lag_seconds)", "tracker's view"),
                ),
                "s",
            ),
            Panel(
                "In one transaction",
                (
                    Line(
                        f"sum by (job) (rate(murmuration_batch_size_sum{RATE}))"
                        f" / sum by (job) (rate(murmuration_batch_size_count{RATE}))",
                        "{{job}}",
                    ),
                ),
            ),
            Panel(
                "Transaction, confirm, request: 19 of 20",
                (
                    Line(
                        quantile(0.95, "murmuration_batch_transaction_seconds", "job"), "{{job}} transaction"
                    ),
                    Line(quantile(0.95, "murmuration_publish_confirm_seconds", "job"), "{{job}} confirm"),
                    Line(quantile(0.95, "murmuration_http_request_seconds", "job"), "{{job}} request"),
                ),
                "s",
            ),
            Panel(
                "Delivered again",
                (
                    Line(
                        f"sum by (job) (rate(murmuration_inbox_duplicates_total{RATE}))", "{{job}} duplicates"
                    ),
                    Line(f"sum by (job) (rate(murmuration_redeliveries_total{RATE}))", "{{job}} redelivered"),
                ),
                "ops",
            ),
            Panel(
                "Processor and event loop",
                (
                    Line(f"sum by (job) (rate(process_cpu_seconds_total{RATE}))", "{{job}} processors"),
                    Line(
                        quantile(0.99, "murmuration_event_loop_lag_seconds", "job"), "{{job}} loop late by, s"
                    ),
                ),
            ),
        ),
    ),
)


def panels() -> Iterator[Panel]:
    """All of them, from the top."""
    for row in ROWS:
        yield from row.panels


def dashboard() -> dict[str, Any]:
    """What Grafana takes."""
    drawn: list[dict[str, Any]] = []
    top = 0
    for row in ROWS:
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        drawn.append(
            {"id": len(drawn) + 1, "type": "row", "title": row.question, "gridPos": place, "panels": []}
        )
        width = COLUMNS // len(row.panels)
        height = STAT_HEIGHT if row.panels[0].kind == "stat" else GRAPH_HEIGHT
        for index, panel in enumerate(row.panels):
            place = {"x": index * width, "y": top + 1, "w": width, "h": height}
            drawn.append({"id": len(drawn) + 1, "gridPos": place, **_drawn(panel)})
        top += 1 + height
    return {
        "uid": "murmuration",
        "title": "Murmuration",
        "schemaVersion": 41,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "panels": drawn,
    }


def _drawn(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    options: dict[str, Any] = {}
    if panel.kind == "stat":
        steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
        if panel.bad_from is not None:
            steps.append({"color": "red", "value": panel.bad_from})
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
        options["reduceOptions"] = {"calcs": ["lastNotNull"]}
    elif panel.stacked:
        defaults["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 30}
    return {
        "type": panel.kind,
        "title": panel.title,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + index), "expr": line.query, "legendFormat": line.legend}
            for index, line in enumerate(panel.lines)
        ],
    }


def text() -> str:
    """The file: a line for each panel, so that a change shows as one."""
    whole = dashboard()
    lines = ",\n  ".join(json.dumps(panel) for panel in whole.pop("panels"))
    return f'{json.dumps(whole)[:-1]}, "panels": [\n  {lines}\n]}}\n'


if __name__ == "__main__":
    FILE.write_text(text())
