"""The command line."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.families import BY_NAME, FAMILIES, ON_GPU
from benchmarks.figure import Figure, Setting
from benchmarks.measure import use_processor_time
from benchmarks.report import Taken, table, write_report

RESULTS = {"cpu": Path("benchmarks/RESULTS.md"), "cuda": Path("benchmarks/RESULTS-GPU.md")}

GPU_SECONDS = 540
"""The time that `make bench-gpu` should take."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status: 1 if something failed (a missed goal is no failure)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [family for family in options.families if family not in FAMILIES]:
        parser.error(f"no family {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("device cuda: there is no CUDA GPU here", file=sys.stderr)
        return 2
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.processor_time:
        use_processor_time()
    setting = Setting(
        device,
        options.repeats,
        options.sentences,
        options.pico,
        Path(options.data),
        options.emotion_data or _with_emotions(Path(options.data)),
        options.merge_parameters,
        options.scratch,
    )
    _quiet()
    output = options.output or RESULTS[device.type]
    found: dict[str, list[Figure]] = {}
    failures: dict[str, str] = {}
    taken: dict[str, Taken] = {}
    usual = ON_GPU if setting.on_gpu else [family for family in FAMILIES if family not in BY_NAME]
    for family in options.families or usual:
        begun = Taken.now()
        try:
            found[family] = FAMILIES[family](setting)
        except Exception as error:  # the other families are still worth having
            failures[family] = f"{type(error).__name__}: {error}"
            logging.exception("%s failed", family)
        taken[family] = Taken.now() - begun
        if family in found:
            print(f"\n{family} ({taken[family].seconds:.0f} s)\n", *table(found[family]), sep="\n", flush=True)
        # After each family, so that a run that is interrupted leaves what it has measured.
        write_report(output, found, failures, setting, taken)
    print(f"\nwritten to {output}")
    if setting.on_gpu:
        total = sum(part.seconds for part in taken.values())
        print(f"{total:.0f} s of the {GPU_SECONDS} s that all families may take on a GPU")
    return 1 if failures else 0


def _with_emotions(data: Path) -> Path | None:
    return data if (data / "emotion_splits" / "tec").is_dir() else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "families",
        nargs="*",
        metavar="family",
        help=f"of {', '.join(FAMILIES)}; by default all but {', '.join(BY_NAME)}",
    )
    parser.add_argument("--device", choices=sorted(RESULTS), default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=384, help="of the main workload (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of the processor; by default PyTorch's choice")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="gram, fisher and merge: seconds of the processor, for a machine with other work; best with --threads 1",
    )
    parser.add_argument("--data", default="data", help="folder of the sentiment data (default: %(default)s)")
    parser.add_argument(
        "--emotion-data",
        type=Path,
        help="folder that holds emotion_splits, to measure with it as well; by default that of --data, if it does",
    )
    parser.add_argument(
        "--merge-parameters",
        type=int,
        default=50_000_000,
        help="of the checkpoints that merge-memory (three), peers (three) and blocks (one) write, 2 bytes each "
        "(default: %(default)s)",
    )
    parser.add_argument("--scratch", type=Path, help="folder for those checkpoints; by default the system's")
    parser.add_argument("--output", type=Path, help="the page that is written")
    parser.add_argument("--pico", action="store_true", help="tiny models: does it run at all?")
    return parser


def _quiet() -> None:
    """Without the advice of libraries about toy runs."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
