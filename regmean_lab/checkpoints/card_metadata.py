"""The front matter of model cards: what the Hugging Face hub reads, for its tree of models, its search and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from regmean_lab.models.headers import CheckpointError
from regmean_lab.results import Result
from regmean_lab.utils.files import CARD_FILE, write_bytes

TAGS = ("merge", "model-merging", "regmean_lab")
"""Tags of merged models; ``merge`` is the hub's own."""

STATISTICS_TAG = "regmean-statistics"
"""The tag of models with published statistics, by which they are found."""

_PIPELINES = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForMultipleChoice": "multiple-choice",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "EncoderModel": "feature-extraction",
    "Model": "feature-extraction",
}
"""By the ending of a class's name, the hub's name of its task; more exact endings first."""

WRITES_TEXT = "text-generation"
"""The task of scores of models whose class has none on the hub: encoder-decoders."""

_METRICS = {
    "accuracy": "accuracy",
    "token_accuracy": "accuracy",
    "macro_f1": "f1",
    "binary_f1": "f1",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "mean_squared_error": "mse",
    "entity_f1": "seqeval",
    "exact_match": "exact_match",
    "perplexity": "perplexity",
    "rouge": "rouge",
}
"""By the beginning of our name of a metric, its name on https://hf.co/metrics; others keep theirs."""

AS_THEY_ARE = ("mean_squared_error", "perplexity")
"""Metrics that results do not hold times 100."""


def pipeline_tag(class_name: str) -> str | None:
    """The hub's name of what models of a class of transformers do; None for those that it has none for."""
    if class_name.endswith("ForConditionalGeneration"):
        return None
    return next((task for ending, task in _PIPELINES.items() if class_name.endswith(ending)), None)


def front_matter(
    *,
    library: str,
    tags: Sequence[str],
    base_models: Sequence[str] = (),
    relation: str | None = None,
    pipeline: str | None = None,
) -> str:
    """The front matter of a new card, with the lines around it.

    Args:
        library: what loads the model.
        tags: what it is found by.
        base_models: the models of the hub that it was made of.
        relation: what it is of them: ``merge`` or ``adapter``; not told where there are none.
        pipeline: see :func:`pipeline_tag`.
    """
    data = ModelCardData(
        library_name=library,
        base_model=list(base_models) or None,
        pipeline_tag=pipeline,
        tags=list(tags),
    )
    if base_models and relation:
        data["base_model_relation"] = relation
    return f"---\n{data.to_yaml()}\n---\n"


def evaluation_results(
    result: Result, pipeline: str | None, datasets: Mapping[str, Mapping[str, str]] | None = None
) -> list[EvalResult]:
    """What was measured of a model, as the hub's ``model-index`` has it: the score that is reported first.

    Args:
        result: what was measured.
        pipeline: the model's task on the hub.
        datasets: by corpus, what is known of it as a data set of the hub: ``type`` (its name), ``config``, ``split``
            and ``revision``; the others are called by their own names.
    """
    found = []
    reported = dict(zip(result.members, result.configuration["suite"]["key_scores"], strict=True))
    for corpus, metrics in result.metrics.items():
        own = dict((datasets or {}).get(corpus, {}))
        for name in sorted(metrics, key=lambda name: name != reported.get(corpus)):
            value = metrics[name]
            if not isinstance(value, int | float):
                continue
            found.append(
                EvalResult(
                    task_type=pipeline or WRITES_TEXT,
                    dataset_type=own.get("type", corpus),
                    dataset_name=corpus,
                    dataset_config=own.get("config"),
                    dataset_split=own.get("split"),
                    dataset_revision=own.get("revision"),
                    metric_type=_metric_type(name),
                    metric_name=name,
                    metric_value=round(value if name in AS_THEY_ARE else value / 100, 6),
                )
            )
    return found


def write_scores(folder: Path, result: Result, datasets: Mapping[str, Mapping[str, str]] | None = None) -> Path | None:
    """Write the scores of a model into the front matter of its card, in place of those of the same corpora.

    All other text stays; the front matter itself is written anew, with the same content.

    Args:
        folder: the model's folder.
        result: what was measured.
        datasets: see :func:`evaluation_results`.

    Returns:
        The card, or None where there is none.

    Raises:
        CheckpointError: for a card whose front matter cannot be read.
    """
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    try:
        card = ModelCard(path.read_bytes().decode("utf-8"))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise CheckpointError([f"{path}: its front matter cannot be read ({str(error).splitlines()[0]})"]) from None
    data: Any = card.data
    new = evaluation_results(result, data.pipeline_tag, datasets)
    there = {(one.unique_identifier, one.dataset_name) for one in new}
    kept = [one for one in data.eval_results or [] if (one.unique_identifier, one.dataset_name) not in there]
    data.model_name = data.model_name or folder.resolve().name
    data.eval_results = [*kept, *new]
    return write_bytes(path, str(card).encode("utf-8"))


def split_card(card: str) -> tuple[str | None, str]:
    """The front matter of a card without the lines around it (None where it has none), and the rest from there on."""
    text = card.removeprefix("\ufeff")
    end = text.find("\n---", 3) if text.startswith("---\n") else -1
    return (None, text) if end < 0 else (text[4 : end + 1], text[end + 1 :])


def card_licence(card: str) -> str | None:
    """The licence that a card's front matter names; None where it names none or cannot be read."""
    matter, _ = split_card(card.replace("\r\n", "\n"))
    try:
        named = None if matter is None else _mapping(matter).get("license")
    except ValueError:
        return None
    return None if named is None else str(named)


def with_tag(card: str, tag: str) -> str:
    """A card with one more tag in its front matter; all else stays as it is, and one that has it altogether.

    Args:
        card: the card's text; may have no front matter.
        tag: the tag.

    Raises:
        ValueError: for a front matter that cannot be read, or where a line cannot be added safely.
    """
    marked = card.startswith("\ufeff")
    matter, rest = split_card(card)
    if matter is None:
        return ("\ufeff" if marked else "") + f"---\ntags:\n- {tag}\n---\n" + (f"\n{rest}" if rest else "")
    before = _mapping(matter)
    tags = before.get("tags")
    listed = [tags] if isinstance(tags, str) else list(tags or [])
    if tag in listed:
        return card
    lines = matter.splitlines(keepends=True)
    place = next((number for number, line in enumerate(lines) if line.startswith("tags:")), None)
    if place is None:
        lines.append(f"tags:\n- {tag}\n")
    elif lines[place].strip() == "tags:":
        item = next((line for line in lines[place + 1 :] if line.lstrip().startswith("- ")), "- ")
        lines.insert(place + 1, f"{item[: len(item) - len(item.lstrip())]}- {tag}\n")
    else:
        written = ", ".join(yaml.safe_dump(one).splitlines()[0] for one in (*map(str, listed), tag))
        lines[place] = f"tags: [{written}]\n"
    changed = "".join(lines)
    after = _mapping(changed)
    now = after.pop("tags", None)
    before.pop("tags", None)
    if after != before or not isinstance(now, list) or sorted(map(str, now)) != sorted([*map(str, listed), tag]):
        raise ValueError(f"the tag {tag} cannot be added to its front matter; write it there, below tags:")
    return f"{chr(0xFEFF) if marked else ''}---\n{changed}{rest}"


def _mapping(matter: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(matter) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"its front matter cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise ValueError("its front matter cannot be read: expected keys with values")
    return dict(content)


def _metric_type(name: str) -> str:
    return next((known for own, known in _METRICS.items() if name.startswith(own)), name)
