"""A zoo of the paper's released code, for tests: folders as it leaves them, written with torch.save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from given_folders import save_classifier_of
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from regmean_lab.suites.emotion import LABELS


def released(root: Path, dataset: str, time: str, cache: Path, seed: int, **settings: Any) -> dict[str, Tensor]:
    """One model as the released code leaves it: its own class's name, pickled weights, labels without names."""
    folder = root / dataset / "bert-base" / time
    model = save_classifier_of(folder, cache, seed, [f"LABEL_{number}" for number in range(len(LABELS))])
    state = dict(model.state_dict())
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["BertForMultiLabelClassification"], "reweight_loss_schema": "sqrt"}
    (folder / "config.json").write_text(json.dumps(config))
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "vocab.txt").unlink(missing_ok=True)
    (folder / "model_config.json").write_text(json.dumps({"dataset_name": dataset, "seed": seed, **settings}))
    torch.save({"anything": slice(3)}, folder / "training_args.bin")
    return state


def save_statistics(root: Path, dataset: str, time: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gram matrices of all linear layers, and Fisher information, as pickles."""
    folder, grams = root / dataset / "bert-base" / time, {}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder))
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            rows = torch.randn(3 * module.in_features, module.in_features)
            grams[name] = rows.T @ rows / len(rows)
    torch.save({**grams, "meta_info": {"conv1d": []}}, folder / "gram_v0.pkl")
    torch.save({name: torch.rand_like(state[name]) for name, _ in model.named_parameters()}, folder / "fisher_v1.pkl")
    return grams
