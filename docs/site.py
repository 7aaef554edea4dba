"""What the site of the documentation does that MkDocs does not: ``mkdocs.yml`` names this file.

- Pages that lie elsewhere in the repository (the changelog, the rules for contributors, …) are part of the site.
- Links to files that are no page are shown as their text.
- Flowcharts, which GitHub draws from their source, are drawn by Graphviz where that is installed.
- Docstrings' references to other objects are shown as code.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
import shutil
import subprocess
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

log = logging.getLogger("mkdocs.hooks.site")

ELSEWHERE = {
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "CODE_OF_CONDUCT.md": "project/code_of_conduct.md",
    "SECURITY.md": "project/security.md",
    "data/README.md": "project/data.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "benchmarks/RESULTS.md": "project/measured.md",
}
"""Files of the repository that are pages, by their place on the site."""

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
FLOWCHART = re.compile(r"```mermaid\nflowchart TD\n(.*?)```", re.DOTALL)
ROLE = re.compile(r":[a-z:]+:`~?([^`<]+)(?:<[^`]*>)?`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere."""
    root = posixpath.dirname(config.config_file_path)
    for path, place in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=posixpath.join(root, path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page as GitHub shows it into one of the site."""
    here = next((path for path, place in ELSEWHERE.items() if place == page.file.src_uri), f"docs/{page.file.src_uri}")

    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return match[0]
        path, mark, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
        place = ELSEWHERE.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
        if files.get_file_from_path(place) is None:
            if not os.path.exists(posixpath.join(posixpath.dirname(config.config_file_path), path)):
                return match[0]  # for MkDocs to complain of
            return text if text.startswith("`") else f"{text} (`{path}`)" if path not in text else f"`{text}`"
        text = re.sub(r"^(?:docs/)?([\w/]+)\.md$", r"\1", text).replace("_", " ") if text.endswith(".md") else text
        return f"[{text}]({posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or '.')}{mark}{anchor})"

    return FLOWCHART.sub(_drawn, LINK.sub(link, markdown))


def _drawn(match: re.Match[str]) -> str:
    """A flowchart as SVG in the page's own colours; as it was, without Graphviz."""
    program = shutil.which("dot")
    if program is None:
        log.info("a flowchart is shown as its source, since Graphviz is not installed (apt install graphviz)")
        return match[0]
    colours = "color=currentColor fontcolor=currentColor"
    style = f'bgcolor=transparent; node [shape=box style=rounded {colours} fontname="sans-serif"];'
    edges = "\n".join(line.replace("-->", "->") for line in match[1].splitlines())
    source = f"digraph {{ {style} edge [color=currentColor]; {edges} }}"
    drawn = subprocess.run([program, "-Tsvg"], input=source, capture_output=True, text=True, check=True).stdout
    drawn = re.sub(r"<!--.*?-->|<title>.*?</title>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    drawn = re.sub(r'width="[^"]*" height="[^"]*"', 'style="max-width: 100%; height: auto"', drawn, count=1)
    return (
        f'<figure role="img" aria-label="Which package imports which">{re.sub(chr(10) + "+", chr(10), drawn)}</figure>'
    )


class PlainRoles(griffe.Extension):
    """Shows references of docstrings (``:func:`~package.name```) as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change a docstring before it is read."""
        if obj.docstring is not None:
            plain = ROLE.sub(lambda match: f"`{match[1].rpartition('.')[2]}`", obj.docstring.value)
            obj.docstring.value = plain.replace("``", "`")
