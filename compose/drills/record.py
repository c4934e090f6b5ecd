"""The report as JSON, for whoever compares runs."""

import json
from dataclasses import asdict
from typing import Any

from compose.drills.outcome import Outcome, Report


def record_of(report: Report) -> str:
    """The whole report, but for the samples of its plots."""
    record = {
        "headline": report.headline,
        "passed": report.passed,
        "rig": report.rig,
        "seed": report.seed,
        "began_at": report.began_at,
        "seconds": round(report.seconds, 1),
        "drills": [_drill(outcome) for outcome in report.outcomes],
    }
    return json.dumps(record, indent=2) + "\n"


def _drill(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "title": outcome.title,
        "result": outcome.result,
        "skipped_because": outcome.skipped_because,
        "seconds": round(outcome.seconds, 1),
        "accepted": outcome.accepted,
        "ends": dict(outcome.ends),
        "longest_stall_seconds": round(outcome.timeline.longest_stall.seconds, 1),
        "recovery": _recovery(outcome),
        "target": asdict(outcome.target),
        "faults": [asdict(fault) for fault in outcome.timeline.faults],
        "broke_off": outcome.broke_off,
        "failed": {check.sentence: list(check.problems) for check in outcome.checks if check.problems},
    }


def _recovery(outcome: Outcome) -> dict[str, Any] | None:
    if outcome.recovery is None:
        return None
    return {"kept": outcome.recovery.kept, **asdict(outcome.recovery)}
