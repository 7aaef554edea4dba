"""Members that were drawn at random instead of trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from regmean_lab.callbacks.merge import MemberSource
from regmean_lab.config.groups import ModelConfig
from regmean_lab.evaluation.scores import load_module
from regmean_lab.models.find import find_checkpoint
from regmean_lab.models.pretrained import Checkpoint
from regmean_lab.modules import TaskModule, module_type
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.emotion import EmotionSettings, EmotionSuite
from regmean_lab.zoo import Zoo, ZooEntry


@dataclass
class Member:
    """A member, and the data it would have been trained on."""

    corpus: str
    entry: ZooEntry
    checkpoint: Checkpoint
    suite: EmotionSuite
    data: CorpusDataModule

    @property
    def fingerprint(self) -> str:
        return self.suite.fingerprint(self.corpus)

    def load(self) -> TaskModule:
        return load_module(self.entry.path, self.suite.task(self.corpus))

    def source(self) -> MemberSource:
        return MemberSource(
            self.corpus,
            self.entry,
            self.fingerprint,
            self.suite.annotated_labels(self.corpus),
            self.load,
            partial(self.data.statistics_dataloader, self.corpus),
        )


def draw_members(data_dir: Path, zoo: Zoo, pico_cache: Path) -> list[Member]:
    """Two pico members of the emotion suite."""
    suite = EmotionSuite(data_dir, EmotionSettings(out_of_domain=["emoint"]))
    checkpoint = find_checkpoint(ModelConfig("pico_bert", "pico:bert"), pico_cache)
    tokenizer = checkpoint.tokenizer()
    data = CorpusDataModule(suite, tokenizer, batch_size=16, eval_batch_size=16, max_length=32, seed=0)
    task = suite.task("tec")

    def draw(seed: int, folder: Path) -> dict[str, str]:
        torch.manual_seed(seed)
        module_class = module_type(task)
        model = module_class.new_model(checkpoint, task)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        module_class(model, task).save(folder)
        tokenizer.save_pretrained(folder)
        return {}

    return [
        Member(corpus, zoo.find_or_train({"corpus": corpus}, corpus, partial(draw, seed))[0], checkpoint, suite, data)
        for seed, corpus in enumerate(("tec", "isear"))
    ]
