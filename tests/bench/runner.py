"""Plays scenarios, each on a system made for it and deleted afterwards."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import uvloop

from compose.check import examine
from compose.local.commands import RigError, uninterrupted
from compose.local.rig import LocalRig
from compose.snapshot import Reader, sources_of
from tests.bench.counters import STATEMENTS_LIBRARY, Counters, snapshot
from tests.bench.report import write_reports
from tests.bench.results import Result, Run
from tests.bench.scenarios import SCENARIOS
from tests.bench.scenarios.scenario import Scenario
from tests.bench.stage import Choices, Say, Stage, staged
from tests.bench.telling import announce, tell_result, tell_round

RIG_FOLDER = "bench"
LOCK_FILE = "bench.lock"
UP_SECONDS = 25.0
WARM_SECONDS = 8.0
COUNTING_SECONDS = 23.0
JUDGED_WITHIN_SECONDS = 60.0
EXAMPLES = 5


def chosen_scenarios(only: Sequence[str], *, every: bool = True) -> list[Scenario]:
    """Those of these names; without names all but the longest, or the main ones.

    Raises RigError for a wrong name.
    """
    known = [scenario.name for scenario in SCENARIOS]
    if unknown := sorted(set(only) - set(known)):
        raise RigError(f"there is no scenario {', '.join(unknown)} (there are {', '.join(known)})")
    if only:
        return [scenario for scenario in SCENARIOS if scenario.name in only]
    if every:
        return [scenario for scenario in SCENARIOS if not scenario.only_by_name]
    return [scenario for scenario in SCENARIOS if scenario.main]


def rounds_of(scenario: Scenario, choices: Choices) -> int:
    """How many rounds of a scenario are played."""
    return min(choices.rounds, scenario.rounds or choices.rounds)


def _is_counted(scenario: Scenario, choices: Choices) -> bool:
    return scenario.counted and not choices.quick


def about_seconds(scenarios: Sequence[Scenario], choices: Choices) -> float:
    """How long they will take together, roughly."""
    return sum(
        UP_SECONDS
        + WARM_SECONDS
        + each.about_more_seconds
        + _is_counted(each, choices) * COUNTING_SECONDS
        + rounds_of(each, choices) * each.about_seconds
        for each in scenarios
    )


def play_all(
    scenarios: Sequence[Scenario], choices: Choices, run: Run, state_dir: Path, say: Say
) -> list[Path]:
    """One after the other. As each ends: its figures, and the reports anew, for a run may be broken off."""
    began = time.monotonic()
    files: list[Path] = []
    for number, scenario in enumerate(scenarios, 1):
        left = about_seconds(scenarios[number - 1 :], choices)
        announce(scenario, f"{number}/{len(scenarios)}", rounds_of(scenario, choices), left)
        result = Result(scenario.name, scenario.title, targets=scenario.targets)
        run.results.append(result)
        play_one(scenario, choices, result, state_dir / RIG_FOLDER, say)
        run.seconds = time.monotonic() - began
        tell_result(result)
        files = write_reports(run, state_dir)
    return files


def play_one(scenario: Scenario, choices: Choices, result: Result, folder: Path, say: Say) -> None:
    """All rounds of a scenario. A system on which something went wrong is kept, stopped, to be looked at."""
    rig = LocalRig(
        folder,
        environment=environment_for(scenario),
        preload=[STATEMENTS_LIBRARY] if scenario.statements else [],
    )
    with uninterrupted():
        rig.destroy()
    try:
        rig.up()
        for name in (spec.name for spec in rig.blueprint.with_database):
            for instance in range(2, scenario.instances + 1):
                rig.start(name, instance=instance)
        uvloop.run(play_rounds(rig, scenario, choices, result, say))
    except Exception as error:  # noqa: BLE001 - whatever it was, the other scenarios are worth playing
        result.problems.append(f"it broke off: {error!r}")
    finally:
        with uninterrupted():
            if result.all_problems:
                rig.down()
                say(f"logs and data of that system: {folder}")
            else:
                rig.destroy()


def environment_for(scenario: Scenario) -> Mapping[str, str]:
    """What the processes inherit: none of a running system's settings, and the scenario's own."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MURMURATION_")}
    return {**ours, **scenario.settings}


async def play_rounds(rig: LocalRig, scenario: Scenario, choices: Choices, result: Result, say: Say) -> None:
    """Warm up, play the rounds, and judge."""
    async with staged(
        rig,
        choices,
        say,
        only=scenario.only,
        also=scenario.also,
        lasting=scenario.lasting,
        instances=scenario.instances,
    ) as stage:
        await stage.warm_up()
        await scenario.prepare(stage)
        counted = _is_counted(scenario, choices)
        before = await asyncio.to_thread(snapshot, stage.where) if counted else None
        for number in range(1, rounds_of(scenario, choices) + 1):
            result.rounds.append(found := await scenario.play(stage))
            tell_round(number, found)
        if before is not None:
            count(result, await asyncio.to_thread(snapshot, stage.where) - before)
        if scenario.judged:
            result.problems += await judge(stage)
        await scenario.finish(stage, result)


def count(result: Result, spent: Counters) -> None:
    """What the servers counted over all rounds, for each saga."""
    if ended := sum(found.accepted - found.not_ended for found in result.rounds):
        each = spent.each(ended)
        result.per_saga, result.counts = each.as_json(), each.lines()


async def judge(stage: Stage) -> list[str]:
    """What of the invariants does not hold."""
    async with Reader(sources_of(stage.where)) as reader:
        findings = await examine(reader, JUDGED_WITHIN_SECONDS)
    return [str(violation) for violation in findings.violations[:EXAMPLES]]
