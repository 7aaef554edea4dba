from __future__ import annotations

import random
from dataclasses import replace

import pytest
from report_results import cell_of, gram_examples, make_result, off_diagonal, pairwise, runs_of, section_of

from regmean_lab.report.entries import Entry, entries_of, setting_text
from regmean_lab.report.grid import natural_key, sections_of
from regmean_lab.report.tables import overview
from regmean_lab.results import Result


def test_each_experiment_is_a_section() -> None:
    results = [make_result(experiment=name, members=(name, "tec")) for name in ("b", "a", "b")]

    assert [section.name for section in sections_of(entries_of(runs_of(results)))] == ["a", "b"]


def test_methods_of_several_experiments_stand_in_one_table_for_the_members_that_these_have_in_common() -> None:
    results = pairwise(("simple", "regmean"), (1, 2))
    results += [
        make_result(method, ("tec", "isear"), seed, experiment="methods") for method in ("ties",) for seed in (1, 2)
    ]
    results += [make_result("ties", ("tec", "crowdflower", "isear"), 1, experiment="methods")]  # only one has these
    results += [make_result("ties", model="t5", experiment="methods")]  # and only one this model

    across, *own = sections_of(entries_of(runs_of(results)))

    assert across.name == "emotion, roberta_base: across experiments"
    assert (across.across, [section.across for section in own]) == (True, [False, False])
    assert [column.title for column in across.columns] == ["emotion, roberta_base, tec + isear"]
    table = overview(across, "t")
    assert [label for label, _ in table.rows] == ["simple", "regmean", "ties"]
    assert [heading.full for heading in table.headings] == ["in domain", "out of domain"]
    for method in ("simple", "regmean", "ties"):
        scores = [r.mean_in_domain for r in results if r.method == method and r.members == ["tec", "isear"]]
        scores = scores[:2]  # the last is of another model
        cell = cell_of(table, method, "in domain")
        assert cell.mean == pytest.approx(sum(scores) / 2)
        assert cell.state == "complete"


def test_sets_of_members_that_other_experiments_have_in_common_are_other_columns() -> None:
    results = pairwise(("simple",), (1,))
    results += [make_result("ties", members, experiment="b") for members in (("tec", "isear"), ("tec", "crowdflower"))]
    results += [make_result("fisher", members, experiment="c") for members in (("isear", "dailydialog"),)]

    across, *_ = sections_of(entries_of(runs_of(results)))

    rows = {column.label: {row.label: len(row.entries) for row in column.rows} for column in across.columns}
    assert rows == {
        "members=2 sets of b/emotion_pairwise": {"simple": 2, "ties": 2},
        "members=isear + dailydialog": {"simple": 1, "fisher": 1},
    }


def test_a_result_that_two_experiments_have_counts_once_across_them() -> None:
    results = [make_result("simple", experiment=name, shift=shift) for name, shift in (("a", 0.0), ("b", 5.0))]

    across, *_ = sections_of(entries_of(runs_of(results, [2.0, 1.0])))

    assert cell_of(overview(across, "t"), "simple", "in domain").mean == pytest.approx(results[0].mean_in_domain)
    assert across.notices[0].startswith(f"{across.name}: /r/001/result.json is left out: /r/000/result.json is newer")


def test_members_and_seeds_share_a_cell_and_models_and_head_inits_do_not() -> None:
    results = pairwise(("simple",), (1, 2)) + pairwise(("simple",), (1, 2), head_init="different")
    results += pairwise(("simple",), (1, 2), model="t5")

    section = section_of(results)

    assert [column.label for column in section.columns] == [
        "roberta_base, head init same",
        "roberta_base, head init different",
        "t5",
    ]
    assert [len(column.rows[0].entries) for column in section.columns] == [12, 12, 12]
    assert section.row_labels == ["simple"]


def test_rows_come_comparators_first_whatever_the_order_of_the_results() -> None:
    results = pairwise(("regmean", "optimal_transport", "simple", "individual"), (1,))
    random.Random(0).shuffle(results)

    assert section_of(results).row_labels == ["individual", "simple", "regmean", "optimal_transport"]


def test_rows_of_one_method_are_told_apart_by_their_settings_in_order_of_value() -> None:
    results = off_diagonal((1.0, 0.5, 10.0, 0.0))

    assert section_of(results).row_labels == [
        "simple",
        "regmean off_diagonal=0",
        "regmean off_diagonal=0.5",
        "regmean off_diagonal=1",
        "regmean off_diagonal=10",
    ]


def test_settings_of_statistics_that_a_method_does_not_use_make_no_rows() -> None:
    section = section_of(gram_examples((1, 16), seeds=(1,)))

    assert section.row_labels == ["simple", "regmean gram.examples=1", "regmean gram.examples=16"]
    assert section.notices == []


def test_published_statistics_are_other_ones_and_results_without_the_setting_took_them() -> None:
    results = [
        make_result("regmean", configuration={"statistics": {"gram": {"examples": 16}, "seed": 0, **more}}, shift=shift)
        for more, shift in (({}, 0.0), ({"published": True}, 0.0), ({"published": False}, 1.0))
    ]
    section = section_of(results)
    assert section.row_labels == ["regmean published=false", "regmean published=true"]
    assert section.notices == []
    assert section_of(results[:2]).row_labels == ["regmean"]


def test_copies_of_one_measurement_are_told_from_seeds() -> None:
    """The members are checkpoints, or their seeds are the same modulo five: nothing differs but the job's seed."""
    first = replace(make_result(seed=1), zoo={"tec": "x", "isear": "y"})
    again = replace(make_result(seed=6), zoo=first.zoo, scores=first.scores)
    (notice,) = section_of([first, again]).notices
    assert "simple of tec + isear with the seeds 1, 6 is one measurement" in notice
    other = replace(again, zoo={"tec": "x", "isear": "z"})
    drawn = replace(again, scores=make_result(seed=6).scores)  # a method that draws at random
    assert section_of([first, other]).notices == section_of([first, drawn]).notices == []


def test_a_method_that_is_not_known_may_use_any_statistics() -> None:
    results = [
        make_result("other", configuration={"statistics": {"gram": {"examples": examples}}}) for examples in (1, 2)
    ]

    assert section_of(results).row_labels == ["other gram.examples=1", "other gram.examples=2"]


def test_settings_that_only_follow_the_seed_make_no_columns() -> None:
    def result(seed: int, partition_seed: int) -> Result:
        suite = {"name": "emotion", "partition_seed": partition_seed, "sample_seed": 1}
        return make_result(seed=seed, configuration={"suite": suite})

    assert len(section_of([result(seed, seed) for seed in (1, 2, 3)]).columns) == 1
    assert len(section_of([result(seed, 7 + seed) for seed in (1, 2, 3)]).columns) == 3


def test_training_tells_columns_apart_only_within_suite_and_model() -> None:
    other = {"training": {"learning_rate": 1e-4, "epochs": 20}}
    results = [make_result(), make_result(model="t5", configuration=other)]

    assert [column.label for column in section_of(results).columns] == ["roberta_base", "t5"]

    labels = [column.label for column in section_of([*results, make_result(configuration=other)]).columns]
    assert labels == ["roberta_base, learning_rate=1e-05", "roberta_base, learning_rate=0.0001", "t5"]


def test_another_number_of_members_is_another_column() -> None:
    results = [make_result(members=("a", "b", "c")), make_result(members=("a", "b")), make_result(members=("b", "c"))]

    section = section_of(results)

    assert [column.label for column in section.columns] == ["2 members", "3 members"]
    assert section.columns[0].member_sets == [("a", "b"), ("b", "c")]


def test_of_repeated_results_the_newest_counts_and_the_others_are_named() -> None:
    old, new = make_result(shift=0.0), make_result(shift=1.0)

    for order in ([old, new], [new, old]):
        times = [1.0 if result is old else 2.0 for result in order]
        section = section_of(order, times)
        ((entry,),) = [list(row.entries.values()) for row in section.columns[0].rows]
        assert entry.run is not None
        assert entry.run.result is new
        (notice,) = section.notices
        assert notice.startswith(f"/r/{order.index(old):03d}/result.json is left out")


def test_many_repeated_results_are_counted() -> None:
    section = section_of([make_result(shift=float(number)) for number in range(6)])

    assert len(section.notices) == 4
    assert section.notices[-1].startswith("2 more results left out")


def test_repeated_results_with_the_same_scores_need_no_notice() -> None:
    assert section_of([make_result(), make_result()]).notices == []


def test_results_of_different_data_are_pointed_out() -> None:
    results = [make_result("simple"), make_result("regmean", data="other data"), make_result("simple", seed=2)]

    (notice,) = section_of(results).notices

    assert "tec + isear, seed 1" in notice
    assert "data changed" in notice


def test_numbers_in_texts_are_ordered_by_value() -> None:
    texts = ["a=none", "a=10", "a=9.5", "a=1e-05", "a=0.1", "b=1"]

    assert sorted(texts, key=natural_key) == ["a=1e-05", "a=0.1", "a=9.5", "a=10", "a=none", "b=1"]


def test_values_are_the_same_text_however_they_were_written() -> None:
    assert [setting_text(value) for value in (1, 1.0, True, None, 1e-5, [0.5, 1], "x", ["svc", {"a": {"b": 0.3}}])] == [
        "1",
        "1",
        "true",
        "none",
        "1e-05",
        "[0.5,1]",
        "x",
        "[svc,{a:{b:0.3}}]",
    ]


def test_a_table_with_a_definition_is_one_section() -> None:
    entries: list[Entry] = entries_of(runs_of([make_result(experiment="a"), make_result(experiment="b", seed=2)]))

    (section,) = sections_of(entries, "table2")

    assert (section.name, section.defined) == ("table2", True)
