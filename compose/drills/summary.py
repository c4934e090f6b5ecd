"""The report as Markdown: a row a drill, and what was asked of each."""

from collections.abc import Iterator

from compose.drills.outcome import Outcome, Recovery, Report

PROBLEMS = 20
UNKNOWN = "?"


def summary_of(report: Report) -> str:
    """The whole report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield "# Fault drills"
    yield ""
    yield f"**{report.headline}.** On {report.rig}, begun {report.began_at}, {report.seconds:.0f} s,"
    yield f"seed {report.seed} (the same seed draws the same orders and the same moments)."
    yield ""
    yield (
        "| drill | what is broken | result | seconds | orders | ended | longest stall "
        "| kept | manual | refused | all ended after |"
    )
    yield "|---|---|---|---:|---:|---|---:|---:|---:|---:|---:|"
    for outcome in report.outcomes:
        yield _row(outcome)
    for outcome in report.outcomes:
        if not outcome.skipped_because:
            yield from _details(outcome)


def _row(outcome: Outcome) -> str:
    if outcome.skipped_because:
        return f"| {outcome.name} | {outcome.title} | skipped: {outcome.skipped_because} {'| ' * 9}|"
    ends = ", ".join(f"{count} {end}" for end, count in sorted(outcome.ends.items()))
    stall = outcome.timeline.longest_stall.seconds
    cells = (
        outcome.name,
        outcome.title,
        outcome.result,
        f"{outcome.seconds:.0f}",
        str(outcome.accepted),
        ends,
        f"{stall:.1f} s",
        *recovery_cells(outcome.recovery),
    )
    return f"| {' | '.join(cells)} |"


def recovery_cells(found: Recovery | None) -> tuple[str, str, str, str]:
    """Kept, manual, refused, all ended after."""
    if found is None:
        return (UNKNOWN,) * 4
    return found.kept_text, str(found.manual), found.refused_text, found.ended_text


def _details(outcome: Outcome) -> Iterator[str]:
    yield ""
    yield f"## {outcome.name}: {outcome.result}"
    yield ""
    if outcome.target.why:
        yield f"{outcome.target.why}"
        yield ""
    for fault in outcome.timeline.faults:
        healed = "never" if fault.healed_seconds is None else f"{fault.healed_seconds:.1f} s"
        yield f"- {fault.label}: from {fault.began_seconds:.1f} s, healed {healed}"
    yield ""
    for why in outcome.broke_off:
        yield f"- FAIL The drill broke off: {why}"
    for check in outcome.checks:
        yield f"- {'FAIL' if check.problems else 'pass'} {check.sentence}"
        for problem in check.problems[:PROBLEMS]:
            yield f"  - {problem}"
        if len(check.problems) > PROBLEMS:
            yield f"  - and {len(check.problems) - PROBLEMS} more"
    yield ""
    yield "| | in the end |"
    yield "|---|---|"
    for name, state in outcome.services.items():
        yield f"| {name} | {state} |"
