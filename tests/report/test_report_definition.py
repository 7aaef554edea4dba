from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from report_results import cell_of, make_result, runs_of

from regmean_lab.report.definition import Definition, DefinitionError, read_definition
from regmean_lab.report.grid import sections_of
from regmean_lab.report.tables import overview
from regmean_lab.suites import suite_types

EMOTION = suite_types()["emotion"].reference_order
SENTIMENT = suite_types()["sentiment"].reference_order


@pytest.fixture(scope="module")
def pairs() -> Definition:
    """All pairs of emotion members, by two methods with three seeds."""
    return read_definition("emotion_pairwise", ["method=simple,regmean", "seed=range(1,4)"])


def test_jobs_are_the_product_of_all_parameters(pairs: Definition) -> None:
    expected = itertools.product(("simple", "regmean"), ("1", "2", "3"), itertools.combinations(EMOTION, 2))

    found = [(job.settings["method.name"], job.settings["seed"], job.members) for job in pairs.jobs]

    assert sorted(found) == sorted(expected)
    assert {job.experiment for job in pairs.jobs} == {"emotion_pairwise"}
    assert {job.settings["model.name"] for job in pairs.jobs} == {"roberta_base"}


def test_a_job_says_the_command_that_runs_it(pairs: Definition) -> None:
    one, other = EMOTION[:2]
    (job,) = [
        job
        for job in pairs.jobs
        if (job.settings["method.name"], job.settings["seed"]) == ("regmean", "2") and job.members == (one, other)
    ]

    assert job.command == (
        f"python -m regmean_lab experiment=emotion_pairwise method=regmean seed=2 'members=[{one},{other}]'"
    )


def test_a_sweep_of_numbers_of_members() -> None:
    definition = read_definition("sentiment_incremental")

    assert [(job.count, job.members) for job in definition.jobs] == [
        (count, SENTIMENT[:count]) for count in range(2, len(SENTIMENT) + 1)
    ]


def test_members_that_their_scores_choose_are_not_named() -> None:
    definition = read_definition("emotion_incremental", ["order=greedy"])

    assert [job.count for job in definition.jobs] == [2, 3, 4, 5]
    assert definition.jobs[1].members == ("3 of 5, by their scores",)


def test_a_sweep_of_a_setting_and_of_models() -> None:
    definition = read_definition(
        "off_diagonal-mini", ["model=minilm,pico_bert", "method.off_diagonal=0,0.50", "seed=1"]
    )

    assert [(job.settings["model.name"], job.settings["method.off_diagonal"]) for job in definition.jobs] == [
        ("minilm", "0"),
        ("minilm", "0.5"),
        ("pico_bert", "0"),
        ("pico_bert", "0.5"),
    ]


def test_paths_and_loggers_are_not_settings() -> None:
    overrides = ["method=simple", "paths.output_dir=/tmp/x", "logger=none", "trainer.workers=1", "trainer=cpu"]
    (job,) = read_definition("glue_partition", overrides).jobs

    assert set(job.settings) == {
        "suite.name", "model.name", "method.name", "head_init", "order", "first", "members", "seed",
            "evaluate_on", "selection",
    }  # fmt: skip


def test_results_find_their_jobs_whatever_else_is_set(pairs: Definition) -> None:
    one, other, third = EMOTION[:3]
    results = [
        make_result("simple", (one, other), 1),
        make_result("regmean", (one, other), 1, configuration={"trainer": {"precision": "bf16-mixed"}}),
        make_result("simple", (one, other), 9),
        make_result("fisher", (one, other), 1),
        make_result("simple", (one, third), 1, model="t5"),
        make_result("simple", (one, other), 1, experiment="another"),
    ]

    entries, left_out = pairs.entries(runs_of(results))

    assert [entry.run.result for entry in entries if entry.run] == results[:2]
    assert [run.result for run in left_out] == results[2:5]
    assert len(entries) == len(pairs.jobs)


def test_results_of_a_sweep_find_its_jobs() -> None:
    definition = read_definition("table2-mini", ["seed=1", "method=simple", "head_init=same", "members=[tweets,nyt]"])
    (job,) = definition.jobs
    configuration = {"suite": {"out_of_domain": []}}
    same = {"experiment": "table2-mini", "suite": "sentiment", "model": "minilm", "configuration": configuration}
    measured = make_result("simple", ("tweets", "nyt"), 1, **same)
    (run,) = runs_of([measured])

    assert [entry.run for entry in definition.entries([run])[0]] == [run]
    # One that agrees in everything, not only in what the sweep names, is preferred to it.
    exact = runs_of([measured, replace(measured, fingerprint=job.fingerprint)])
    entries, left_out = definition.entries(exact)
    assert [entry.run for entry in entries] == [exact[1]]
    assert left_out == [exact[0]]


def test_a_setting_that_only_another_method_has_is_none_of_a_result() -> None:
    definition = read_definition("glue_tasks-mini", ["seed=1", "members=[tweets,nyt]"])
    configuration = {"suite": {"out_of_domain": []}}
    same = {"experiment": "glue_tasks-mini", "suite": "sentiment", "model": "minilm", "configuration": configuration}
    (run,) = runs_of([make_result("individual", ("tweets", "nyt"), 1, **same)])

    assert [entry.run for entry in definition.entries([run])[0] if entry.run] == [run]


def test_results_that_do_not_record_order_and_number_are_taken_to_have_the_default(pairs: Definition) -> None:
    result = make_result("simple", EMOTION[:2], 1)
    del result.configuration["order"], result.configuration["first"]

    entries, left_out = pairs.entries(runs_of([result]))

    assert [entry.run.result for entry in entries if entry.run] == [result]
    assert left_out == []


def test_missing_jobs_are_missing_in_the_table(pairs: Definition) -> None:
    results = [make_result("simple", pair, 1) for pair in itertools.combinations(EMOTION, 2)]
    entries, _ = pairs.entries(runs_of(results))
    (section,) = sections_of(entries, "emotion_pairwise")
    table = overview(section, "t")

    simple, regmean = (cell_of(table, method, "in domain") for method in ("simple", "regmean"))

    assert (simple.state, simple.runs, simple.expected) == ("incomplete", 10, 30)
    assert (regmean.state, regmean.expected) == ("missing", 30)
    assert all("method=regmean" in absent.command for absent in regmean.absent)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("emotion_pairwis", [], "did you mean emotion_pairwise"),
        ("zzzz", [], "there are: .*emotion_pairwise"),
        ("emotion_pairwise", ["seed=1,2,"], "table=emotion_pairwise"),
        ("emotion_pairwise", ["sed=1"], "sed"),
        ("emotion_pairwise", ["model=unheard_of"], "unheard_of"),
        ("emotion_pairwise", ["model=minilm,unheard_of"], "unheard_of"),
    ],
)
def test_what_cannot_be_expanded_is_said(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        read_definition(name, overrides)
