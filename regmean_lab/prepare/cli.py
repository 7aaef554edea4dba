"""The command ``regmean-lab prepare``, or ``python -m regmean_lab.prepare``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from regmean_lab.prepare.base import PrepareError, Preparer, Request, preparers
from regmean_lab.prepare.fetch import is_url
from regmean_lab.prepare.listing import COMMAND, show, statuses
from regmean_lab.suites import DataError, suite_types
from regmean_lab.utils.names import did_you_mean
from regmean_lab.utils.plugins import PluginError

DEFAULT_DATA_DIR, DEFAULT_ZOO_DIR = Path("data"), Path("zoo")
KEYS = {
    "suite": "which data to prepare; without it, what is present and what is missing is listed",
    "data_dir": "folder below which the suites' files lie (paths.data_dir of a job; default: data)",
    "from": "file or folder that you have, to be converted",
    "mirror": "folder or base URL with the published files, instead of their publishers' addresses",
    "seed": "determines random splits (default: 0)",
    "force": "true: replace files that are there (default: false)",
    "model": "instead of suite=: a pretrained model (name in group model, name on the hub, or folder): fetched, and "
    "where its weights are pickled only, converted to safetensors",
    "zoo_dir": "with model=: the zoo that keeps converted models, in .models (paths.zoo_dir of a job; default: zoo)",
}
SYNONYMS = {"paths.data_dir": "data_dir", "paths.zoo_dir": "zoo_dir"}
MODEL_KEYS = ("model", "zoo_dir", "force")
HELP_FLAGS = ("-h", "--help")

EXIT_FAILED, EXIT_INTERRUPTED = 2, 130
_WIDTH_OF_FILES = 120
"""Characters in a line of a table that goes to a file or a pipe instead of a terminal."""


@dataclass(frozen=True)
class Call:
    """A checked command line: what to prepare (None: list, or a model), and how."""

    preparer: Preparer | None
    request: Request
    model: str | None = None
    zoo_dir: Path = DEFAULT_ZOO_DIR


def main(arguments: Sequence[str] | None = None, program: str = COMMAND) -> int:
    """Run the command.

    Args:
        arguments: those of the command line unless given.
        program: what the command is called in its help.

    Returns:
        The exit code: 0 if all is well, 2 for wrong arguments, missing sources or malformed data, 130 if interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    known = preparers()
    if any(argument in HELP_FLAGS for argument in given):
        print(help_text(known, program))
        return 0
    call = parse(given, known)
    if isinstance(call, list):
        print("\n".join(["to correct:", *(f"  - {problem}" for problem in call)]), file=sys.stderr)
        return EXIT_FAILED
    data_dir = call.request.data_dir
    try:
        if call.model is not None:
            _prepare_model(call.model, call)
        elif call.preparer is None:
            console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES, highlight=False)
            show(statuses(data_dir, known, suite_types(), DEFAULT_DATA_DIR), data_dir, console)
        else:
            print(call.preparer.notice, flush=True)
            with _messages_printed():
                call.preparer.prepare(call.request)
    except (PrepareError, DataError, PluginError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nInterrupted. No file is half-written; the same command resumes.", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _prepare_model(model: str, call: Call) -> None:
    # These take seconds to import.
    from regmean_lab.models.converted_weights import MODELS_FOLDER
    from regmean_lab.prepare.model import NOTICE, prepare_model

    print(NOTICE, flush=True)
    with _messages_printed():
        print(prepare_model(model, call.zoo_dir / MODELS_FOLDER, call.request.force))


@contextmanager
def _messages_printed() -> Iterator[None]:
    """Have this package's messages printed as they are."""
    logger, handler = logging.getLogger("regmean_lab"), logging.StreamHandler(sys.stdout)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def completions(finished: Sequence[str], unfinished: str) -> list[str]:
    """What may come after the words of a command line, for shells that complete."""
    if unfinished.startswith("suite="):
        return [f"suite={name}" for name in preparers()]
    given = {word.partition("=")[0] for word in finished}
    return [f"{key}=" for key in KEYS if key not in given]


def help_text(known: Mapping[str, Preparer], program: str = COMMAND) -> str:
    """What ``--help`` prints."""
    lines = [f"usage: {program} [KEY=VALUE ...]", "", "Bring data, or convert what you have, into the suites' layouts."]
    lines += ["With model=: have a pretrained model here, with weights as safetensors."]
    lines += ["", "keys:", *(f"  {key + '=':<10} {meaning}" for key, meaning in KEYS.items()), "", "suite= is one of:"]
    for name, preparer in known.items():
        takes = ", ".join(f"{option}=" for option in preparer.options)
        lines += [
            f"  {name:<10} needs {preparer.needs}",
            f"  {'':<10} {'takes ' + takes if takes else 'takes no source'}",
        ]
    lines += [
        "",
        "Licence and citation are shown before anything is downloaded or converted. Files that are there stay.",
    ]
    return "\n".join(lines)


def parse(arguments: Sequence[str], known: Mapping[str, Preparer]) -> Call | list[str]:
    """Check a command line.

    Args:
        arguments: ``key=value`` each.
        known: preparers by name.

    Returns:
        What to do, or everything that is wrong, one message each.
    """
    values: dict[str, str] = {}
    problems: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        key = SYNONYMS.get(key, key)
        if key not in KEYS:
            if not equals and key in known:
                problems.append(f"{argument}: expected KEY=VALUE; did you mean suite={key}?")
            else:
                problems.append(f"{argument}: there is no key {key!r}; {did_you_mean(key, KEYS)}")
        elif not value:
            problems.append(f"{argument}: expected {key}=VALUE")
        elif key in values:
            problems.append(f"{key}= is given more than once")
        else:
            values[key] = value
    preparer = _chosen(values.get("suite"), known, problems)
    _check_options(values, preparer, problems)
    request = Request(
        data_dir=Path(values.get("data_dir", DEFAULT_DATA_DIR)).expanduser(),
        source=_source(values.get("from"), problems),
        mirror=_mirror(values.get("mirror"), problems),
        seed=_seed(values.get("seed", "0"), problems),
        force=_truth(values.get("force", "false"), problems),
    )
    zoo_dir = Path(values.get("zoo_dir", DEFAULT_ZOO_DIR)).expanduser()
    return problems or Call(preparer, request, values.get("model"), zoo_dir)


def _chosen(name: str | None, known: Mapping[str, Preparer], problems: list[str]) -> Preparer | None:
    """The preparer of that name, or the one that a suite of that name reads."""
    if name is None or name in known:
        return None if name is None else known[name]
    names = dict.fromkeys([*known, *(suite for preparer in known.values() for suite in preparer.suites)])
    serving = [preparer for preparer in known.values() if name in preparer.suites]
    if len(serving) == 1:
        return serving[0]
    if serving:
        parts = ", ".join(f"suite={preparer.name}" for preparer in serving)
        problems.append(f"suite={name}: its data is prepared in parts: {parts}")
    else:
        problems.append(f"suite={name}: there is nothing of that name to prepare; {did_you_mean(name, names)}")
    return None


def _check_options(values: Mapping[str, str], preparer: Preparer | None, problems: list[str]) -> None:
    if "model" in values:
        problems += [f"{key}= is not for model=" for key in values if key not in MODEL_KEYS]
        return
    if "zoo_dir" in values:
        problems.append("zoo_dir= needs model= beside it")
    if "suite" not in values:
        problems += [f"{key}= needs suite= beside it" for key in values if key not in ("data_dir", "zoo_dir")]
    if preparer is None:
        return
    takes = ", ".join(f"{option}=" for option in preparer.options) or "no source"
    problems += [
        f"{key}= is not for suite={preparer.name}, which takes {takes}"
        for key in ("from", "mirror", "seed")
        if key in values and key not in preparer.options
    ]


def _source(text: str | None, problems: list[str]) -> Path | None:
    if text is None:
        return None
    path = Path(text).expanduser()
    if not path.exists():
        problems.append(f"from={text}: there is no such file or folder")
    return path


def _mirror(text: str | None, problems: list[str]) -> str | None:
    if text is None or is_url(text):
        return text
    path = Path(text).expanduser()
    if not path.is_dir():
        problems.append(
            f"mirror={text}: expected a folder that is there, or a URL that begins with http:// or https://"
        )
    return str(path)


def _seed(text: str, problems: list[str]) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    problems.append(f"seed={text}: expected a whole number from 0")
    return 0


def _truth(text: str, problems: list[str]) -> bool:
    if text.lower() not in ("true", "false"):
        problems.append(f"force={text}: expected true or false")
    return text.lower() == "true"
