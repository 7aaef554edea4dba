"""GLUE: from the Hugging Face hub, or from the tables that the user has."""

from __future__ import annotations

import json
import logging
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from regmean_lab.prepare.base import PrepareError, Preparer, Request, register_preparer, run_all
from regmean_lab.prepare.glue_tables import TABLES, Row, TableRows, read_task, task_folders
from regmean_lab.prepare.writing import wanted, write_notice, write_together
from regmean_lab.suites import glue_data
from regmean_lab.suites.base import MissingDataError
from regmean_lab.suites.glue_data import HUB_NAME, SPLITS, TASKS, GlueData, GlueSplit

_logger = logging.getLogger(__name__)


@register_preparer("glue")
class GluePreparer(Preparer):
    """The nine tasks, training and validation splits; the labels of the test splits are not public."""

    suites = ("glue", "glue_partition")
    options = ("from",)
    needs = f"a network ({HUB_NAME} on the Hugging Face hub), or from= a folder of GLUE's tables (SST-2/train.tsv, …)"
    arguments = "suite=glue"
    notice = """\
GLUE: nine tasks, each with terms of its own; some are for research only (https://gluebenchmark.com/tasks). Cite GLUE
and the tasks that you use:
  A. Wang, A. Singh, J. Michael, F. Hill, O. Levy, S. R. Bowman. GLUE: A Multi-Task Benchmark and Analysis Platform for
    Natural Language Understanding. ICLR 2019.
  cola: Warstadt, Singh, Bowman 2019.  sst2: Socher et al. 2013.  mrpc: Dolan, Brockett 2005.  stsb: Cer et al. 2017.
  qqp: Iyer, Dandekar, Csernai 2017.  mnli: Williams, Nangia, Bowman 2018.  qnli: Rajpurkar et al. 2016.
  rte: Dagan et al. 2006, Bar-Haim et al. 2006, Giampiccolo et al. 2007, Bentivogli et al. 2009.
  wnli: Levesque, Davis, Morgenstern 2011.
"""

    def files(self, data_dir: Path) -> dict[str, tuple[Path, ...]]:
        """``glue/<task>/{train,validation}.jsonl``; of mnli, ``validation_matched.jsonl``."""
        return {
            name: tuple(data_dir / "glue" / name / f"{task.split_name(split)}.jsonl" for split in SPLITS)
            for name, task in TASKS.items()
        }

    def prepare(self, request: Request) -> None:
        """Write the tasks: of a folder, those that lie in it; from the hub, all."""
        folders = None if request.source is None else _folders(request.source)
        paths = self.files(request.data_dir)
        to_do: list[str] = []

        def check(name: str) -> None:
            if wanted(name, paths[name], TASKS[name].read, request.force):
                to_do.append(name)

        run_all({name: partial(check, name) for name in (TASKS if folders is None else folders)})
        if folders is None:
            _require_hub(to_do)
        else:
            others = [name for name in TASKS if name not in folders]
            if others:
                _logger.info("glue: %s has no folder for %s", request.source, ", ".join(others))

        with tqdm(total=len(to_do), desc="glue", unit="task", disable=None) as bar:

            def convert(name: str) -> None:
                rows = _from_hub(name) if folders is None else read_task(name, folders[name])
                self._write(name, rows, paths[name], request)
                bar.update()

            run_all({name: partial(convert, name) for name in to_do})

    def _write(self, name: str, rows: TableRows, paths: Sequence[Path], request: Request) -> None:
        for remark in rows.remarks:
            _logger.warning("%s: %s", name, remark)
        write_together({path: _lines(part) for path, part in zip(paths, (rows.train, rows.validation), strict=True)})
        write_notice(
            request.data_dir / "glue",
            self.notice,
            f"one JSON object a line, rows and values as in {HUB_NAME} or in GLUE's tables; idx counts rows.",
        )
        counts = f"{len(rows.train)} / {len(rows.validation)}"
        _logger.info("%s: %s rows (train / validation) in %s", name, counts, paths[0].parent)


def _folders(source: Path) -> dict[str, Path]:
    """The tasks' folders in what the user has."""
    if not source.is_dir():
        raise PrepareError(f"from={source} is a file; expected the folder that holds SST-2, RTE and so on")
    if found := task_folders(source):
        return found
    expected = ", ".join(f"{table.folder}/{{train.tsv,{table.validation}}}" for table in TABLES.values())
    raise PrepareError(f"{source} holds none of GLUE's folders; expected some of {expected}")


def _require_hub(names: Sequence[str]) -> None:
    """Refuse at once if the hub's tasks cannot be had."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if (problem := glue_data.hub_problem(name)) is not None:
            reasons[problem].append(name)
    if reasons:
        messages = [f"{', '.join(tasks)} of {HUB_NAME}: {problem}" for problem, tasks in reasons.items()]
        raise PrepareError(
            "\n".join(messages) + "\nRun this where there is a network, or give from= a folder of GLUE's tables "
            "(SST-2/train.tsv, SST-2/dev.tsv, …)"
        )


def _from_hub(name: str) -> TableRows:
    # A folder without files makes GlueData ask the hub.
    with tempfile.TemporaryDirectory() as empty:
        data = GlueData(Path(empty))
        try:
            return TableRows(_hub_rows(data, name, "train"), _hub_rows(data, name, "validation"))
        except MissingDataError as error:
            raise PrepareError(f"{HUB_NAME} did not bring it: {error.__cause__ or error}") from error


def _hub_rows(data: GlueData, name: str, split: GlueSplit) -> list[Row]:
    columns = TASKS[name].columns
    return [
        {"idx": number, **dict(zip(columns, (example.text, example.text_pair), strict=False)), "label": example.label}
        for number, example in enumerate(data.examples(name, split))
    ]


def _lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
