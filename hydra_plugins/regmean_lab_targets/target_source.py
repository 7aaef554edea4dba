"""Serves the typed settings of ``method=package.module.Class``, on the command line and in defaults lists."""

from __future__ import annotations

from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.config.locations import TARGET_SCHEME
from regmean_lab.config.targets import TargetError, is_target, target_method

GROUP = "method"


class TargetSource(ConfigSource):
    """Methods by the full name of their class."""

    @staticmethod
    def scheme() -> str:
        """Of addresses on the search path."""
        return TARGET_SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """The settings of a class, with their types and defaults."""
        from regmean_lab.config.schema_nodes import (  # which is not needed before a class is chosen
            named_settings,
            open_settings,
        )

        target = _target(config_path)
        try:
            kind = target_method(target)
            settings = open_settings(named_settings(kind, kind.name, target))
        except TargetError as error:
            raise ConfigCompositionException(str(error)) from None
        except (OmegaConfBaseException, NameError) as error:  # of types
            reason = str(error).splitlines()[0]
            raise ConfigCompositionException(f"method={target}: a setting's type cannot be used: {reason}") from None
        return ConfigResult(self.provider, self.full_path(), settings, header={"package": None})

    def is_group(self, config_path: str) -> bool:
        """Whether options of a group are served here."""
        return config_path == GROUP

    def is_config(self, config_path: str) -> bool:
        """Whether an option is a class's name; whether there is such a class shows when it is loaded."""
        return is_target(_target(config_path))

    def available(self) -> bool:
        """Always."""
        return True

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """None: nobody knows all classes."""
        return []


def _target(config_path: str) -> str:
    """The name of an option, without its group; of another group there is none."""
    group, _, option = config_path.removesuffix(".yaml").partition("/")
    return option if group == GROUP else ""
