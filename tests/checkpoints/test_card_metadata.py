"""The front matter of cards: what the hub's own library reads of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from regmean_lab.checkpoints.card_metadata import front_matter, pipeline_tag, with_tag, write_scores
from regmean_lab.models.headers import CheckpointError
from regmean_lab.results import Result

TAG = "regmean-statistics"


def result(metrics: dict[str, dict[str, float]], key: str) -> Result:
    configuration: dict[str, Any] = {"suite": {"name": "x", "key_scores": [key] * len(metrics)}}
    scores = {"in_domain": {name: values[key] for name, values in metrics.items()}, "out_of_domain": {}}
    plain: dict[str, Any] = dict.fromkeys(
        ("fingerprint", "experiment", "suite", "model", "method", "data_fingerprint"), "x"
    )
    return Result(
        **plain,
        members=list(metrics),
        seed=0,
        head_init="same",
        scores=scores,
        mean_in_domain=0.0,
        mean_out_of_domain=None,
        metrics=metrics,
        seconds={},
        peak_memory_bytes=0,
        environment={},
        zoo={},
        configuration=configuration,
    )


def test_the_front_matter_is_what_the_hub_reads() -> None:
    text = front_matter(
        library="transformers",
        tags=["merge", "x"],
        base_models=["a/one", "b/two"],
        relation="merge",
        pipeline="text-classification",
    )
    assert text.startswith("---\n") and text.endswith("\n---\n")
    data = ModelCard(f"{text}\n# Merged\n").data.to_dict()
    assert data == {
        "base_model": ["a/one", "b/two"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["merge", "x"],
    }
    without = ModelCard(front_matter(library="peft", tags=["lora"], relation="adapter")).data.to_dict()
    assert without == {"library_name": "peft", "tags": ["lora"]}


def test_the_tasks_of_classes() -> None:
    tasks = {
        "BertForSequenceClassification": "text-classification",
        "RobertaForTokenClassification": "token-classification",
        "BertForQuestionAnswering": "question-answering",
        "BertForMultipleChoice": "multiple-choice",
        "BertForMaskedLM": "fill-mask",
        "LlamaForCausalLM": "text-generation",
        "GPT2LMHeadModel": "text-generation",
        "T5EncoderModel": "feature-extraction",
        "BertModel": "feature-extraction",
        "T5ForConditionalGeneration": None,
        "BartForConditionalGeneration": None,
        "BertForNextSentencePrediction": None,
    }
    assert all(hasattr(transformers, name) for name in tasks)
    assert {name: pipeline_tag(name) for name in tasks} == tasks


def test_scores_are_those_that_were_measured(tmp_path: Path) -> None:
    before = (
        front_matter(library="transformers", tags=["merge"], pipeline="text-classification") + "\n# Merged\n\nText.\n"
    )
    (tmp_path / "README.md").write_text(before)
    metrics = {
        "reviews": {"macro_f1": 81.25, "accuracy": 84.0, "matthews": -3.0},
        "tweets": {"macro_f1": 50.0, "accuracy": 51.123456789, "matthews": 1.0},
    }
    told = {"tweets": {"type": "owner/tweets", "config": "en", "split": "test", "revision": "abc"}}
    assert write_scores(tmp_path, result(metrics, "accuracy"), told) == tmp_path / "README.md"
    card = ModelCard.load(tmp_path / "README.md")
    assert card.text == "\n# Merged\n\nText.\n"
    name, read = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == tmp_path.name
    own = {"task_type": "text-classification"}
    reviews = {**own, "dataset_type": "reviews", "dataset_name": "reviews"}
    tweets = {
        **own,
        "dataset_type": "owner/tweets",
        "dataset_name": "tweets",
        "dataset_config": "en",
        "dataset_split": "test",
        "dataset_revision": "abc",
    }
    assert read == [
        EvalResult(**reviews, metric_type="accuracy", metric_name="accuracy", metric_value=0.84),
        EvalResult(**reviews, metric_type="f1", metric_name="macro_f1", metric_value=0.8125),
        EvalResult(**reviews, metric_type="matthews_correlation", metric_name="matthews", metric_value=-0.03),
        EvalResult(**tweets, metric_type="accuracy", metric_name="accuracy", metric_value=0.511235),
        EvalResult(**tweets, metric_type="f1", metric_name="macro_f1", metric_value=0.5),
        EvalResult(**tweets, metric_type="matthews_correlation", metric_name="matthews", metric_value=0.01),
    ]
    again = ModelCardData(**card.data.to_dict())
    assert again.to_yaml() == card.data.to_yaml()  # the library's own round trip
    # Other scores of one corpus replace its own, and leave the others.
    write_scores(tmp_path, result({"reviews": {"mean_squared_error": 2.5}}, "mean_squared_error"))
    _, read = model_index_to_eval_results(ModelCard.load(tmp_path / "README.md").data.to_dict()["model-index"])
    assert [(one.dataset_name, one.metric_type, one.metric_value) for one in read] == [
        ("tweets", "accuracy", 0.511235),
        ("tweets", "f1", 0.5),
        ("tweets", "matthews_correlation", 0.01),
        ("reviews", "mse", 2.5),
    ]


def test_cards_that_are_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    measured = result({"x": {"accuracy": 50.0}}, "accuracy")
    assert write_scores(tmp_path, measured) is None
    (tmp_path / "README.md").write_text("---\ntags: [x\n---\n# Mine\n")
    with pytest.raises(CheckpointError, match=r"README\.md: its front matter cannot be read"):
        write_scores(tmp_path, measured)
    assert (tmp_path / "README.md").read_text() == "---\ntags: [x\n---\n# Mine\n"
    (tmp_path / "README.md").write_text("# Mine\n")
    write_scores(tmp_path, measured)
    assert ModelCard.load(tmp_path / "README.md").data.to_dict()["model-index"][0]["results"][0]["metrics"] == [
        {"type": "accuracy", "value": 0.5, "name": "accuracy"}
    ]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"---\ntags:\n- {TAG}\n---\n"),
        ("# Mine\n", f"---\ntags:\n- {TAG}\n---\n\n# Mine\n"),
        ("---\nlicense: mit\n---\n# Mine\n", f"---\nlicense: mit\ntags:\n- {TAG}\n---\n# Mine\n"),
        ("---\ntags:\n- a\n# why\n- b\nx: 1\n---\n", f"---\ntags:\n- {TAG}\n- a\n# why\n- b\nx: 1\n---\n"),
        ("---\ntags:\n  - a\n---\n", f"---\ntags:\n  - {TAG}\n  - a\n---\n"),
        ("---\ntags: [a, b]\nx: 1\n---\n", f"---\ntags: [a, b, {TAG}]\nx: 1\n---\n"),
        ("---\ntags: a\n---\n", f"---\ntags: [a, {TAG}]\n---\n"),
        ("---\ntags: []\n---\n", f"---\ntags: [{TAG}]\n---\n"),
        (f"---\ntags: [{TAG}]\n---\n", f"---\ntags: [{TAG}]\n---\n"),
        ("\ufeff---\nlicense: mit\n---\n", f"\ufeff---\nlicense: mit\ntags:\n- {TAG}\n---\n"),
        ("---\nno end\n", f"---\ntags:\n- {TAG}\n---\n\n---\nno end\n"),
    ],
)
def test_a_tag_is_added_and_all_else_stays(before: str, after: str) -> None:
    assert with_tag(before, TAG) == after
    assert with_tag(after, TAG) == after
    matter = yaml.safe_load(after.lstrip("\ufeff").split("---\n")[1])
    assert TAG in matter["tags"]


@pytest.mark.parametrize(
    "card",
    [
        "---\ntags: [a\n---\n",
        "---\n- list\n---\n",
        "---\ntags: [a,\n  b]\n---\n",  # over two lines
        '---\n"tags": [a]\n---\n',
    ],
)
def test_a_front_matter_that_cannot_be_changed_safely_is_refused(card: str) -> None:
    with pytest.raises(ValueError, match="front matter"):
        with_tag(card, TAG)
