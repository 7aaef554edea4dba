"""Serves the part of ``conf/published`` that belongs to a job as an option of the group ``published``.

The defaults list of ``conf/config.yaml`` chooses ``published=SUITE,MODEL,METHOD,FIDELITY``. Hydra asks for it like for
any file, and merges it before experiments and the command line.
"""

from __future__ import annotations

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource

from regmean_lab.config.locations import PUBLISHED_SCHEME, own_folders
from regmean_lab.config.published import FOLDER, is_published, published_settings

PARTS = 4
"""Of an option's name."""


class PublishedSource(ConfigSource):
    """Published settings from the configuration's folder, which is the path, and from folders of a person's own."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.sources = [_source(provider, folder) for folder in (self.path, *own_folders())]

    @staticmethod
    def scheme() -> str:
        """Of addresses on the search path."""
        return PUBLISHED_SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """What is published for a suite, a model and a method."""
        settings = published_settings(self.sources, *_choice(config_path))
        return ConfigResult(self.provider, self.full_path(), settings, header={"package": "_global_"})

    def is_group(self, config_path: str) -> bool:
        """Whether options of a group are served here."""
        return config_path == FOLDER

    def is_config(self, config_path: str) -> bool:
        """Whether anything is published for a suite, a model and a method."""
        choice = _choice(config_path)
        return len(choice) == PARTS and is_published(self.sources, *choice[:2])

    def available(self) -> bool:
        """A folder without published settings is no mistake."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """None: these options are not for people to choose."""
        return []


def _choice(config_path: str) -> list[str]:
    """The parts of an option's name; of another group there are none."""
    group, _, option = config_path.removesuffix(".yaml").partition("/")
    return option.split(",") if group == FOLDER else []


def _source(provider: str, folder: str) -> ConfigSource:
    scheme = folder.partition("://")[0] if "://" in folder else "file"
    return SourcesRegistry.instance().resolve(scheme)(provider, folder)
