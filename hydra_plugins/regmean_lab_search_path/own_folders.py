"""Where YAML is looked for beside ``conf``, wherever the command composes: checks, plans, jobs, reports."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from regmean_lab.config.locations import PUBLISHED_SCHEME, SCHEMA_SCHEME, TARGET_SCHEME, own_folders
from regmean_lab.utils.plugins import plugin_folders


class OwnFolders(SearchPathPlugin):
    """Adds, after ``conf``, the folders that the command was given, those of other packages, and what is no file.

    The latter are the schemas of all groups, methods by the name of their class, and the published settings of all.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra whenever it is initialised."""
        for folder in own_folders():
            search_path.append("command-line", folder)
        for installed in plugin_folders():
            search_path.append("plug-ins", f"file://{installed}")
        search_path.append("schemas", f"{SCHEMA_SCHEME}://")
        search_path.append("targets", f"{TARGET_SCHEME}://method")
        for element in [element for element in search_path.get_path() if element.provider == "main"]:
            search_path.append("published", f"{PUBLISHED_SCHEME}://{element.path}")
