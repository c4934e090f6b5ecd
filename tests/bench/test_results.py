"""Medians, the page and what is printed, from made-up rounds; and the register of scenarios."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from compose.local.commands import RigError
from tests.bench.compare import Side, in_turns
from tests.bench.machine import describe_machine
from tests.bench.report import page_of, write_reports
from tests.bench.results import FIGURES, Result, Round, Run, Second, Target, medians, percentile
from tests.bench.runner import about_seconds, chosen_scenarios, environment_for
from tests.bench.scenarios import SCENARIOS
from tests.bench.scenarios.memory import growth
from tests.bench.stage import Choices
from tests.bench.telling import LINES, tell_result, tell_targets
from tests.planted import ESCAPED, SCRIPT, planted


def made_up_round(rate: float, not_ended: int = 0) -> Round:
    return Round(
        figures={"ended_per_second": rate, "end_to_end_p99_ms": 40.0},
        accepted=10,
        not_ended=not_ended,
        cpu_ms={"order": 1.25, "load": 0.2},
        peak_megabytes={"order": rate},
        seconds=[Second(3, 1, 2), Second(0, 2, 0)],
        latency_ms_by_percentile={"50": 20.0, "99": 40.0, "100": 41.0},
        memory_megabytes={"order": [(0.0, 50.0), (10.0, 51.0)]},
    )


def made_up_run(*results: Result) -> Run:
    return Run("abc1234", describe_machine(), "2026-11-21T12:00:00+00:00", list(results))


def test_medians_are_of_the_rounds_that_have_a_figure() -> None:
    assert medians([{"a": 1, "b": 5}, {"a": 3}, {"a": 100}]) == {"a": 3, "b": 5}


def test_percentiles() -> None:
    values = list(range(100, 0, -1))
    assert [percentile(values, percent) for percent in (0, 50, 99, 100)] == [1, 51, 100, 100]


def test_an_order_that_did_not_end_fails_the_run() -> None:
    good, bad = Result("peak", "t", [made_up_round(3.0)]), Result("burst", "t", [made_up_round(9.0, 2)])
    assert made_up_run(good).passed
    assert not made_up_run(good, bad).passed
    assert bad.all_problems == ["2 accepted orders did not end"]


def test_a_target_is_met_or_missed_and_no_failure_either_way(capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = Target("ended_per_second", at_least=4), Target("ended_per_second", at_least=5)
    both = Target("sold", at_least=10, at_most=10)
    result = Result("peak", "t", [made_up_round(4.0)], targets=[fast, slow, both])
    assert [verdict.met for verdict in result.verdicts] == [True, False, False]
    assert made_up_run(result).passed
    assert [target["met"] for target in result.as_json()["targets"]] == [True, False, False]
    tell_targets(made_up_run(result))
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == [
        "",
        "1 of 3 targets met",
        "peak sagas ended at least 4.0 /s 4.0 /s met",
        "peak sagas ended at least 5.0 /s 4.0 /s MISSED",
        "peak sold at least 10 units and at most 10 units not measured MISSED",
    ]


def test_the_page_begins_with_what_the_terminal_ends_with() -> None:
    result = Result("peak", "t", [made_up_round(4.0)], targets=[Target("ended_per_second", at_least=5)])
    page = page_of(made_up_run(result))
    first, rest = page.split("<h2", maxsplit=1)
    assert "0 of 1 targets met" in first
    assert '<td class="FAIL">MISSED</td>' in first
    assert ">pass<" not in rest


def test_every_target_is_about_a_figure() -> None:
    assert {target.figure for scenario in SCENARIOS for target in scenario.targets} <= FIGURES.keys()


def test_reports_are_json_and_a_page_whose_plots_are_well_formed(tmp_path: Path) -> None:
    result = Result("peak", "200 <a> minute", [made_up_round(3.0), made_up_round(5.0), made_up_round(4.0)])
    data, page = write_reports(made_up_run(result), tmp_path)
    scenario = json.loads(data.read_text())["scenarios"][0]
    assert scenario["medians"]["figures"]["ended_per_second"] == 4.0
    assert scenario["medians"]["peak_megabytes"] == {"order": 5.0}
    text = page.read_text()
    plots = [part.split("</svg>")[0] for part in text.split("<svg")[1:]]
    assert len(plots) == 3 + 1 + 3 + 1
    for plot in plots:
        ElementTree.fromstring(f"<svg{plot}</svg>")
    assert "200 &lt;a&gt; minute" in text
    assert "4.0 /s" in text


def test_the_page_escapes_every_string() -> None:
    result: Result = planted(Result)
    result.targets, result.rounds = [], [made_up_round(3.0)]
    result.rounds[0].notes, result.rounds[0].problems = [SCRIPT], [SCRIPT]
    result.rounds[0].cpu_ms = result.rounds[0].peak_megabytes = {SCRIPT: 1.0}
    result.rounds[0].memory_megabytes = {SCRIPT: [(0.0, 1.0)]}
    result.added = {}
    page = page_of(Run(SCRIPT, SCRIPT, SCRIPT, [result]))
    assert "<script" not in page
    assert SCRIPT not in page
    # The run; its row; the section's title; problems and a note; parts in both plots and the table; counters.
    assert page.count(ESCAPED) >= 3 + 3 + 3 + 3 + 3 + 2


def test_a_page_can_be_made_of_a_run_that_broke_off() -> None:
    assert "FAIL" in page_of(made_up_run(Result("peak", "t", problems=["broke off"])))
    assert "peak" in page_of(made_up_run(Result("peak", "t", [Round()])))


def test_every_figure_is_printed_somewhere(capsys: pytest.CaptureFixture[str]) -> None:
    printed = [name for names in LINES.values() for name in names]
    assert sorted(printed) == sorted(FIGURES)
    tell_result(Result("peak", "t", [Round(figures=dict.fromkeys(FIGURES, 7.0))]))
    output = capsys.readouterr().out
    assert not [figure.label for figure in FIGURES.values() if figure.label not in output]


def test_scenarios_have_names_of_their_own_and_are_chosen_by_them() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(names) == len(set(names))
    assert [scenario.name for scenario in chosen_scenarios(["sustained", "peak"])] == ["peak", "sustained"]
    assert chosen_scenarios([]) == [each for each in SCENARIOS if each.name != "memory-hour"]
    assert [scenario.name for scenario in chosen_scenarios(["memory-hour"])] == ["memory-hour"]
    with pytest.raises(RigError, match="there is no scenario pike"):
        chosen_scenarios(["pike"])


def test_how_long_it_takes_grows_with_the_rounds() -> None:
    peak = chosen_scenarios(["peak"])
    assert about_seconds(peak, Choices(3)) > about_seconds(peak, Choices(1)) > 45


def test_processes_get_the_settings_of_a_scenario_and_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MURMURATION_BATCH_SIZE", "1")
    (burst,) = chosen_scenarios(["burst"])
    settings = {
        name: value for name, value in environment_for(burst).items() if name.startswith("MURMURATION_")
    }
    assert settings == burst.settings


def test_memory_that_rises_and_falls_is_flat_and_memory_that_rises_is_not() -> None:
    flat = [(at * 10.0, 100.0 + 20 * (at % 2)) for at in range(60)]
    # By minutes: low in the first one that counts, high in the last.
    wavy = [(at * 10.0, 100.0 + 30 * (at % 24 < 12)) for at in range(60)]
    leaking = [(at * 10.0, 100.0 + at) for at in range(60)]
    assert abs(growth(flat)[0]) < 1
    assert growth(wavy)[0] < 10
    percent, megabytes = growth(leaking)
    assert megabytes == pytest.approx(42, abs=2)
    assert percent > 10


def test_two_commits_take_turns(tmp_path: Path) -> None:
    a, b = (Side(name, name * 10, tmp_path, tmp_path) for name in "AB")
    assert "".join(side.name for side in in_turns([a, b], 3)) == "ABBAAB"
