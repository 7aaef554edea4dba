"""``method=greedy_soup``: members join the mean if that does not lower the score on dev."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from regmean_lab import experiment
from regmean_lab.config.schema import ConfigurationError, settings_of
from regmean_lab.zoo import Zoo

MEMBERS = ("tweets", "movie", "amazon", "nyt")


@pytest.mark.parametrize("seed", [1, 2])
def test_is_the_soup_that_a_loop_over_transformers_models_finds(
    seed: int, made_up_sentiment: Path, compose_job: Callable[..., DictConfig], tmp_path: Path
) -> None:
    overrides = [
        *("suite=sentiment", "model=pico_bert", "method=greedy_soup", "save_merged=true", f"seed={seed}"),
        *("trainer=cpu", "trainer.progress_bar=false", "logger=none", "training.epochs=2"),
        *(f"paths.data_dir={made_up_sentiment}", f"paths.zoo_dir={tmp_path / 'zoo'}", "training.learning_rate=1e-3"),
    ]
    config = compose_job(*overrides)
    result, _ = experiment.run(config, tmp_path / "job", overrides)
    suite, zoo = settings_of(config).suite, Zoo(tmp_path / "zoo")
    folders = {member: zoo.find(result.zoo[member]).path for member in MEMBERS}
    states = {member: load_file(folder / "model.safetensors") for member, folder in folders.items()}
    model = AutoModelForSequenceClassification.from_pretrained(folders["tweets"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders["tweets"])

    def scores(members: Sequence[str], split: str) -> dict[str, float]:
        soup = {name: sum(states[one][name].double() for one in members) / len(members) for name in states["tweets"]}
        model.load_state_dict({name: value.float() for name, value in soup.items()})
        found = {}
        for corpus in MEMBERS:
            examples = suite.examples(corpus, split)
            with torch.no_grad():
                inputs = tokenizer([one.text for one in examples], padding=True, return_tensors="pt")
                predicted = model(**inputs).logits.argmax(-1).tolist()
            found[corpus] = 100 * float(f1_score([one.label for one in examples], predicted, average="macro"))
        return found

    def on_dev(members: Sequence[str]) -> float:
        return round(sum(scores(members, "dev").values()) / len(MEMBERS), 3)  # rounded: equal scores are equal

    order = sorted(MEMBERS, key=lambda member: -on_dev([member]))
    chosen = order[:1]
    for member in order[1:]:
        if on_dev([*chosen, member]) >= on_dev(chosen):
            chosen.append(member)
    assert result.notes[0].startswith(f"greedy soup of {', '.join(chosen)}: {on_dev(chosen):.2f} on dev; ")
    assert result.scores["in_domain"] == pytest.approx(scores(chosen, "test"), abs=1e-3)
    merged = load_file(tmp_path / "job" / "merged" / "model.safetensors")
    name = "classifier.weight"
    torch.testing.assert_close(merged[name], torch.stack([states[one][name] for one in chosen]).mean(0))


def test_needs_members_that_share_their_heads(compose_job: Callable[..., DictConfig]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings_of(compose_job("suite=glue", "model=pico_bert", "method=greedy_soup", "members=[rte,mrpc]"))
    assert caught.value.problems == [
        "method: greedy_soup needs members with the same labels; every member of suite glue has its own"
    ]
