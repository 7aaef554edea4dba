"""Members as a configuration gives them: corpora of the suite, and checkpoints that were fine-tuned on them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from regmean_lab.suites import Suite
from regmean_lab.utils.files import TRAINING_FILE
from regmean_lab.utils.names import did_you_mean


@dataclass(frozen=True)
class NamedMembers:
    """Which corpora are members, and which checkpoint stands for which of them.

    Attributes:
        corpora: the members, in order.
        checkpoints: by corpus, a folder or a name on the hub; corpora that are no members may be among them.
        problems: what is wrong, one message each.
    """

    corpora: tuple[str, ...]
    checkpoints: dict[str, str]
    problems: list[str]


def named_members(given: Sequence[str] | None, checkpoints: Mapping[str, str], suite: Suite) -> NamedMembers:
    """Tell corpora and checkpoints among members apart, and find the corpus of each checkpoint.

    The corpus is the one that is named (``CORPUS=CHECKPOINT``), else the one that an entry of a zoo records, else the
    one that the folder is called like; checkpoints that are left over go with the suite's corpora that are left over,
    in order, where there are as many.

    Args:
        given: each a corpus, ``CORPUS=CHECKPOINT``, or a checkpoint: a folder or a name on the hub; None: all of the
            suite.
        checkpoints: checkpoints by corpus.
        suite: the suite.
    """
    known = suite.candidates
    found = [f"checkpoints.{name}: {_no_corpus(name, suite)}" for name in checkpoints if name not in known]
    corpora: list[str | None] = []
    references: list[str | None] = []
    for text in suite.members if given is None else given:
        corpus, reference = _divided(text, known, suite)
        if corpus is not None and reference is not None and corpus not in known:
            found.append(f"members: {text}: {_no_corpus(corpus, suite)}")
            continue
        if corpus is None and reference is not None:
            corpus = _recorded(reference, suite) or _called_like(reference, known)
        corpora.append(corpus)
        references.append(reference)
    free = [name for name in suite.members if name not in corpora]
    open_places = [place for place, corpus in enumerate(corpora) if corpus is None]
    if len(free) == len(open_places):
        for place, corpus in zip(open_places, free, strict=True):
            corpora[place] = corpus
    else:
        names = ", ".join(known) or suite.what_is_there()
        found += [
            f"members: which corpus {references[place]} was trained on is not clear; say it: "
            f"members=['CORPUS={references[place]}',…] (corpora: {names})"
            for place in open_places
        ]
    by_corpus: dict[str, list[str]] = {name: [reference] for name, reference in checkpoints.items()}
    for corpus, reference in zip(corpora, references, strict=True):
        if corpus is not None and reference is not None:
            by_corpus.setdefault(corpus, []).append(reference)
    found += [
        f"members: two checkpoints for {corpus}: {' and '.join(several)}; expected one"
        for corpus, several in by_corpus.items()
        if len(several) > 1
    ]
    named = tuple(corpus for corpus in corpora if corpus is not None)
    return NamedMembers(named, {corpus: several[0] for corpus, several in by_corpus.items()}, found)


def short_name(member: str) -> str:
    """What the folder of a job calls a member: its corpus, or the last part of a checkpoint's path."""
    corpus, equals, _ = member.partition("=")
    if equals and corpus and not _is_path(corpus):
        return corpus
    return member.rstrip("/").rpartition("/")[2] if is_checkpoint(member) else member


def is_checkpoint(member: str) -> bool:
    """Whether a member that is no corpus is meant as a checkpoint: a path, ``owner/name``, or with a revision."""
    return _is_path(member) or "@" in member or Path(member).is_dir()


def _is_path(text: str) -> bool:
    return "/" in text or text.startswith(("~", "."))


def _divided(text: str, known: Sequence[str], suite: Suite) -> tuple[str | None, str | None]:
    """Corpus and checkpoint of a member; of a path that has an equals sign in it, the whole is the checkpoint.

    A name that the paper's released code has for a corpus is one of a corpus, which will be explained, unless there is
    a folder of that name.
    """
    if text in known or (suite.released_name(text) is not None and not Path(text).is_dir()):
        return text, None
    name, equals, reference = text.partition("=")
    if equals and (name in known or not (_is_path(name) or Path(text).expanduser().exists())):
        return name, reference
    return (None, text) if is_checkpoint(text) else (text, None)


def _recorded(reference: str, suite: Suite) -> str | None:
    """The corpus that a zoo's entry says it was trained on, if it is one of this suite."""
    try:
        content = json.loads((Path(reference).expanduser() / TRAINING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    description = content.get("description") if isinstance(content, dict) else None
    if not isinstance(description, dict) or description.get("suite") != suite.name:
        return None
    corpus = description.get("corpus")
    return corpus if isinstance(corpus, str) and corpus in suite.candidates else None


def _called_like(reference: str, known: Sequence[str]) -> str | None:
    name = reference.rstrip("/").rpartition("/")[2].partition("@")[0]
    return name if name in known else None


def _no_corpus(name: str, suite: Suite) -> str:
    known = suite.candidates
    if (meant := suite.released_name(name)) is not None:
        absent = "" if meant in known else f", which is no corpus of it here; {suite.what_is_there()}"
        return f"{name} of the paper's released code is {meant} in suite {suite.name}{absent}"
    return f"suite {suite.name} has no corpus {name!r}; " + (
        did_you_mean(name, known) if known else suite.what_is_there()
    )
