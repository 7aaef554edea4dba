from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from regmean_lab.prepare import PrepareError, Request
from regmean_lab.prepare.glue import GluePreparer
from regmean_lab.suites import glue_data
from regmean_lab.suites.base import Example
from regmean_lab.suites.corpora import CorpusSettings
from regmean_lab.suites.glue import GlueSuite
from regmean_lab.suites.glue_data import TASKS

DATA = os.environ.get("REGMEAN_LAB_TEST_DATA")

PAIR_HEADER = "index\tsentence1\tsentence2\tlabel\n"
STSB_HEADER = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
STSB = "0\tmain\tMSRvid\t2012\t0001\tnone\tnone\t"
MNLI_HEADER = "index\tpromptID\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
MNLI_DEV_HEADER = "index\tpromptID\tsentence1_parse\tsentence1\tsentence2\tlabel1\tlabel2\tgold_label\n"
QQP_HEADER = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
MSR_HEADER = "\N{BYTE ORDER MARK}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
FILES = {
    "CoLA/train.tsv": 'gj04\t1\t\tHe said "so.\nbc01\t0\t*\tThem went.\n',
    "CoLA/dev.tsv": "gj04\t1\t\tI go.\n",
    "SST-2/train.tsv": "sentence\tlabel\nhide new secretions \t0\na fine film\t1\n",
    "SST-2/dev.tsv": 'sentence\tlabel\n"quoted\t1\n',
    "MRPC/train.tsv": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t11\t12\ta\tb\n",
    "MRPC/dev.tsv": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t13\t14\tc\td\n",
    "STS-B/train.tsv": STSB_HEADER + STSB + "A plane.\tAn air plane.\t5.000\n",
    "STS-B/dev.tsv": STSB_HEADER + STSB + "x\ty\t0.8\n",
    "MNLI/train.tsv": MNLI_HEADER + "0\t1n\t( ( a ) )\tp\th\tneutral\tcontradiction\n",
    "MNLI/dev_matched.tsv": MNLI_DEV_HEADER + "0\t1n\t()\tp2\th2\tneutral\tneutral\tentailment\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tI.\tentailment\n1\tWhat?\tThat.\tnot_entailment\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhen?\tNow.\tentailment\n",
    "QQP/train.tsv": QQP_HEADER + "1\t2\t3\tq\tr\t0\n4\t5\t6\tbroken\nin two\tr\t1\n7\t8\t9\ts\tt\t1\n",
    "QQP/dev.tsv": QQP_HEADER + "1\t2\t3\tu\tv\t0\n",
    "RTE/train.tsv": PAIR_HEADER + "0\tp\th\tnot_entailment\n",
    "RTE/dev.tsv": PAIR_HEADER + "0\tp\th\tentailment\n",
    "WNLI/train.tsv": PAIR_HEADER + "0\tp\th\t1\n",
    "WNLI/dev.tsv": PAIR_HEADER + "0\tp\th\t0\n",
}
EXPECTED = {
    "cola": ([Example('He said "so.', 1), Example("Them went.", 0)], [Example("I go.", 1)]),
    "sst2": ([Example("hide new secretions ", 0), Example("a fine film", 1)], [Example('"quoted', 1)]),
    "mrpc": ([Example("a", 1, "b")], [Example("c", 0, "d")]),
    "stsb": ([Example("A plane.", 5.0, "An air plane.")], [Example("x", 0.8, "y")]),
    "mnli": ([Example("p", 2, "h")], [Example("p2", 0, "h2")]),
    "qnli": ([Example("Who?", 0, "I."), Example("What?", 1, "That.")], [Example("When?", 0, "Now.")]),
    "qqp": ([Example("q", 0, "r"), Example("s", 1, "t")], [Example("u", 0, "v")]),
    "rte": ([Example("p", 1, "h")], [Example("p", 0, "h")]),
    "wnli": ([Example("p", 1, "h")], [Example("p", 0, "h")]),
}


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    folder = tmp_path / "glue_data"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def prepare(tmp_path: Path, source: Path | None, force: bool = False) -> None:
    GluePreparer().prepare(Request(tmp_path / "data", source=source, force=force))


def read(tmp_path: Path, task: str, file: str = "train") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "data" / "glue" / task / f"{file}.jsonl").read_text().splitlines()]


def test_the_suite_reads_what_is_written(tmp_path: Path, tables: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prepare(tmp_path, tables)
    suite = GlueSuite(tmp_path / "data", CorpusSettings())
    assert set(EXPECTED) == set(TASKS)
    for task, (train, validation) in EXPECTED.items():
        assert suite.missing([task]) == []
        assert suite.examples(task, "train") == train
        assert suite.examples(task, "test") == validation
    assert read(tmp_path, "mnli", "validation_matched") == [{"idx": 0, "premise": "p2", "hypothesis": "h2", "label": 0}]
    assert read(tmp_path, "qnli")[1] == {"idx": 1, "question": "What?", "sentence": "That.", "label": 1}
    assert read(tmp_path, "sst2")[0] == {"idx": 0, "sentence": "hide new secretions ", "label": 0}
    assert caplog.messages == [f"qqp: 2 broken lines of {tables / 'QQP' / 'train.tsv'} left out"]
    assert "ICLR 2019" in (tmp_path / "data" / "glue" / "NOTICE.txt").read_text()


def test_a_folder_with_some_tasks(tmp_path: Path, tables: Path) -> None:
    some = tmp_path / "some"
    some.mkdir()
    (tables / "RTE").rename(some / "rte")
    prepare(tmp_path, some)
    assert [path.name for path in (tmp_path / "data" / "glue").iterdir() if path.is_dir()] == ["rte"]


def msr(tables: Path) -> Path:
    for path in (tables / "MRPC").iterdir():
        path.unlink()
    rows = "".join(f"{n % 2}\t{n}\t{n}0\tleft {n}\tright {n}\n" for n in range(1, 5))
    (tables / "MRPC" / "msr_paraphrase_train.txt").write_text(MSR_HEADER + rows, newline="\r\n")
    (tables / "MRPC" / "msr_paraphrase_test.txt").write_text(MSR_HEADER + '1\t7\t8\ttest "left\tright\n')
    return tables / "MRPC"


def test_microsofts_files_with_glues_dev_ids(tmp_path: Path, tables: Path) -> None:
    (msr(tables) / "dev_ids.tsv").write_text("4\t40\n2\t20\n1\t20\n")
    prepare(tmp_path, tables)
    assert [row["sentence1"] for row in read(tmp_path, "mrpc")] == ["left 1", "left 3"]
    assert read(tmp_path, "mrpc", "validation") == [
        {"idx": 0, "sentence1": "left 2", "sentence2": "right 2", "label": 0},
        {"idx": 1, "sentence1": "left 4", "sentence2": "right 4", "label": 0},
    ]


def test_microsofts_files_alone(tmp_path: Path, tables: Path, caplog: pytest.LogCaptureFixture) -> None:
    msr(tables)
    prepare(tmp_path, tables)
    assert len(read(tmp_path, "mrpc")) == 4
    assert read(tmp_path, "mrpc", "validation") == [
        {"idx": 0, "sentence1": 'test "left', "sentence2": "right", "label": 1}
    ]
    assert (
        "mrpc: without dev_ids.tsv the validation split is Microsoft's test set (1 pairs), not GLUE's"
        in caplog.messages
    )


def test_dev_ids_of_other_pairs(tmp_path: Path, tables: Path) -> None:
    (msr(tables) / "mrpc_dev_ids.tsv").write_text("5\t50\n")
    with pytest.raises(PrepareError, match=r"mrpc_dev_ids\.tsv: names none or all of the pairs"):
        prepare(tmp_path, tables)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "RTE/train.tsv",
            "index\tsentence1\tlabel\n0\tp\t1\n",
            ":1: there is no column sentence2; the columns are index, s",
        ),
        ("RTE/dev.tsv", PAIR_HEADER + "\n0\tp\th\n", ":3: expected 4 columns, separated by tabs; found 3"),
        ("RTE/dev.tsv", PAIR_HEADER, ": holds no example"),
        ("RTE/dev.tsv", PAIR_HEADER + "\n0\tp\th\tmaybe\n", ':3: "label" must be one of 0 \\(entailment\\), 1'),
        ("STS-B/dev.tsv", STSB_HEADER + STSB + "x\ty\t5.1\n", ':2: "label" must be a number from 0 to 5, found 5.1'),
        ("CoLA/dev.tsv", "a\t1\tb\n", ":1: expected 4 columns"),
        ("MRPC/train.tsv", "Quality\n1\n", ":1: there is no column #1 String, #2 String;"),
    ],
)
def test_malformed_tables(tmp_path: Path, tables: Path, name: str, text: str, message: str) -> None:
    (tables / name).write_text(text)
    with pytest.raises(PrepareError, match=f"{tables / name}{message}"):
        prepare(tmp_path, tables)
    # The other tasks are written all the same.
    assert len(list((tmp_path / "data" / "glue").glob("*/train.jsonl"))) == 8


def test_missing_files(tmp_path: Path, tables: Path) -> None:
    (tables / "MNLI" / "dev_matched.tsv").unlink()
    (tables / "MRPC" / "dev.tsv").unlink()
    (tables / "WNLI" / "train.tsv").unlink()
    (tables / "WNLI" / "dev.tsv").unlink()
    with pytest.raises(PrepareError) as caught:
        prepare(tmp_path, tables)
    assert sorted(str(caught.value).splitlines()) == [
        f"mnli: {tables}/MNLI has no dev_matched.tsv",
        f"mrpc: {tables}/MRPC has no dev.tsv (or msr_paraphrase_train.txt and msr_paraphrase_test.txt)",
        f"wnli: {tables}/WNLI has no train.tsv and no dev.tsv",
    ]
    with pytest.raises(
        PrepareError, match=r"holds none of GLUE's folders; expected some of CoLA/\{train\.tsv,dev\.tsv\}"
    ):
        prepare(tmp_path, tables / "RTE")
    with pytest.raises(PrepareError, match="is a file; expected the folder"):
        prepare(tmp_path, tables / "RTE" / "dev.tsv")


def test_files_that_are_there_stay(tmp_path: Path, tables: Path) -> None:
    prepare(tmp_path, tables)
    (tables / "RTE" / "train.tsv").write_text(PAIR_HEADER + "0\tnew\th\tentailment\n")
    prepare(tmp_path, tables)
    assert read(tmp_path, "rte")[0]["sentence1"] == "p"
    prepare(tmp_path, tables, force=True)
    assert read(tmp_path, "rte")[0]["sentence1"] == "new"


def test_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, configuration: str, split: str) -> Dataset:
        asked.append((name, configuration, split))
        task = TASKS[configuration]
        label = 2.5 if task.is_regression else 1
        texts = {column: [f"{column} {number}" for number in range(2)] for column in task.columns}
        return Dataset.from_dict({**texts, "label": [label, label], "idx": [8, 9]})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr(glue_data, "hub_problem", lambda name: None)
    monkeypatch.setattr(glue_data, "_unreachable", lambda: None)
    prepare(tmp_path, None)
    validation = {task: "validation_matched" if task == "mnli" else "validation" for task in TASKS}
    assert asked == [("nyu-mll/glue", task, split) for task in TASKS for split in ("train", validation[task])]
    suite = GlueSuite(tmp_path / "data", CorpusSettings())
    for task in TASKS:
        first, second = suite.examples(task, "train")
        assert first.text == f"{TASKS[task].columns[0]} 0" and second.text.endswith(" 1")
    assert read(tmp_path, "stsb")[1] == {"idx": 1, "sentence1": "sentence1 1", "sentence2": "sentence2 1", "label": 2.5}
    assert read(tmp_path, "cola") == [{"idx": n, "sentence": f"sentence {n}", "label": 1} for n in range(2)]


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glue_data, "hub_problem", lambda name: None if name == "rte" else "no network")
    with pytest.raises(PrepareError) as caught:
        prepare(tmp_path, None)
    assert str(caught.value).splitlines() == [
        "cola, sst2, mrpc, stsb, mnli, qnli, qqp, wnli of nyu-mll/glue: no network",
        "Run this where there is a network, or give from= a folder of GLUE's tables (SST-2/train.tsv, SST-2/dev.tsv, "
        "…)",
    ]
    assert not (tmp_path / "data").exists()


def test_a_download_that_fails(tmp_path: Path, tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tables / "RTE" / "dev.tsv").unlink()
    with pytest.raises(PrepareError, match="rte"):
        prepare(tmp_path, tables)  # all but RTE is there now

    def load_dataset(name: str, configuration: str, split: str) -> Dataset:
        raise ConnectionError("the line was cut")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr(glue_data, "hub_problem", lambda name: None)
    monkeypatch.setattr(glue_data, "_unreachable", lambda: None)
    with pytest.raises(PrepareError, match=r"^rte: nyu-mll/glue did not bring it: the line was cut$"):
        prepare(tmp_path, None)


@pytest.mark.skipif(DATA is None, reason="REGMEAN_LAB_TEST_DATA names no data")
@pytest.mark.parametrize("task", ["rte", "stsb"])
def test_real_rows_come_back(tmp_path: Path, task: str) -> None:
    assert DATA is not None
    names = {"rte": ("RTE", PAIR_HEADER, "0\t"), "stsb": ("STS-B", STSB_HEADER, STSB)}
    folder, header, begin = names[task]
    real = {split: (Path(DATA) / "glue" / task / f"{split}.jsonl").read_text() for split in ("train", "validation")}
    (tmp_path / "from" / folder).mkdir(parents=True)
    for split, file in (("train", "train.tsv"), ("validation", "dev.tsv")):
        rows = [json.loads(line) for line in real[split].splitlines()]
        text = "".join(f"{begin}{row['sentence1']}\t{row['sentence2']}\t{row['label']}\n" for row in rows)
        (tmp_path / "from" / folder / file).write_text(header + text)
    prepare(tmp_path, tmp_path / "from")
    for split, text in real.items():
        assert read(tmp_path, task, split) == [json.loads(line) for line in text.splitlines()]
