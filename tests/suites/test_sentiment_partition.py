from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from regmean_lab.suites.sentiment import DOMAINS, Domain
from regmean_lab.suites.sentiment_partition import SentimentPartitionSettings, SentimentPartitionSuite
from regmean_lab.utils.files import file_sha256

LINES = 400
CLEAR = 0.5


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A domain of sentences that are alternately negative, positive and unclear."""
    path = tmp_path / "sentiment" / "movie.tsv"
    path.parent.mkdir()
    ratings = (-2.0, 2.0, 0.1)
    path.write_text("".join(f"{number}\t{ratings[number % 3]}\tsentence {number}\n" for number in range(LINES)))
    monkeypatch.setitem(DOMAINS, "movie", Domain("movie.txt", file_sha256(path), has_documents=False))
    return tmp_path


def suite(data_dir: Path, **settings: object) -> SentimentPartitionSuite:
    return SentimentPartitionSuite(data_dir, SentimentPartitionSettings(examples=100, **settings))  # type: ignore[arg-type]


def labels(suite: SentimentPartitionSuite, member: str) -> Counter[int]:
    return Counter(int(example.label) for example in suite.examples(member, "train"))  # type: ignore[arg-type]


def test_parts_share_nothing_and_are_all_that_is_drawn(data_dir: Path) -> None:
    own = suite(data_dir)
    texts = [{example.text for example in own.examples(member, "train")} for member in own.members]
    assert not texts[0] & texts[1]
    assert len(texts[0] | texts[1]) == 100


def test_one_label_is_mostly_in_the_first_part_and_the_other_in_the_second(data_dir: Path) -> None:
    own = suite(data_dir, majority_share=0.8)
    first, second = (labels(own, member) for member in own.members)
    shares = sorted(first[label] / (first[label] + second[label]) for label in (0, 1))
    assert shares == [pytest.approx(0.2, abs=0.02), pytest.approx(0.8, abs=0.02)]


def test_iid_parts_are_halves(data_dir: Path) -> None:
    own = suite(data_dir, partition="iid")
    assert [len(own.examples(member, "train")) for member in own.members] == [50, 50]


def test_the_parts_are_limited_after_they_are_made(data_dir: Path) -> None:
    limited, whole = suite(data_dir, train_examples=7), suite(data_dir)
    for member in whole.members:
        assert len(limited.examples(member, "train")) == 7
        assert set(limited.examples(member, "train")) <= set(whole.examples(member, "train"))


def test_both_parts_have_the_domains_other_splits(data_dir: Path) -> None:
    own = suite(data_dir, dev_examples=5)
    first, second = own.members
    for split in ("dev", "test"):
        assert own.examples(first, split) == own.examples(second, split)  # type: ignore[arg-type]
    assert len(own.examples(first, "dev")) == 5
    assert own.out_of_domain(own.members) == ()


def test_fingerprints_tell_parts_and_settings_apart(data_dir: Path) -> None:
    own = suite(data_dir)
    prints = {own.fingerprint(member) for member in own.members}
    for changed in ({"partition": "iid"}, {"partition_seed": 2}, {"majority_share": 0.7}, {"train_examples": 9}):
        prints.add(suite(data_dir, **changed).fingerprint("partition_0"))
    assert len(prints) == 6
    assert suite(data_dir, test_examples=3).fingerprint("partition_0") == own.fingerprint("partition_0")


def test_all_wrong_settings_are_told_at_once() -> None:
    settings = SentimentPartitionSettings(
        domain="film", partition="odd", examples=1, majority_share=2.0, out_of_domain=["nyt"], dev_examples=0
    )
    found = SentimentPartitionSuite(Path(), settings).problems()
    keys = {problem.partition(":")[0] for problem in found}
    assert keys == {"domain", "partition", "examples", "majority_share", "out_of_domain", "dev_examples"}


def test_a_domain_that_is_not_there_yet_is_not_missing_because_it_can_be_brought(tmp_path: Path) -> None:
    own = suite(tmp_path, domain="nyt")
    assert own.missing(own.members) == []
