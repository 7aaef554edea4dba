"""``regmean-lab zoo``: what the zoo's own command does, and ``add`` and ``import``, which need a configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from regmean_lab.command.overrides import override_problems
from regmean_lab.config.grids import CONFIG_NAME, composing, composition
from regmean_lab.config.plugin_options import register_plugin_options
from regmean_lab.config.resolvers import register_resolvers
from regmean_lab.utils.errors import UserError, together
from regmean_lab.zoo import cli

ADD, IMPORT = "add", "import"
FILTER = "zoo_filter."
ADD_HELP = """\
Usage: {program} add CHECKPOINT corpus=NAME [suite=… model=… seed=… training.…] [base=FOLDER_OR_NAME]

Put a fine-tuned model into the zoo as the member that jobs with these overrides look for: they find it and train none.
CHECKPOINT is a folder, a model of the hub or a folder of a LoRA adapter. Labels are matched by name; architecture and
tokens must be those of model=. Statistics that were published beside it are brought as well.

Example:
  {program} add my-tweets-model suite=sentiment corpus=tweets model=roberta_base seed=1
  regmean-lab run suite=sentiment members=[tweets,nyt] model=roberta_base seed=1 method=regmean

docs/checkpoints.md has more."""
IMPORT_HELP = """\
Usage: {program} import FOLDER suite=… model=… [architecture=NAME] [zoo_filter.KEY=VALUE …]
                                 [fisher=batch_hard|batch_loss] [training.…]

Put the models of a zoo of the paper's released code (its local_zoo_dir: DATASET/ARCHITECTURE/TIME/) into this zoo, as
the members that jobs with these overrides look for; seeds are those of model_config.json. zoo_filter. and architecture=
choose among them. Gram matrices are brought too, and with fisher=, which says how it was computed, Fisher information.
What cannot be read or does not fit is listed, and the exit code is then 1.

Example:
  {program} import old_zoo suite=emotion model=roberta_base architecture=roberta-base fidelity=published
  regmean-lab run experiment=emotion_pairwise model=roberta_base method=regmean fidelity=published

docs/checkpoints.md has more."""


def main(arguments: Sequence[str], program: str) -> int:
    """Run the command; see :func:`regmean_lab.zoo.cli.main`."""
    own = {ADD: (add, ADD_HELP), IMPORT: (import_zoo, IMPORT_HELP)}
    if not arguments or arguments[0] not in own:
        return cli.main(arguments, program)
    run, page = own[arguments[0]]
    given = list(arguments[1:])
    if not given or any(argument in ("-h", "--help") for argument in given):
        print(page.format(program=program))
        return 0
    return run(given)


def completions(finished: Sequence[str], unfinished: str) -> list[str]:
    """What may come after the words of a command line, for shells that complete."""
    if not finished:
        return [*cli.completions(finished, unfinished), ADD, IMPORT]
    own = {
        ADD: ["corpus=", "suite=", "model=", "seed=", "base="],
        IMPORT: ["suite=", "model=", "architecture=", FILTER, "fisher="],
    }
    return own.get(finished[0]) or cli.completions(finished, unfinished)


def add(arguments: Sequence[str]) -> int:
    """Add a checkpoint to the zoo.

    Returns:
        The exit code: 0 if it is there, 2 if something is wrong, which is said.
    """
    given, checkpoints, overrides = _divided(arguments, ("corpus=", "base="))
    problems = []
    if len(checkpoints) != 1:
        problems.append(f"expected one checkpoint, got {', '.join(checkpoints) or 'none'}")
    if not given.get("corpus"):
        problems.append("corpus: required, but not given: the corpus of the suite that the checkpoint was trained on")

    def work(settings: Any, model: Any) -> list[str]:
        from regmean_lab.checkpoints.adding import add_member

        print(add_member(settings, model, checkpoints[0], given.get("base")).path)
        return []

    chosen = [*overrides, f"members=[{given.get('corpus', '')}]", "method=individual"]
    return _with_settings(chosen, problems, work)


def import_zoo(arguments: Sequence[str]) -> int:
    """Import a zoo of the released code.

    Returns:
        The exit code: 0 if all of it is there, 1 if something was not imported, 2 if nothing can be; it is said.
    """
    given, folders, overrides = _divided(arguments, ("architecture=", "fisher=", FILTER))
    problems = [] if len(folders) == 1 else [f"expected one folder, got {', '.join(folders) or 'none'}"]
    wanted = {
        key.removeprefix(FILTER): OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]  # type: ignore[index,call-overload]
        for key, value in given.items()
        if key.startswith(FILTER)
    }
    not_imported: list[str] = []

    def work(settings: Any, model: Any) -> list[str]:
        from regmean_lab.checkpoints.importing import import_released
        from regmean_lab.checkpoints.released_zoo import find_released, fisher_problem

        fisher = given.get("fisher")
        if (problem := fisher_problem(fisher)) is not None:
            return [problem]
        models, found = find_released(Path(folders[0]).expanduser(), wanted, given.get("architecture"))
        if not models:
            return found
        entries, others = import_released(settings, model, models, fisher)
        for entry in entries:
            print(entry.path)
        not_imported.extend([*found, *others])
        return []

    status = _with_settings([*overrides, "method=individual"], problems, work)
    for problem in not_imported:
        print(f"not imported: {problem}", file=sys.stderr)
    return status or int(bool(not_imported))


def _divided(arguments: Sequence[str], keys: tuple[str, ...]) -> tuple[dict[str, str], list[str], list[str]]:
    """Settings of the command itself by key, words without a key, and overrides of the configuration."""
    own = [argument for argument in arguments if argument.startswith(keys)]
    given = dict(argument.split("=", 1) for argument in own if "=" in argument)
    words = [argument for argument in arguments if "=" not in argument]
    return given, words, [argument for argument in arguments if "=" in argument and argument not in own]


def _with_settings(overrides: list[str], problems: list[str], work: Callable[[Any, Any], list[str]]) -> int:
    """Check a configuration and work with it; everything that is wrong is told.

    Args:
        overrides: what makes the configuration.
        problems: what is wrong already.
        work: takes checked settings and the pretrained model, and returns what is wrong.
    """
    register_plugin_options()
    register_resolvers()
    problems = problems or override_problems(overrides, multirun=False)
    if not problems:
        from regmean_lab.evaluation.checks import check  # imports torch
        from regmean_lab.utils.quiet import quiet_libraries

        quiet_libraries()
        with composing():
            config = composition(CONFIG_NAME, overrides)
        try:
            settings, model = check(config)
            settings.suite.prepare(settings.corpora)
            problems = work(settings, model)
        except UserError as error:
            problems = str(error).splitlines()
    for problem in together(problems):
        print(f"error: {problem}", file=sys.stderr)
    return 2 if problems else 0
