"""What YAML files of the paper's released code choose, as overrides: a table of the words that their names have.

The files are those of ``src/configs/datasets`` and ``src/configs/exps``; docs/from_the_release.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

FOLDERS = ("configs", "datasets", "exps")
"""Folders of the released code; what lies above them says nothing of an experiment."""

ENDING = re.compile(r"\.(yaml|yml|py)$")
SWEEP = "+multirun_sweeps"
POINTS = ",".join(f"[{round(0.1 * number, 1)},{round(1 - 0.1 * number, 1)}]" for number in range(11))
"""Coefficients of two members at 11 points, as values of a sweep."""

ROWS: tuple[tuple[str, str], ...] = (
    # Models. Some files of another one lie in a folder that is named after RoBERTa.
    ("deberta", "model=deberta_v3_large"),
    ("distilbert", "model=distilbert_base"),
    ("roberta", "model=roberta_base"),
    ("rb", "model=roberta_base"),
    ("t5", "model=t5_v1_1_base"),
    ("gpt2", "model=gpt2"),
    # Suites, and heads of members.
    ("partition 10k", "suite=glue_partition suite.partition=iid suite.examples=20000"),
    ("partition niid", "suite=glue_partition"),
    ("partition iid", "suite=glue_partition suite.partition=iid"),
    ("mtl subset 100", "suite=glue suite.train_examples=100"),
    ("mtl subset 1k", "suite=glue suite.train_examples=1000"),
    ("iid 10k", "suite=glue_partition suite.partition=iid suite.examples=20000"),
    ("niid", "suite=glue_partition"),
    ("iid", "suite=glue_partition suite.partition=iid"),
    ("subset", "suite=glue_partition"),
    ("ner", "suite=ner suite.include_other_members=true"),
    ("gen", "suite=emotion_text"),
    ("t5", "suite=emotion_text"),
    ("gpt2", "suite=emotion_text"),
    ("emotion", "suite=emotion"),
    ("glue", "suite=glue"),
    ("distilbert", "suite=glue"),
    ("diffseed", "head_init=different"),
    # What is evaluated: the data of joint training on labels have the five corpora of other domains only.
    ("t5 mtl ood", "suite.include_other_members=true"),
    ("emotion mtl", "suite.include_other_members="),
    ("emotion ood", "suite.include_other_members=true"),
    # Methods. fisher_abl leaves Fisher information out, and ood2 leaves every layer out of RegMean.
    ("fisher abl", "method=simple"),
    ("regmean ood2", "method=simple"),
    ("mtl", "method=multitask"),
    ("ensemble", "method=ensemble"),
    ("ot", "method=optimal_transport"),
    ("local", "method=individual"),
    ("locals", "method=individual"),
    ("regmean", "method=regmean"),
    ("fisher", "method=fisher"),
    # Their settings.
    ("t5 regmean diag", "method.diagonal=true method.exclude_layers=[decoder*,lm_head]"),
    ("regmean diag", "method.diagonal=true"),
    ("regmean full", "method.diagonal=true"),
    ("regmean partial", "method.keep_layers=[roberta.encoder.layer.11,classifier] method.off_diagonal=1"),
    ("fisher norm", "method.normalization=parameter"),
    ("fisher normalize", "method.normalization=parameter"),
    ("fisher 10", "statistics.fisher.batches=10"),
    ("fisher 100", "statistics.fisher.batches=100"),
    ("fisher 1000", "statistics.fisher.batches=1000"),
    ("tsp1", "method.keep_top=5"),
    ("tsp2", "method.keep_top=4"),
    ("tsp3", "method.keep_top=3"),
    ("tsp4", "method.keep_top=2"),
    ("whead", "method.keep_layers="),
    ("distilbert iid 1k", "method.keep_layers=[pre_classifier,classifier]"),
    # Coefficients, and the training of members that one of these files has of its own.
    ("coeff 50", f"{SWEEP}=glue_coefficient_grid method.coefficients="),
    ("regmean coeff", f"{SWEEP}=glue_coefficient_grid method.coefficients="),
    ("coeff", f"{SWEEP}=glue_coefficient_grid method.coefficients={POINTS}"),
    (
        "roberta coeff",
        "training.learning_rate=2e-5 training.epochs=3 training.schedule=linear training.warmup=0",
    ),
    ("deberta emotion locals", "training.learning_rate=1e-5"),
    ("debug", "debug=fast"),
)
"""Words of names, and what a file whose name, or those of its folders, have all of them chooses.

The first row that has a key counts. A key without a value stays as it is by default.
"""

EXPERIMENTS = {
    "emotion": ("emotion_pairwise", "emotion_incremental"),
    "emotion_text": ("emotion_text_pairwise", "emotion_text_incremental"),
    "ner": ("ner_incremental", "ner_incremental"),
    "glue": ("glue_pairwise", "glue_pairwise"),
    "glue_partition": ("glue_partition", "glue_partition"),
}
"""By suite, the experiment of all its members: of pairs, and of more and more of them, which is out of domain."""
INCREMENTAL = ("ood", "ood2", "incremental")

TEMPLATES = {
    "seed": "seed={}",
    "dseed_generator": "head_init=different seed={}",
    "dataset_name": "suite.task={}",
    "partition_method": "suite.partition={}",
    "rw": "method.off_diagonal={}",
    "dataset": "",
    "postfix": "",
}
"""By template of ``--templates``, overrides with its value; empty where the suite, or the folder of a job, says it."""

VALUES = {"partition_method": {"niid": "non_iid"}, "rw": {"-1": "1", "-1.0": "1"}}
"""By template, values that are written otherwise here; -1 leaves entries off the diagonal as they are."""


def released_choices(names: Sequence[str], members: int | None = None) -> list[str]:
    """What YAML files of the released code choose, as overrides: an experiment or a suite, a model, a method, settings.

    Args:
        names: paths of files, or names without folder and ending: ``roberta-base-emotion``.
        members: of how many members there is one job; None for all of the suite's, of which an experiment makes jobs.
    """
    words = {word for name in names for word in _words(name)}
    rows = [overrides for wanted, overrides in ROWS if words.issuperset(wanted.split())]
    chosen: dict[str, str] = {}
    for override in " ".join(rows).split():
        key, _, value = override.partition("=")
        chosen.setdefault(key, value)
    if "model" in chosen and chosen.setdefault("method", "simple") == "simple" and members == 1:
        chosen["method"] = "individual"
    suite = chosen.get("suite")
    if SWEEP in chosen:
        del chosen["suite"]
    elif suite is not None and members is None:
        chosen["experiment"] = EXPERIMENTS[suite][not words.isdisjoint(INCREMENTAL)]
        del chosen["suite"]
    leading = (SWEEP, "experiment", "suite", "model", "method")
    order = [*(key for key in leading if key in chosen), *(key for key in chosen if key not in leading)]
    return [f"{key}={chosen[key]}" for key in order if chosen[key]]


def template_overrides(template: str) -> list[str] | None:
    """What a value of ``--templates`` (``seed=1``) sets; None for what is no template of the released code."""
    name, _, value = template.partition("=")
    if name not in TEMPLATES:
        return None
    return TEMPLATES[name].format(VALUES.get(name, {}).get(value, value)).split()


def _words(name: str) -> list[str]:
    path = PurePath(ENDING.sub("", name.lower()))
    below = [number for number, part in enumerate(path.parts) if part in FOLDERS]
    parts = path.parts[below[-1] + 1 :] if below else (path.name,) if path.is_absolute() else path.parts
    return re.split(r"[^a-z0-9]+", " ".join(parts))
