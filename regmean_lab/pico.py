"""Pico models: tiny, randomly initialised models with real tokenizers, for tests and for trying a configuration."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

VOCABULARY = 384
POSITIONS = 514
VERSION = "1"
"""Changes when the models do, so that a cached folder is never mistaken for the current ones."""

TEXT = """\
The river rose after a week of rain, and the people of the village moved their books and beds upstairs. I was
so happy when the sun came out that I danced in the street. She felt angry because nobody had told her about
the meeting. What a terrible film: two hours of boredom, bad jokes and worse music! He loved the food, but the
service was slow and the room too cold. Are you afraid of the dark? They were surprised to find the old camera
still worked. My brother lost his job and cried all night. Thank you for this wonderful present, it is the
best of all. The company said on Monday that profits fell by 12 percent in 2009. We trust our neighbours, we
hope for better days, and we are ashamed of what was said. This phone is great; the battery lasts three days
and the screen is bright. It is disgusting to see so much waste. New York, London and Paris signed the
agreement with the bank. A critic wrote that the acting never convinces and the story goes nowhere. @friend
check this out :) #happy http://example.org/page Nothing is certain, said the editor, except that the question
will come up again in the next election.
"""


def _bert(vocabulary: int) -> PreTrainedConfig:
    return BertConfig(**_sizes(vocabulary), type_vocab_size=2, pad_token_id=0)


def _roberta(vocabulary: int) -> PreTrainedConfig:
    return RobertaConfig(**_sizes(vocabulary), type_vocab_size=1, bos_token_id=0, pad_token_id=1, eos_token_id=2)


def _distilbert(vocabulary: int) -> PreTrainedConfig:
    return DistilBertConfig(
        vocab_size=vocabulary,
        dim=16,
        hidden_dim=32,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=POSITIONS,
        pad_token_id=0,
    )


def _deberta_v2(vocabulary: int) -> PreTrainedConfig:
    relative: dict[str, Any] = {
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "pooler_hidden_size": 16,
    }
    return DebertaV2Config(**_sizes(vocabulary), **relative, type_vocab_size=0, pad_token_id=0)


def _sizes(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": POSITIONS,
    }


def _word_piece() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    )


def _byte_pairs() -> PreTrainedTokenizerFast:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


ARCHITECTURES: dict[str, tuple[Callable[[], PreTrainedTokenizerFast], Callable[[int], PreTrainedConfig]]] = {
    "bert": (_word_piece, _bert),
    "roberta": (_byte_pairs, _roberta),
    "distilbert": (_word_piece, _distilbert),
    "deberta_v2": (_word_piece, _deberta_v2),
}
"""How the tokenizer and the configuration of each pico model are made."""


def pico_folder(architecture: str, cache_dir: Path) -> Path:
    """Folder of a pico model below ``cache_dir``; made when it is not there yet, always with the same weights.

    Raises:
        KeyError: for an architecture that is not in ``ARCHITECTURES``.
    """
    folder = cache_dir / f"pico-{architecture}-{VERSION}"
    cache_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(str(cache_dir / f".{folder.name}.lock")):
        if folder.is_dir():
            return folder
        make_tokenizer, make_config = ARCHITECTURES[architecture]
        tokenizer = make_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModel.from_config(make_config(len(tokenizer)))
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=cache_dir))
        try:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
