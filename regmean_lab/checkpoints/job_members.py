"""Members of a job from the zoo; those that are not there are trained, or put there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from regmean_lab.checkpoints.given_members import GivenMember
from regmean_lab.config.schema import Settings
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.training.descriptions import MemberTraining
from regmean_lab.training.processes import first_device
from regmean_lab.training.train import find_or_train_for
from regmean_lab.utils.memory import halved, memory_for, other_device
from regmean_lab.zoo import ZooEntry

log = logging.getLogger(__name__)


def find_or_make(
    settings: Settings,
    needed: MemberTraining,
    checkpoint: Checkpoint,
    folder: Path,
    given: Mapping[str, GivenMember],
) -> ZooEntry:
    """A member of a job from the zoo: trained now, or put there if it is a checkpoint, where it is not there yet.

    Args:
        settings: the job's configuration.
        needed: the member.
        checkpoint: the pretrained model.
        folder: the job's, for the logs of a training.
        given: the members that are checkpoints, by corpus.
    """
    if (own := given.get(needed.name)) is not None:
        entry = own.find_or_add(settings, checkpoint)
        log.info("%s is the checkpoint %s: %s", own.corpus, own.reference, entry.path)
        return entry
    device = str(first_device(settings.config.trainer.accelerator))
    batch = f"batches of {needed.training.batch_size} examples ({needed.training.precision})"
    work = f"train {'+'.join(needed.corpora)}, seed {needed.seed}, on {device} in {batch}"
    with memory_for(work, _less_memory(needed, device)):
        return find_or_train_for(settings, needed, checkpoint, folder)


def _less_memory(needed: MemberTraining, device: str) -> list[str]:
    """Settings with which a training takes less memory, those that change no weights first."""
    training = needed.training
    found = [] if training.gradient_checkpointing else ["training.gradient_checkpointing=true (same weights, slower)"]
    found += halved("training.eval_batch_size", training.eval_batch_size, "if it was on dev; same weights")
    if training.batch_size > 1:
        half, batches = training.batch_size // 2, training.accumulate * 2
        found.append(f"training.batch_size={half} training.accumulate={batches} (as many examples a step)")
    if training.precision.startswith("32"):
        found.append("training.precision=bf16-mixed (other roundings)")
    return [*found, *other_device(device)]
