"""``regmean-lab zoo``: what the zoo's own command does, and ``add``, which needs a job's configuration."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from regmean_lab.command.overrides import override_problems
from regmean_lab.config.grids import CONFIG_NAME, composing, composition
from regmean_lab.config.resolvers import register_resolvers
from regmean_lab.config.schema import register_schemas
from regmean_lab.utils.errors import UserError
from regmean_lab.zoo import cli

ADD = "add"
HELP = """\
Usage: {program} add CHECKPOINT corpus=NAME [suite=… model=… seed=… training.…] [base=FOLDER_OR_NAME]

Put a fine-tuned model into the zoo as the member that jobs with these overrides look for: they find it and train none.
CHECKPOINT is a folder, a model of the hub or a folder of a LoRA adapter. Labels are matched by name; architecture and
tokens must be those of model=.

Example:
  {program} add my-tweets-model suite=sentiment corpus=tweets model=roberta_base seed=1
  regmean-lab run suite=sentiment members=[tweets,nyt] model=roberta_base seed=1 method=regmean

docs/checkpoints.md has more."""


def main(arguments: Sequence[str], program: str) -> int:
    """Run the command; see :func:`regmean_lab.zoo.cli.main`."""
    if list(arguments[:1]) == [ADD]:
        return add(list(arguments[1:]), program)
    return cli.main(arguments, program)


def completions(finished: Sequence[str], unfinished: str) -> list[str]:
    """What may come after the words of a command line, for shells that complete."""
    if not finished:
        return [*cli.completions(finished, unfinished), ADD]
    return (
        ["corpus=", "suite=", "model=", "seed=", "base="]
        if finished[0] == ADD
        else cli.completions(finished, unfinished)
    )


def add(arguments: list[str], program: str) -> int:
    """Add a checkpoint to the zoo.

    Returns:
        The exit code: 0 if it is there, 2 if something is wrong, which is said.
    """
    if not arguments or any(argument in ("-h", "--help") for argument in arguments):
        print(HELP.format(program=program))
        return 0
    given = dict(argument.split("=", 1) for argument in arguments if argument.startswith(("corpus=", "base=")))
    checkpoints = [argument for argument in arguments if "=" not in argument]
    overrides = [one for one in arguments if "=" in one and not one.startswith(("corpus=", "base="))]
    problems = []
    if len(checkpoints) != 1:
        problems.append(f"expected one checkpoint, got {', '.join(checkpoints) or 'none'}")
    if not given.get("corpus"):
        problems.append("corpus: required, but not given: the corpus of the suite that the checkpoint was trained on")
    overrides += [f"members=[{given.get('corpus', '')}]", "method=individual"]
    register_schemas()
    register_resolvers()
    problems = problems or override_problems(overrides, multirun=False)
    if not problems:
        from regmean_lab.checkpoints.adding import add_member  # imports torch
        from regmean_lab.evaluation.checks import check
        from regmean_lab.utils.quiet import quiet_libraries

        quiet_libraries()
        with composing():
            config = composition(CONFIG_NAME, overrides)
        try:
            settings, model = check(config)
            settings.suite.prepare(settings.corpora)
            print(add_member(settings, model, checkpoints[0], given.get("base")).path)
        except UserError as error:
            problems = str(error).splitlines()
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if problems else 0
