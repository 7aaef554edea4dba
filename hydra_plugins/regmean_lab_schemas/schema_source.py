"""Serves the schemas that defaults lists begin with: ``schema``, ``/schema/suite/NAME`` and ``/schema/method/NAME``.

In Hydra's own store every schema would be made at each start, and copied with the store for each composition.
"""

from __future__ import annotations

from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult, ConfigSource

from regmean_lab.config.locations import SCHEMA_SCHEME


class SchemaSource(ConfigSource):
    """Schemas, each made when it is first asked for."""

    @staticmethod
    def scheme() -> str:
        """Of addresses on the search path."""
        return SCHEMA_SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """The schema of a path, with types and defaults."""
        from regmean_lab.config.schema_nodes import schema_of  # which is not needed before anything is composed

        if (node := schema_of(_name(config_path))) is None:
            raise ConfigCompositionException(f"{config_path}: there is no such schema")
        return ConfigResult(self.provider, self.full_path(), node, header={"package": None})

    def is_group(self, config_path: str) -> bool:
        """Whether schemas are served below a path."""
        from regmean_lab.config.schema_nodes import GROUPS

        return config_path.strip("/") in GROUPS

    def is_config(self, config_path: str) -> bool:
        """Whether a path is a schema's."""
        from regmean_lab.config.schema_nodes import has_schema

        return has_schema(_name(config_path))

    def available(self) -> bool:
        """Always."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The names below a path, for messages on a name that is not there."""
        from regmean_lab.config.schema_nodes import GROUPS, names_in

        group = config_path.strip("/")
        found = [] if results_filter == ObjectType.GROUP else names_in(group)
        if results_filter != ObjectType.CONFIG:
            places = [path.rpartition("/") for path in GROUPS if path]
            found += [name for outer, _, name in places if outer == group]
        return sorted(found)


def _name(config_path: str) -> str:
    return config_path.strip("/").removesuffix(".yaml")
