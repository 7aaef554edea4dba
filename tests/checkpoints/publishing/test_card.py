from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regmean_lab.checkpoints.publishing.card import BEGIN, END, insert_section, write_cards
from regmean_lab.statistics import FisherStatistics, GramStatistics, StatisticsError, save_fisher, save_gram

FRONT = "---\nlicense: mit\ntags: [x]\n---\n"
GRAM = GramStatistics(
    {"q": torch.eye(4), "head": torch.eye(2)}, {"q": "q", "k": "q", "head": "head"}, {"q": 90, "head": 10}, 10, 2
)
COLLECTED = {
    "model": {},
    "versions": {"torch": "2.13"},
    "command": "python -m regmean_lab experiment=collect_statistics checkpoint=mine data=x.txt",
    "exclude_layers": ["*.pooler"],
    "widths": {"q": 4, "head": 2},
}


@pytest.mark.parametrize("card", ["", FRONT, f"{FRONT}\n# Mine\n\nText.\n", "# No line end", "# Two\n\n"])
def test_a_section_is_added_after_all_else_and_replaced_in_place(card: str) -> None:
    once = insert_section(card, "## One\n")
    assert once.startswith(card)
    assert once.endswith(f"{BEGIN}\n## One\n{END}\n")
    more = f"{once}\nAfter.\n"
    again = insert_section(more, "## Two\n\nmore\n")
    assert again == more.replace("## One\n", "## Two\n\nmore\n")
    assert insert_section(again, "## One\n") == more


@pytest.mark.parametrize(
    "broken", [BEGIN, END, f"{END}\n{BEGIN}\n", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{BEGIN}{END}"]
)
def test_broken_markers_are_left_alone(broken: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        insert_section(broken, "text\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_gram(
        tmp_path / "statistics" / "gram.safetensors",
        GRAM,
        {
            "settings": {"examples": 16000, "seed": 0, "count_padding": False, "text": ["a", "b"]},
            "collected": COLLECTED,
        },
        form="low_rank",
        rank=1,
    )
    return tmp_path


def test_the_card_tells_what_was_measured_and_how_to_merge(folder: Path) -> None:
    (folder / "README.md").write_text(f"{FRONT}\n# Mine\n", encoding="utf-8")
    own, card = write_cards(folder, "mine")
    assert (own, card) == (folder / "statistics" / "README.md", folder / "README.md")
    text = card.read_text(encoding="utf-8")
    assert text.startswith("---\nlicense: mit\ntags: [x, regmean-statistics]\n---\n\n# Mine\n")
    size = (folder / "statistics" / "gram.safetensors").stat().st_size
    for part in (
        f"RegMean; 3 layers | exact diagonals, off-diagonal entries of rank 1 | 10 | 10 to 90 | {size} |",
        "examples 16000, seed 0, count_padding no, text a+b",
        "was made by `python -m regmean_lab experiment=collect_statistics checkpoint=mine data=x.txt` (torch 2.13)",
        "    python -m regmean_lab experiment=merge_checkpoints checkpoints=[mine,OTHER] method=regmean\n",
        "method.exclude_layers=[*.pooler]",
        "here at least 5 rows for each column",
    ):
        assert part in text, part
    assert "Fisher" not in text
    alone = own.read_text(encoding="utf-8")
    assert alone.startswith("# Statistics for merging\n")
    assert BEGIN not in alone


def test_kinds_share_one_section(folder: Path) -> None:
    write_cards(folder, "mine")
    fisher = FisherStatistics({"w": torch.ones(3)}, {"w": "w"}, 5, 5, "true", "categorical")
    save_fisher(folder / "statistics" / "fisher.safetensors", fisher, {})
    _, card = write_cards(folder, "mine")
    text = card.read_text(encoding="utf-8")
    assert text.startswith("---\ntags:\n- regmean-statistics\n---\n\n# mine\n\n<!--")
    assert text.count(BEGIN) == text.count("method=regmean") == text.count("method=fisher\n") == 1
    assert "vocabulary of the examples" in text


def test_line_ends_and_all_other_bytes_are_kept(folder: Path) -> None:
    before = "\ufeff---\r\nlicense: mit\r\n---\r\n\r\n# Größe\r\n".encode()
    (folder / "README.md").write_bytes(before)
    for _ in range(2):
        write_cards(folder, "mine")
        after = (folder / "README.md").read_bytes()
        assert after.replace(b"tags:\r\n- regmean-statistics\r\n", b"", 1).startswith(before)
        assert b"\n" not in after.replace(b"\r\n", b"")
        assert after.count(BEGIN.encode()) == 1


def test_the_models_own_card_can_be_left_alone(folder: Path) -> None:
    assert write_cards(folder, "mine", both=False) == [folder / "statistics" / "README.md"]
    assert not (folder / "README.md").exists()


def test_a_card_with_broken_markers_is_named_and_kept(folder: Path) -> None:
    (folder / "README.md").write_text(f"# Mine\n{BEGIN}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md: expected"):
        write_cards(folder, "mine")
    assert (folder / "README.md").read_text(encoding="utf-8") == f"# Mine\n{BEGIN}\n"


def test_a_damaged_file_is_told(folder: Path) -> None:
    (folder / "statistics" / "gram.safetensors").write_bytes(b"")
    with pytest.raises(StatisticsError, match="not a readable safetensors file"):
        write_cards(folder, "mine")
