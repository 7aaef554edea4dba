from dataclasses import asdict
from types import SimpleNamespace

import pytest

from regmean_lab.config.schema import settings_of
from regmean_lab.results import fingerprint
from regmean_lab.statistics.token_settings import TokensConfig
from regmean_lab.suites.base import Task
from regmean_lab.training.descriptions import describe
from regmean_lab.utils import later_settings
from regmean_lab.utils.later_settings import LATER_SETTINGS, without_later_settings
from regmean_lab.zoo import member_address

LATER = ("text", "text_seed", "start")


@pytest.fixture(autouse=True)
def later(monkeypatch):
    monkeypatch.setattr(later_settings, "LATER_SETTINGS", {"method.new": False, "statistics.gram.new": None})


def test_a_new_setting_at_its_first_value_changes_no_fingerprint():
    old = {"method": {"name": "x"}, "statistics": {"gram": {"examples": 1}}}
    new = {"method": {"name": "x", "new": False}, "statistics": {"gram": {"examples": 1, "new": None}}}
    assert fingerprint(old) == fingerprint(new)


def test_another_value_of_a_new_setting_changes_the_fingerprint():
    assert fingerprint({"method": {"name": "x"}}) != fingerprint({"method": {"name": "x", "new": True}})


def test_a_part_is_told_by_its_prefix():
    assert without_later_settings({"new": None, "examples": 1}, "statistics.gram.") == {"examples": 1}
    assert without_later_settings({"new": None, "examples": 1}, "statistics.fisher.") == {"new": None, "examples": 1}


# Job, joint model and member with the defaults, as version 0.1 named them (of a model and data with made-up hashes).
NAMES_OF_0_1 = {
    ("emotion", "roberta_base", "multitask"): ("a7010f6e43761672", "7078e4c9f313e3df", "5c271a1401e0ded3"),
    ("emotion_text", "t5_v1_1_base", "ensemble"): ("1c68d34b7c646739", "6b8a54b5c07d7015", "443b82f8c25b0014"),
    ("ner", "roberta_base", "regmean"): ("8edabfdb7379f22e", "e6d559a143874e0d", "7520841adc214208"),
    ("glue", "distilbert_base", "multitask"): ("903fbffaa73b71dd", "3a8266fb48e3963c", "88f2f918f8ae5f7d"),
    ("glue_partition", "roberta_base", "fisher"): ("8dce48cbc39c62b3", "153b2f219e40690d", "6f2d05f302664c5f"),
    ("sentiment", "minilm", "individual"): ("cec009dc21a4e4b2", "741cb7124ebf721f", "0e873329a2b8aa74"),
}


@pytest.mark.parametrize("choice", NAMES_OF_0_1)
def test_jobs_and_members_of_0_1_are_found_again(choice, compose_job, monkeypatch):
    monkeypatch.setattr(later_settings, "LATER_SETTINGS", LATER_SETTINGS)
    suite, model, method = choice
    settings = settings_of(compose_job(f"suite={suite}", f"model={model}", f"method={method}"))
    monkeypatch.setattr(type(settings.suite), "fingerprint", lambda self, corpus: "data")
    checkpoint = SimpleNamespace(name="x", fingerprint="y", dropout=None, new_head=False)
    found = [fingerprint(settings.resolved)[:16]]
    for corpora in (settings.members[:2], settings.members[:1]):
        found.append(member_address(describe(checkpoint, settings.suite, corpora, settings.config.training, 1)))
    assert tuple(found) == NAMES_OF_0_1[choice]


def test_predictions_of_0_1_are_found_again():
    """They are kept by a task's representation."""
    shown = repr(Task("multi_label", ("a",), "macro_f1", threshold_inclusive=True))
    assert shown == (
        "Task(kind='multi_label', labels=('a',), key_score='macro_f1', threshold=0.5, "
        "threshold_on='probability', answer_by='scoring')"
    )


def test_counts_of_tokens_have_no_part_in_what_does_not_use_them():
    assert LATER_SETTINGS["statistics.tokens"] == asdict(TokensConfig())


@pytest.mark.parametrize("method", ["regmean_sequential", "regmean_plusplus"])
def test_results_of_200_examples_are_found_again_by_asking_for_200(method, compose_job, monkeypatch):
    """The default then; the settings of text came later."""
    monkeypatch.setattr(later_settings, "LATER_SETTINGS", LATER_SETTINGS)
    now = settings_of(compose_job("suite=sentiment", f"method={method}", "method.examples=200")).resolved
    before = {**now, "method": {key: now["method"][key] for key in now["method"] if key not in LATER}}
    before["statistics"] = {key: value for key, value in now["statistics"].items() if key != "tokens"}
    assert before["method"]["examples"] == 200
    assert fingerprint(now) == fingerprint(before)
    other = settings_of(compose_job("suite=sentiment", f"method={method}")).resolved
    assert other["method"]["examples"] is None
    assert fingerprint(other) != fingerprint(now)
