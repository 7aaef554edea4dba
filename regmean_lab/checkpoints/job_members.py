"""Members of a job from the zoo; those that are not there are trained, or put there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from regmean_lab.checkpoints.given_members import GivenMember
from regmean_lab.config.schema import Settings
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.training.descriptions import MemberTraining
from regmean_lab.training.train import find_or_train_for
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
    return find_or_train_for(settings, needed, checkpoint, folder)
