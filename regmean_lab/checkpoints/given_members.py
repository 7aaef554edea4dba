"""Checkpoints that are members of a job: read and checked before any work, and put into the zoo when needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regmean_lab.callbacks.requests import StatisticsRequest
from regmean_lab.checkpoints.adding import CheckedModel, add_checked, checked_model
from regmean_lab.checkpoints.scoring.models import read_models
from regmean_lab.config.schema import ConfigurationError, Settings
from regmean_lab.merging import MergeMethod
from regmean_lab.models.converted_weights import MODELS_FOLDER
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.suites.base import DataError
from regmean_lab.utils.later_settings import without_later_settings
from regmean_lab.zoo import Zoo, ZooEntry, member_address

DESCRIPTION_FORMAT = 1
"""Changes when the same description would be of other weights."""


@dataclass(frozen=True)
class GivenMember:
    """A checkpoint that is the member of a corpus.

    Attributes:
        corpus: the corpus.
        reference: how the configuration names the checkpoint.
        checked: the checkpoint, which was found to be such a member.
    """

    corpus: str
    reference: str
    checked: CheckedModel

    @property
    def record(self) -> dict[str, Any]:
        """What results and the zoo tell of where it is from."""
        model = self.checked.model
        return {
            "from": model.member.source.public_reference,
            "revision": model.member.source.revision,
            "fingerprint": model.fingerprint,
            "published_statistics": self.checked.published.hashes,
        }

    def notes(self, is_there: bool) -> list[str]:
        """What a plan tells of it.

        Args:
            is_there: whether it is in the zoo.
        """
        published = self.checked.published
        state = "in the zoo" if is_there else "to be put into the zoo"
        came = f"statistics beside it: {', '.join(published.whole)}" if published.whole else "no statistics beside it"
        return [f"{self.corpus} is the checkpoint {self.reference} ({state}; {came})", *published.unused]

    def brings(self, request: StatisticsRequest) -> bool:
        """Whether statistics that lie beside it are those that are needed."""
        path = self.checked.published.whole.get(request.kind)
        return path is not None and self.checked.imports(request.kind) and request.is_served_by(path)

    def describe(self, settings: Settings, checkpoint: Checkpoint) -> dict[str, Any]:
        """Everything that determines the member: what its address in the zoo is a hash of.

        Args:
            settings: the job's configuration.
            checkpoint: the pretrained model, whose tokenizer the member is given.
        """
        description = {
            "format": DESCRIPTION_FORMAT,
            "checkpoint": self.checked.model.fingerprint,
            "model": {"name": checkpoint.name, "fingerprint": checkpoint.fingerprint},
            "suite": settings.suite.name,
            "corpus": self.corpus,
            "task": asdict(settings.suite.task(self.corpus)),
            "data_fingerprint": [settings.suite.fingerprint(self.corpus)],
            # Of what is trained here the settings of training say it: statistics are of texts cut to this length.
            "max_length": settings.config.training.max_length,
        }
        if published := self.checked.published.hashes:
            description["published_statistics"] = published
        return without_later_settings(description)

    def address(self, settings: Settings, checkpoint: Checkpoint) -> str:
        """Its address in the zoo."""
        return member_address(self.describe(settings, checkpoint))

    def find_or_add(self, settings: Settings, checkpoint: Checkpoint) -> ZooEntry:
        """Its entry in the zoo, into which it is put now if it is not there."""
        name = self.checked.model.name
        prefix = "-".join((settings.suite.name, self.corpus, checkpoint.name, name))
        return add_checked(settings, checkpoint, self.checked, self.describe(settings, checkpoint), prefix)


def read_given(settings: Settings, checkpoint: Checkpoint | None) -> tuple[dict[str, GivenMember], list[str]]:
    """The members of a job that are checkpoints, by corpus; and everything that stands against any of them.

    Args:
        settings: the job's configuration.
        checkpoint: the pretrained model; None where there is none, which is told elsewhere.
    """
    models_folder = Path(settings.config.paths.zoo_dir) / MODELS_FOLDER
    given: dict[str, GivenMember] = {}
    found: list[str] = []
    for corpus in settings.members:
        if (reference := settings.checkpoints.get(corpus)) is None:
            continue
        key = f"checkpoints.{corpus}"
        try:
            (model,) = read_models([reference], base=None, labels=None, models_folder=models_folder)
        except CheckpointError as error:
            found += [f"{key}: {_by_adapter(problem)}" for problem in error.problems]
            continue
        if checkpoint is None:
            continue
        try:
            published = settings.config.statistics.published
            checked = checked_model(model, checkpoint, settings.suite.task(corpus), key, with_statistics=published)
        except (ConfigurationError, DataError) as error:
            found += str(error).splitlines()
            continue
        given[corpus] = GivenMember(corpus, reference, checked)
    if isinstance(settings.method, MergeMethod):
        found += _equal_problems(given)
    return given, found


def _equal_problems(given: Mapping[str, GivenMember]) -> list[str]:
    """Checkpoints that are the members of several corpora: their merge with themselves would be what they are."""
    corpora: dict[str, list[GivenMember]] = {}
    for member in given.values():
        corpora.setdefault(member.checked.model.fingerprint, []).append(member)
    return [
        f"members: {', '.join(f'{one.corpus}={one.reference}' for one in group)}: the same model, which a merge "
        "would count more than once; give each corpus its own (method=individual, or regmean-lab evaluate, scores one "
        "model on several corpora)"
        for group in corpora.values()
        if len(group) > 1
    ]


def _by_adapter(problem: str) -> str:
    """A message of a base that is missing: in a job it is the adapter that names it."""
    where = "base_model_name_or_path of adapter_config.json"
    return problem.replace("(set base=FOLDER_OR_NAME)", f"(it is named by {where})").replace(
        "give it: base=FOLDER_OR_NAME", f"name it in {where}"
    )


def entry_of(settings: Settings, checkpoint: Checkpoint, own: GivenMember) -> ZooEntry | None:
    """The entry of a checkpoint in the job's zoo, if it is there."""
    return Zoo(Path(settings.config.paths.zoo_dir)).find(own.address(settings, checkpoint))
