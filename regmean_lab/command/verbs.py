"""The verbs of the command line, ``regmean-lab VERB``: which there are, and what each one does.

Verbs with a ``config`` are Hydra's: they take overrides, and have the root configuration ``conf/CONFIG.yaml``. The
others are programs of their own, which are imported when they are called.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from regmean_lab.command.own_folders import CONFIG_DIR_FLAGS
from regmean_lab.command.plan import PLAN_OVERRIDE
from regmean_lab.config.grids import CONFIG_NAME
from regmean_lab.utils.garbage import collect_again

SCRIPT = "regmean-lab"


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        summary: what it does, in a line.
        config: its root configuration; None of a program.
        overrides: what is added to the overrides that it is given.
        module: of a program: the module with ``main(arguments, program)`` and ``completions(words)``.
    """

    summary: str
    config: str | None = None
    overrides: tuple[str, ...] = ()
    module: str = ""


VERBS = {
    "run": Verb("train, merge and evaluate; the default verb", CONFIG_NAME),
    "plan": Verb("what run would do with these overrides, and what is missing for it", CONFIG_NAME, (PLAN_OVERRIDE,)),
    "merge": Verb("merge fine-tuned model folders", "merge_checkpoints"),
    "extract": Verb("write what fine-tuning has changed in a model as a LoRA adapter", "extract_adapter"),
    "evaluate": Verb("score fine-tuned models, merged or not, on files or a suite", "evaluate"),
    "collect": Verb("measure the statistics of a fine-tuned model, to be published with it", "collect_statistics"),
    "zoo": Verb("list, verify and prune the trained members, and add your own", module="regmean_lab.command.zoo"),
    "prepare": Verb("download or convert data and pretrained models", module="regmean_lab.prepare.cli"),
    "report": Verb("tables, figures and a page of results", module="regmean_lab.report.cli"),
}


class VerbError(ValueError):
    """A word on the command line that is no verb, or not where a verb belongs."""


def split_verb(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The verb that a command line begins with, or None, and its other arguments; ``--config-dir`` may precede it.

    Raises:
        VerbError: for a first word that is no verb, for a verb that is not first, and for two of them.
    """
    if not arguments:
        return None, []
    first, *others = arguments
    if first in VERBS:
        if others and others[0] in VERBS:
            hint = f": plan is of run alone; {others[0]} tells what stands against it before its work"
            if others[0] in ("merge", "collect"):
                hint += f", and all that it would do with {PLAN_OVERRIDE}"
            raise VerbError(f"{first} {others[0]}: expected one verb{hint if first == 'plan' else ''}")
        return first, others
    if re.fullmatch(r"[A-Za-z][\w-]*", first):
        near = difflib.get_close_matches(first, VERBS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(VERBS)}"
        raise VerbError(f"{first}: there is no such verb; {hint}")
    if first.partition("=")[0] in CONFIG_DIR_FLAGS:  # a folder of settings may stand before the verb
        length = 1 if "=" in first else 2
        verb, after = split_verb(arguments[length:])
        return verb, [*arguments[:length], *after]
    if late := [argument for argument in others if argument in VERBS]:
        raise VerbError(f"{late[0]}: a verb comes first: {SCRIPT} {late[0]} …")
    return None, list(arguments)


def run_program(name: str, arguments: Sequence[str]) -> int:
    """Run a verb that is a separate program; returns its exit code."""
    module = importlib.import_module(VERBS[name].module)
    collect_again()
    return int(module.main(arguments, program=f"{SCRIPT} {name}"))
