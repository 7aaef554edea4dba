"""Folders of ``--config-dir`` and ``hydra.searchpath``, wherever the command composes: checks, plans, jobs, reports."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from regmean_lab.config.locations import PUBLISHED_SCHEME, own_folders


class OwnFolders(SearchPathPlugin):
    """Adds the folders that the command was given, after ``conf``, and what serves the published settings of all."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra whenever it is initialised."""
        for folder in own_folders():
            search_path.append("command-line", folder)
        for element in [element for element in search_path.get_path() if element.provider == "main"]:
            search_path.append("published", f"{PUBLISHED_SCHEME}://{element.path}")
