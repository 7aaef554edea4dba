from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import pytest

from regmean_lab.suites.base import SPLITS, DataError, MissingDataError, Split, Suite
from regmean_lab.suites.conll import LABELS, TokenExample
from regmean_lab.suites.emotion import EmotionSettings
from regmean_lab.suites.entity_suite import EntitySettings, EntitySuite
from regmean_lab.suites.ner import NerSettings, NerSuite
from regmean_lab.suites.ner_open import OpenNerSettings, OpenNerSuite
from regmean_lab.utils.later_settings import without_later_settings

DATA = os.environ.get("REGMEAN_LAB_TEST_DATA")
COUNTS = {
    "wikigold": (1187, 169, 340),
    "btc_a": (700, 100, 200),
    "btc_b": (1400, 200, 400),
    "btc_g": (1496, 214, 428),
    "wnut17": (3394, 1009, 1287),
}
NAMES: dict[Split, str] = {"train": "train", "dev": "development", "test": "test"}
FILES = {
    **{
        (genre, split): f"ner/ontonotes/onto.{NAMES[split]}.{genre}.ner"
        for genre in ("bc", "bn", "mz", "nw", "tc", "wb")
        for split in SPLITS
    },
    **{("conll2003", split): f"ner/conll2003/{split}.conll" for split in SPLITS},
    **{
        ("twitter", split): f"ner/twitter/annotated.twitter-ner-20-21-tweet-{split}-withcleaned.json"
        for split in SPLITS
    },
}
SIZES: dict[Split, int] = {"train": 5, "dev": 3, "test": 4}


def ner(data_dir: Path, **settings: object) -> NerSuite:
    return NerSuite(data_dir, NerSettings(**settings))  # type: ignore[arg-type]


def open_ner(data_dir: Path, **settings: int) -> OpenNerSuite:
    return OpenNerSuite(data_dir, EntitySettings(**settings))


def sentence(corpus: str, split: str, number: int) -> TokenExample:
    return TokenExample((corpus, split, str(number)), ("B-ORG", "I-ORG", "O"))


def write(data_dir: Path, name: str, corpus: str, split: str, count: int) -> None:
    examples = [sentence(corpus, split, number) for number in range(count)]
    if name.endswith(".json"):
        lines = [json.dumps({"tokens": example.tokens, "labels": example.tags}) for example in examples]
    else:
        rows = [zip(example.tokens, example.tags, strict=True) for example in examples]
        lines = ["".join(f"{token} {tag} x\n" for token, tag in pairs) for pairs in rows]
    path = data_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    for (corpus, split), name in FILES.items():
        write(tmp_path, name, corpus, split, SIZES[split])
    for corpus in COUNTS:
        for split in SPLITS:
            write(tmp_path, f"ner_open/{corpus}/{split}.conll", corpus, split, SIZES[split])
    return tmp_path


def test_members_in_the_published_order() -> None:
    assert NerSuite.reference_order == ("bc", "mz", "tc", "nw", "bn", "wb")
    assert OpenNerSuite.reference_order == tuple(COUNTS)


@pytest.mark.parametrize("corpus", ["bc", "mz", "tc", "nw", "bn", "wb", "conll2003", "twitter"])
def test_files_of_the_published_layout(data_dir: Path, corpus: str) -> None:
    suite = ner(data_dir)
    for split in SPLITS:
        expected = [sentence(corpus, split, number) for number in range(SIZES[split])]
        assert suite.examples(corpus, split) == expected
    assert suite.out_of_domain_examples(corpus) == suite.examples(corpus, "test")


def test_files_of_the_open_suite(data_dir: Path) -> None:
    for corpus in COUNTS:
        for split in SPLITS:
            assert open_ner(data_dir).examples(corpus, split)[-1] == sentence(corpus, split, SIZES[split] - 1)


@pytest.mark.parametrize("suite_type", [NerSuite, OpenNerSuite])
def test_all_corpora_share_one_task(tmp_path: Path, suite_type: type[EntitySuite]) -> None:
    suite = suite_type(tmp_path, suite_type.settings_type())
    (task,) = {suite.task(corpus) for corpus in suite.candidates}
    assert (task.kind, task.labels, task.key_score) == ("token_labels", LABELS, "entity_f1")
    assert suite.annotated_labels(suite.members[0]) == (True,) * 7


def test_out_of_domain_of_the_published_suite(tmp_path: Path) -> None:
    assert ner(tmp_path).out_of_domain(["bc", "mz"]) == ("conll2003", "twitter")
    assert ner(tmp_path).out_of_domain(["bc", "twitter"]) == ("conll2003",)
    assert ner(tmp_path, out_of_domain=["wb", "conll2003"]).out_of_domain(["bc", "wb"]) == ("conll2003",)
    assert ner(tmp_path, out_of_domain=[]).out_of_domain(["bc", "wb"]) == ()
    with_others = ner(tmp_path, out_of_domain=["twitter", "nw"], include_other_members=True)
    assert with_others.out_of_domain(["bc", "wb"]) == ("twitter", "nw", "mz", "tc", "bn")


def test_out_of_domain_of_the_open_suite(tmp_path: Path) -> None:
    assert open_ner(tmp_path).out_of_domain(["btc_a", "wikigold"]) == ("btc_b", "btc_g", "wnut17")
    assert open_ner(tmp_path).out_of_domain(tuple(COUNTS)) == ()


def test_corpora_that_can_be_members(tmp_path: Path) -> None:
    suite = ner(tmp_path)
    assert suite.members == NerSuite.reference_order
    assert suite.member_problems(["conll2003", "bc", "twitter"]) == []
    assert [suite.member_number(name) for name in ("bc", "wb", "conll2003", "twitter")] == [0, 5, 6, 7]
    assert suite.member_problems(["bc", "conll"]) == [
        "members: conll is a name of the paper's released code; in suite ner it stands for conll2003: "
        "members=[bc,conll2003] (docs/from_the_release.md)",
    ]
    assert suite.member_problems(["bc", "conl2003"]) == [
        "members: suite ner has no 'conl2003'; did you mean conll2003?",
    ]


@pytest.mark.parametrize("name", ["ner", "ner_open"])
def test_any_folder_of_the_layout_is_a_corpus(data_dir: Path, name: str) -> None:
    """Beside the known ones, in alphabetical order; what was fetched, and hidden folders, are none."""
    for corpus in ("zulu", "court"):
        for split in SPLITS:
            write(data_dir, f"{name}/{corpus}/{split}.conll", corpus, split, SIZES[split])
    for folder in ("ner_open/upstream", "ner/ontonotes", f"{name}/.cache"):
        (data_dir / folder).mkdir(parents=True, exist_ok=True)
    suite = {"ner": ner, "ner_open": open_ner}[name](data_dir)
    known = len(suite.candidates) - 2
    assert suite.candidates[known:] == ("court", "zulu")
    assert suite.member_number("zulu") == known + 1
    assert suite.members == suite.reference_order
    assert suite.member_problems(["court", suite.members[0]]) == []
    assert suite.missing(["court"]) == []
    assert suite.examples("court", "dev") == [sentence("court", "dev", number) for number in range(SIZES["dev"])]
    assert "court" not in suite.out_of_domain(suite.members[:2])
    assert suite.fingerprint("court") != suite.fingerprint("zulu")


def test_a_corpus_of_another_name_out_of_domain(data_dir: Path) -> None:
    write(data_dir, "ner_open/court/test.conll", "court", "test", 4)
    suite = OpenNerSuite(data_dir, OpenNerSettings(out_of_domain=["court", "btc_a"]))
    assert suite.problems() == []
    assert suite.out_of_domain(["btc_a", "btc_b"]) == ("court",)
    (message,) = suite.missing(["court"])
    assert "court/train.conll" in message and "court/dev.conll" in message and "court/test.conll" not in message
    assert "regmean_lab.prepare" not in message  # which does not bring it
    (wrong,) = OpenNerSuite(data_dir, OpenNerSettings(out_of_domain=["cuort"])).problems()
    assert wrong.startswith("out_of_domain: no corpus cuort (did you mean court?); there are wikigold, btc_a")
    assert wrong.endswith(f"court, and any other folder in {data_dir}/ner_open")
    (member,) = suite.member_problems(["nothing like it", "court"])
    assert f"there are wikigold, btc_a, btc_b, btc_g, wnut17, court, and any other folder in {data_dir}" in member


def test_other_members_out_of_domain_are_a_setting_that_0_1_had_for_emotion_alone() -> None:
    for settings, name, kept in ((NerSettings(), "ner", False), (EmotionSettings(), "emotion", True)):
        hashed = without_later_settings({"suite": {"name": name, **asdict(settings)}})["suite"]
        assert ("include_other_members" in hashed) is kept
    chosen = {"suite": {"name": "ner", **asdict(NerSettings(include_other_members=True))}}
    assert without_later_settings(chosen)["suite"]["include_other_members"] is True


def test_the_default_corpora_out_of_domain_are_those_of_0_1() -> None:
    assert without_later_settings({"suite": asdict(OpenNerSettings())}) == {
        "suite": {"train_examples": None, "dev_examples": None, "test_examples": None, "sample_seed": 0}
    }


def test_limits_choose_the_same_sentences_again(data_dir: Path) -> None:
    everything = open_ner(data_dir).examples("btc_a", "train")
    limited = open_ner(data_dir, train_examples=3).examples("btc_a", "train")
    assert len(limited) == 3
    assert limited == [example for example in everything if example in limited]
    assert limited == open_ner(data_dir, train_examples=3).examples("btc_a", "train")
    chosen = {tuple(open_ner(data_dir, train_examples=3, sample_seed=n).examples("btc_a", "train")) for n in range(9)}
    assert len(chosen) > 1
    suite = open_ner(data_dir, dev_examples=1, test_examples=2)
    assert [len(suite.examples("btc_a", split)) for split in SPLITS] == [5, 1, 2]
    assert len(suite.out_of_domain_examples("wnut17")) == 2


def test_wrong_settings_are_all_named(tmp_path: Path) -> None:
    problems = ner(tmp_path, train_examples=0, test_examples=-1, out_of_domain=["bc", "bc", "mnli"]).problems()
    assert [problem.partition(":")[0] for problem in problems] == [
        "train_examples",
        "test_examples",
        "out_of_domain",
        "out_of_domain",
    ]
    assert "no corpus mnli; there are bc, mz, tc, nw, bn, wb, conll2003, twitter" in problems[2]
    assert "more than once" in problems[3]
    assert ner(tmp_path).problems() == open_ner(tmp_path).problems() == []


def test_missing_files_are_all_named(data_dir: Path) -> None:
    for name in ("ner/ontonotes/onto.development.bc.ner", FILES["twitter", "test"]):
        (data_dir / name).unlink()
    assert ner(data_dir).missing(["mz", "conll2003"]) == []
    genre, tweets = ner(data_dir).missing(["bc", "mz", "twitter"])
    assert f"{data_dir}/ner/ontonotes/onto.development.bc.ner of corpus bc is not there" in genre
    assert "out_of_domain" not in genre
    assert FILES["twitter", "test"] in tweets
    assert "left out of suite.out_of_domain" in tweets
    (data_dir / "ner_open/btc_a/dev.conll").unlink()
    (open_corpus,) = open_ner(data_dir).missing(["btc_a", "btc_b"])
    assert f"{data_dir}/ner_open/btc_a/dev.conll" in open_corpus
    assert f"python -m regmean_lab.prepare suite=ner_open data_dir={data_dir}" in open_corpus
    assert "paths.data_dir" in open_corpus
    with pytest.raises(MissingDataError, match=r"btc_a/dev\.conll"):
        open_ner(data_dir).examples("btc_a", "dev")


def test_unknown_corpus(data_dir: Path) -> None:
    suites: list[Suite] = [ner(data_dir), open_ner(data_dir)]
    for suite in suites:
        with pytest.raises(DataError, match=f"{suite.name}: unknown corpus 'conll'"):
            suite.examples("conll", "train")


def test_fingerprint_follows_what_determines_a_member(data_dir: Path) -> None:
    base = open_ner(data_dir).fingerprint("btc_a")
    assert base == open_ner(data_dir, test_examples=1).fingerprint("btc_a")
    others = [
        open_ner(data_dir).fingerprint("btc_b"),
        open_ner(data_dir, train_examples=3).fingerprint("btc_a"),
        open_ner(data_dir, dev_examples=3).fingerprint("btc_a"),
        open_ner(data_dir, train_examples=3, sample_seed=1).fingerprint("btc_a"),
    ]
    write(data_dir, "ner_open/btc_a/train.conll", "btc_a", "train", 6)
    others.append(open_ner(data_dir).fingerprint("btc_a"))
    assert len({base, *others}) == 6


def entities_of(example: TokenExample) -> Counter[str]:
    """Entities by type, for tags without an ``I-`` that continues nothing."""
    return Counter(tag[2:] for tag in example.tags if tag.startswith("B-"))


@pytest.mark.skipif(DATA is None, reason="REGMEAN_LAB_TEST_DATA does not name a folder of real data")
@pytest.mark.parametrize("corpus", list(COUNTS))
def test_counts_of_the_real_data(corpus: str) -> None:
    assert DATA is not None
    suite = open_ner(Path(DATA))
    assert tuple(len(suite.examples(corpus, split)) for split in SPLITS) == COUNTS[corpus]
    for split in SPLITS:
        # Counted a second time without the reader: words and begun entities, line by line.
        text = (Path(DATA) / "ner_open" / corpus / f"{split}.conll").read_text(encoding="utf-8")
        lines = [line.split(" ") for line in text.split("\n")]
        examples = suite.examples(corpus, split)
        assert sum(len(example.tokens) for example in examples) == sum(len(line) == 3 for line in lines)
        begun = Counter(line[1][2:] for line in lines if len(line) == 3 and line[1].startswith("B-"))
        assert sum((entities_of(example) for example in examples), Counter()) == begun
        assert set(begun) == {"PER", "LOC", "ORG"}
        sentences = sum(1 for blank, _ in groupby(len(line) < 3 for line in lines) if not blank)
        assert len(examples) == sentences
