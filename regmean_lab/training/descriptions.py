"""The models that a job needs, and what determines the weights of each: by that they are found in the zoo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from regmean_lab.config.baselines import Multitask
from regmean_lab.config.groups import TrainingConfig
from regmean_lab.config.schema import Settings
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.suites import Suite
from regmean_lab.utils.later_settings import without_later_settings

DESCRIPTION_FORMAT = 1
"""Changes when the same description would train other weights."""

JOINT = "joint"
"""What the model of joint training is called beside members."""

WITHOUT_EFFECT = ("eval_batch_size", "gradient_checkpointing")
"""Training settings that do not change the weights."""


@dataclass(frozen=True)
class MemberTraining:
    """One model that a job needs, and how it is trained.

    Attributes:
        name: what the job calls it: a member's corpus, or ``JOINT``.
        corpora: what it is trained on.
        training: how.
        seed: seed of its head and of the order of its training data.
    """

    name: str
    corpora: tuple[str, ...]
    training: TrainingConfig
    seed: int


def trainings_of(settings: Settings) -> list[MemberTraining]:
    """The models that a job needs: its members, or for joint training the joint model."""
    config = settings.config
    if not isinstance(settings.method, Multitask):
        return [
            MemberTraining(member, (member,), config.training, settings.member_seed(member))
            for member in settings.members
        ]
    training = TrainingConfig(**vars(config.training))
    training.learning_rate = settings.method.learning_rate or training.learning_rate
    training.steps = settings.method.steps or training.steps
    training.reweight = settings.method.reweight or training.reweight
    return [MemberTraining(JOINT, settings.members, training, config.seed)]


def describe(
    checkpoint: Checkpoint, suite: Suite, corpora: Sequence[str], training: TrainingConfig, seed: int
) -> dict[str, Any]:
    """Everything that determines the weights of a member: what its address in the zoo is a hash of."""
    tasks = [suite.task(corpus) for corpus in corpora]
    settings = {name: value for name, value in asdict(training).items() if name not in WITHOUT_EFFECT}
    description = {
        "format": DESCRIPTION_FORMAT,
        "model": {
            "name": checkpoint.name,
            "fingerprint": checkpoint.fingerprint,
            "dropout": checkpoint.dropout,
            "new_head": checkpoint.new_head,
        },
        "suite": suite.name,
        "corpus": "+".join(corpora),
        "task": [asdict(task) for task in tasks] if multi_task(suite, corpora) else asdict(tasks[0]),
        "data_fingerprint": [suite.fingerprint(corpus) for corpus in corpora],
        "training": settings,
        "seed": seed,
    }
    return without_later_settings(description)


def name_of(checkpoint: Checkpoint, suite: Suite, corpora: Sequence[str], training: TrainingConfig, seed: int) -> str:
    """How the name of a member's folder begins, for people."""
    adapter = () if training.lora.rank is None else (f"lora{training.lora.rank}",)
    return "-".join((suite.name, "+".join(corpora), checkpoint.name, *adapter, f"seed{seed}"))


def multi_task(suite: Suite, corpora: Sequence[str]) -> bool:
    """Whether a model that is trained on these corpora together needs a head for each."""
    return suite.own_heads and len(corpora) > 1
