"""``result.json``: what one job measured."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from regmean_lab.utils.files import sha256, write_json
from regmean_lab.utils.later_settings import without_later_settings

log = logging.getLogger(__name__)

RESULT_FILE = "result.json"
MERGED_FOLDER = "merged"
SCHEMA = 1

NOT_FINGERPRINTED = (
    *("paths", "logger", "force", "save_merged", "measure_divergence", "plan", "evaluate"),
    *("stage", "stage_members"),
)
"""Configuration that does not change what is measured or merged; version 0.1 had the last two."""

WITHOUT_DIVERGENCE = ("individual", "multitask")
"""Methods whose results have none whatever is asked for."""

NOT_FINGERPRINTED_TRAINER = ("progress_bar", "workers", "threads", "strategy")

NOT_FINGERPRINTED_STATISTICS = ("storage",)


@dataclass
class Result:
    """Everything that one job measured; scores are times 100.

    Attributes:
        fingerprint: hash of the resolved configuration without paths.
        experiment: name of the experiment.
        suite: name of the suite.
        model: name of the model.
        method: name of the method.
        members: what was merged or compared, in order.
        seed: seed of the job.
        head_init: ``same`` or ``different``.
        scores: key scores: ``in_domain`` by member, ``out_of_domain`` by corpus.
        mean_in_domain: mean of the in-domain key scores.
        mean_out_of_domain: mean of the out-of-domain key scores; None without out-of-domain corpora.
        metrics: everything measured, by corpus (by member, then by corpus, where each member is evaluated by itself).
        seconds: of ``train``, ``statistics``, ``merge`` and ``evaluate`` in this job.
        peak_memory_bytes: most memory used by the process, or on the GPU.
        environment: versions, device, commit and command line.
        data_fingerprint: hash of all data that was read.
        zoo: address in the zoo of each member.
        diagnostics: of each layer's system of equations, for methods that solve one.
        notes: what a user should know of a merge, such as matrices that were averaged and not solved for.
        configuration: the resolved configuration.
        model_fingerprint: identifies the pretrained weights that members started from.
        unknown_labels: by corpus that is evaluated, the labels that it annotates and no member was trained on: they are
            never predicted. None in results of version 0.1, which did count them as predicted.
        selection: how settings were chosen, where ``hydra.sweeper.select=best`` has done it: ``on`` which split, ``by``
            which score, ``keys`` of the settings, ``chosen`` with its ``score``, and ``among`` which candidates; of a
            search its ``sampler``, ``seed`` and numbers of ``trials`` and ``failed`` ones as well.
        checkpoints: of members that are checkpoints of somebody's, by corpus: ``from`` where, at which ``revision``,
            the ``fingerprint`` of what was read, and a hash of each kind of ``published_statistics`` beside it.
        divergence: how far a merge is from its members on their own data, and how much of the gap that the mean of
            their weights leaves it closes (:meth:`regmean_lab.evaluation.divergences.Divergences.of`); None where it
            was not measured.
        choice: of ``method=auto``, what was ``chosen`` ``by`` which criterion among which ``candidates``, with their
            figures (:meth:`regmean_lab.merging.choice.Choice.record`).
        statistics_bytes: size of the files of statistics that a merge read, by kind, of the member with most of them:
            what its owner publishes beside the model. None where nothing is merged, and in results of version 0.1.
        method_option: the YAML file of somebody's own by which the method was chosen, where that has another name.
        candidates: of a greedy order, hash of all data and weights by which members were ordered, those that were not
            merged included; None of other jobs, and in results of version 0.1.
        schema: version of this format.
    """

    fingerprint: str
    experiment: str
    suite: str
    model: str
    method: str
    members: list[str]
    seed: int
    head_init: str
    scores: dict[str, dict[str, float]]
    mean_in_domain: float
    mean_out_of_domain: float | None
    metrics: dict[str, Any]
    seconds: dict[str, float]
    peak_memory_bytes: int
    environment: dict[str, Any]
    data_fingerprint: str
    zoo: dict[str, str]
    diagnostics: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    configuration: dict[str, Any] = field(default_factory=dict)
    model_fingerprint: str = ""
    unknown_labels: dict[str, list[str]] | None = None
    selection: dict[str, Any] | None = None
    checkpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    divergence: dict[str, Any] | None = None
    choice: dict[str, Any] | None = None
    statistics_bytes: dict[str, int] | None = None
    method_option: str | None = None
    candidates: str | None = None
    schema: int = SCHEMA

    @property
    def label(self) -> str:
        """What tables and figures call its method."""
        return self.method_option or self.method

    def write(self, folder: Path) -> Path:
        """Write ``result.json`` into a job's folder: whole or not at all."""
        return write_json(folder / RESULT_FILE, asdict(self))


class ResultError(Exception):
    """A ``result.json`` that cannot be read."""


def read_result(path: Path) -> Result:
    """Read a ``result.json``.

    Raises:
        ResultError: when it is not valid JSON, of another schema, or lacks something.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise ResultError(f"{path}: expected a result of schema {SCHEMA}")
        return Result(**content)
    except (OSError, ValueError, TypeError) as error:
        raise ResultError(f"{path}: not a readable result ({error}); delete it to have it computed again") from None


def find_result(
    folder: Path,
    resolved: Mapping[str, Any],
    data_fingerprint: str,
    model_fingerprint: str,
    *,
    merged_too: bool = False,
    of_candidates: bool = False,
) -> Result | None:
    """The result in a job's folder, if it was computed from the same configuration, data and pretrained weights.

    Args:
        folder: the job's folder.
        resolved: the resolved configuration.
        data_fingerprint: hash of all data that the job reads.
        model_fingerprint: identifies the pretrained weights.
        merged_too: whether the merged model must lie beside it.
        of_candidates: whether data and weights are those of all members of whom a greedy order chooses some.
    """
    path = folder / RESULT_FILE
    if not path.exists() or (merged_too and not (folder / MERGED_FOLDER).is_dir()):
        return None
    try:
        result = read_result(path)
    except ResultError as error:
        log.warning("%s", error)
        return None
    wanted: tuple[Any, ...] = (fingerprint(resolved), data_fingerprint, model_fingerprint)
    found: tuple[Any, ...] = (result.fingerprint, result.data_fingerprint, result.model_fingerprint)
    if of_candidates:
        wanted = fingerprint(resolved), candidates_fingerprint(data_fingerprint, model_fingerprint)
        found = result.fingerprint, result.candidates
    if found != wanted:
        return None
    left_out = result.configuration.get("measure_divergence") is False
    if left_out and resolved.get("measure_divergence", True) and result.method not in WITHOUT_DIVERGENCE:
        log.info("%s was measured without divergence from the members, and is computed again", path)
        return None
    return result


def candidates_fingerprint(data_fingerprint: str, model_fingerprint: str) -> str:
    """Hash of all by which a greedy order ranks members.

    Args:
        data_fingerprint: hash of all data that the job reads with all of its members.
        model_fingerprint: identifies the weights that all of them start from.
    """
    return combine_fingerprints([data_fingerprint, model_fingerprint])


def unknown_text(unknown: Mapping[str, Sequence[str]]) -> str:
    """Labels that no member knows, by corpus, in one line."""
    return "; ".join(f"{corpus}: {', '.join(labels)}" for corpus, labels in unknown.items())


def zero_note(method: str, in_domain: Mapping[str, float]) -> str | None:
    """What to know where models score 0 on members' own data, as those do that predict no label; None elsewhere.

    Args:
        method: ``individual`` where each score is that of a member.
        in_domain: score of each member's corpus.
    """
    zero = [name for name, score in in_domain.items() if score == 0]
    if method == "individual" and zero:
        are = "members score" if len(zero) > 1 else "member scores"
        return (
            f"{', '.join(zero)}: {are} 0, as models do that predict no label: train longer or on more examples "
            "(training.epochs, suite.train_examples)"
        )
    if zero and len(zero) == len(in_domain):
        return (
            f"{method}: scores 0 on the data of every member, as models do that predict no label; gap closed, how near "
            "it is to the members, then says little. Where members score 0 too (method=individual), train longer or on "
            "more examples"
        )
    return None


def fingerprint(resolved: Mapping[str, Any]) -> str:
    """Hash (SHA-256, hexadecimal) of a resolved configuration, without paths and what else changes no number."""
    relevant = {key: value for key, value in resolved.items() if key not in NOT_FINGERPRINTED and key != "hydra"}
    for part, left_out in (("trainer", NOT_FINGERPRINTED_TRAINER), ("statistics", NOT_FINGERPRINTED_STATISTICS)):
        if isinstance(settings := relevant.get(part), Mapping):
            relevant[part] = {key: value for key, value in settings.items() if key not in left_out}
    relevant = without_later_settings(relevant)
    return sha256(json.dumps(relevant, sort_keys=True, separators=(",", ":")))


def combine_fingerprints(parts: Iterable[str]) -> str:
    """One hash of several, in order."""
    return sha256("\n".join(parts))


def mean(values: Iterable[float]) -> float | None:
    """Mean, or None of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else None
