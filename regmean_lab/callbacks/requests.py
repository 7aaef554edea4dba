"""What statistics a job asks for, and where they are kept beside a member."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from regmean_lab.config.groups import StatisticsConfig, TrainerConfig, TrainingConfig
from regmean_lab.statistics import KINDS, Form, Kind, KindConfig, LayerFile, StatisticsError
from regmean_lab.statistics.settings import MatrixConfig
from regmean_lab.utils.files import STATISTICS_FOLDER
from regmean_lab.utils.later_settings import without_later_settings
from regmean_lab.zoo import ZooEntry, statistics_key

OF_THE_SAMPLE = ("examples", "batches", "tokens", "tolerance", "precision", "draws", "sign_seed")
"""Settings that say from how much data, and how exactly, statistics are; not of what."""
OF_THE_FORM = ("form", "rank")
"""Settings that say how much of a matrix is kept."""


def published_path(folder: Path, kind: str) -> Path:
    """Where statistics lie that were published with a model: ``statistics/KIND.safetensors`` in its folder."""
    return folder / STATISTICS_FOLDER / f"{kind}.safetensors"


@dataclass(frozen=True)
class StatisticsRequest:
    """Which statistics to collect, and how.

    Attributes:
        kind: name of the kind.
        settings: the kind's own settings.
        batch_size: examples a batch, where batches matter.
        seed: which examples are drawn.
        precision: the trainer's precision.
        batch_tokens: tokens a batch, where batches do not matter; None chooses for the device.
        layers: of statistics of layers, the only linear layers that are needed; None for all.
        experts: whether statistics of the layers of fused experts are among them.
        storage: form in which whole Gram matrices are stored where they are collected; they are found in any form.
        devices: the trainer's settings, if several devices collect together, in a process each.
        published: whether statistics that came with a checkpoint serve as well, whatever examples they are from.
    """

    kind: str
    settings: KindConfig
    batch_size: int
    seed: int
    precision: str
    batch_tokens: int | None = None
    layers: tuple[str, ...] | None = None
    experts: bool = False
    storage: Form = "full"
    devices: TrainerConfig | None = None
    published: bool = True

    @property
    def examples(self) -> int | None:
        """Number of examples, None for all."""
        batches = self.settings.batches
        return self.settings.examples if batches is None else batches * self.batch_size

    def describe(self, data_fingerprint: str) -> dict[str, Any]:
        """Everything that determines the statistics of a given member: what their file's name is a hash of."""
        description = {
            "kind": self.kind,
            **without_later_settings(asdict(self.settings), f"statistics.{self.kind}."),
            "examples": self.examples,
            "seed": self.seed,
            "precision": self.precision,
            "data_fingerprint": data_fingerprint,
        }
        del description["batches"]
        description = self.settings.describe(description)
        if self.layers is not None:
            description["layers"] = list(self.layers)
        if self.experts:
            description["experts"] = True
        if self.groups_matter:
            description["batch_size"] = self.batch_size
        return description

    @property
    def about(self) -> Kind:
        """What is known of the kind."""
        return KINDS[self.kind]

    @property
    def form(self) -> tuple[Form, int | None]:
        """The form in which matrices are stored, and the rank of ``low_rank``."""
        if isinstance(self.settings, MatrixConfig) and self.settings.form != "full":
            form: Any = self.settings.form  # checked by the schema
            return form, self.settings.rank
        return self.storage, None

    @property
    def can_be_shared(self) -> bool:
        """Whether batches can be divided among processes: with a stop rule each batch depends on those before it."""
        return not self.settings.stops_early

    @property
    def groups_matter(self) -> bool:
        """Whether the result depends on how examples are grouped into batches: those of ``batch_size`` then."""
        return self.settings.groups_matter

    @property
    def drawn_order(self) -> bool:
        """Whether batches are made in the order in which examples are drawn, rather than of like lengths."""
        return self.settings.drawn_order

    def told_of(self, data_fingerprint: str) -> str:
        """The hash of the data as a file tells it: not at all, where it would undo a guarantee of privacy."""
        return "" if self.settings.is_private else data_fingerprint

    def path(self, entry: ZooEntry, data_fingerprint: str) -> Path:
        """Where the statistics of a member lie, if they are collected for this request."""
        return entry.statistics_path(self.kind, statistics_key(self.describe(data_fingerprint)))

    def find(self, entry: ZooEntry, data_fingerprint: str) -> Path | None:
        """A file that serves this request.

        That is its own, one that differs only in having more layers, or one that was published with the member.
        """
        path = self.path(entry, data_fingerprint)
        if path.exists():
            return None if self._is_outdated(path) else path
        if self.layers is not None and (other := self._with_more_layers(entry, data_fingerprint)) is not None:
            return other
        came_with_it = published_path(entry.path, self.kind)
        return came_with_it if self.is_served_by(came_with_it) else None

    def is_served_by(self, path: Path) -> bool:
        """Whether a file that was published with a member is of what this request is of.

        Of how many and of which examples it is does not matter, nor the precision; every other setting of the kind
        does, such as where labels come from. A setting that the file does not tell is taken to be the default. Where
        whole matrices are asked for, those serve that the owner published, in whatever form.
        """
        if not self.published or not path.is_file():
            return False
        if self.settings.serves_any:
            return self._serving_problem(path) is None
        try:
            with self.about.file(path) as file:
                told = {**file.metadata, **file.metadata["settings"]}
                if self.layers is not None and isinstance(file, LayerFile) and not set(self.layers) <= set(file.layers):
                    return False
        except StatisticsError:
            return False
        defaults, own = asdict(type(self.settings)()), asdict(self.settings)
        free = (*OF_THE_SAMPLE, *(OF_THE_FORM if own.get("form") == "full" else ()))
        return all(told.get(key, defaults[key]) == own[key] for key in own if key not in free)

    def refusal(self, entry: ZooEntry) -> str | None:
        """Why statistics that were published with a member do not serve, where they promise less than was asked for.

        None where they serve, where there are none, and where they are of something else.
        """
        path = published_path(entry.path, self.kind)
        if not self.published or not path.is_file() or not self.settings.serves_any:
            return None
        return self._serving_problem(path) or None

    def _serving_problem(self, path: Path) -> str | None:
        """Why a file does not serve, whatever its settings; empty for one that is not of the kind, None if it does."""
        try:
            with self.about.file(path) as file:
                return self.about.serving_problem(file, self.settings)
        except StatisticsError:
            return ""

    def _is_outdated(self, path: Path) -> bool:
        try:
            with self.about.file(path) as file:
                return self.about.outdated(file) is not None
        except StatisticsError:
            return False  # what is wrong is told where it is read

    def _with_more_layers(self, entry: ZooEntry, data_fingerprint: str) -> Path | None:
        assert self.layers is not None
        complete = replace(self, layers=None)
        description = complete.describe(data_fingerprint)
        others = [other for other in entry.statistics_files() if other.name.startswith(f"{self.kind}-")]
        for other in (complete.path(entry, data_fingerprint), *others):
            try:
                with self.about.file(other) as file:
                    assert isinstance(file, LayerFile)
                    settings = {key: value for key, value in file.metadata["settings"].items() if key != "layers"}
                    if settings == description and set(self.layers) <= set(file.layers):
                        return other
            except StatisticsError:
                continue  # absent, damaged, or of a format that this program does not read: no use here
        return None


def requests_of(
    statistics: StatisticsConfig, training: TrainingConfig, trainer: TrainerConfig
) -> list[StatisticsRequest]:
    """All kinds of statistics, as configured."""
    storage: Any = statistics.storage  # checked by the schema
    return [
        StatisticsRequest(
            kind,
            getattr(statistics, kind),
            training.batch_size,
            statistics.seed,
            trainer.precision,
            statistics.batch_tokens,
            storage=storage,
            devices=trainer if trainer.devices > 1 else None,
            published=statistics.published,
        )
        for kind in KINDS
    ]


def open_statistics(entry: ZooEntry, request: StatisticsRequest, data_fingerprint: str) -> Any:
    """Statistics of a member, read layer by layer: a file of the kind's own class."""
    path = request.find(entry, data_fingerprint) or request.path(entry, data_fingerprint)
    return request.about.file(path)
