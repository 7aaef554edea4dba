"""Pico models: tiny, randomly initialised models with real tokenizers, for tests and for trying a configuration."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from regmean_lab.utils.files import new_folder

VOCABULARY = 384
POSITIONS = 514
SENTINELS = ["<extra_id_0>", "<extra_id_1>"]

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


def _t5(vocabulary: int) -> PreTrainedConfig:
    like_version_1_1: dict[str, Any] = {"tie_word_embeddings": False, "decoder_start_token_id": 0}
    return T5Config(
        vocab_size=vocabulary,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        **like_version_1_1,
    )


def _gpt2(vocabulary: int) -> PreTrainedConfig:
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=POSITIONS,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )


def _untied_t5(config: T5Config) -> PreTrainedModel:
    """T5 with an output layer of its own, as version 1.1 has it; a new model always begins with a tied one."""
    model = T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) / math.sqrt(config.d_model))
    return model


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
    """Pieces are the text's characters and its most frequent words: the library's trainer varies from run to run."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    splitter = pre_tokenizers.BertPreTokenizer()
    words = Counter(word for word, _ in splitter.pre_tokenize_str(TEXT.lower()))
    characters = sorted(set("".join(words)))
    frequent = sorted(set(words) - set(characters), key=lambda word: (-words[word], word))
    pieces = [*special, *characters, *(f"##{character}" for character in characters), *frequent][:VOCABULARY]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
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


def _unigram() -> PreTrainedTokenizerFast:
    """Pieces are the text's words, with a log-probability from their counts, and its characters, which cost more."""
    special = ["<pad>", "</s>", "<unk>", *SENTINELS]
    text = " ".join([*TEXT.splitlines(), "does the sentence express it? yes no"])
    words = Counter(piece for piece, _ in pre_tokenizers.Metaspace().pre_tokenize_str(text))
    pieces = [(name, 0.0) for name in special]
    pieces += [(piece, math.log(count / words.total())) for piece, count in sorted(words.items())]
    pieces += [(character, -20.0) for character in sorted(set("".join(words)) - set(words))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index("<unk>")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=SENTINELS,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


def _byte_pairs_without_padding() -> PreTrainedTokenizerFast:
    """Byte pairs as GPT-2 has them: a single special token, and none for padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXT.splitlines(), " yes no" * 20], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


class Architecture(NamedTuple):
    """How a pico model is made: its tokenizer, its configuration for a size of vocabulary, and the model from that."""

    tokenizer: Callable[[], PreTrainedTokenizerFast]
    config: Callable[[int], PreTrainedConfig]
    model: Callable[[Any], PreTrainedModel] = AutoModel.from_config


ARCHITECTURES = {
    "bert": Architecture(_word_piece, _bert),
    "roberta": Architecture(_byte_pairs, _roberta),
    "distilbert": Architecture(_word_piece, _distilbert),
    "deberta_v2": Architecture(_word_piece, _deberta_v2),
    "t5": Architecture(_unigram, _t5, _untied_t5),
    "gpt2": Architecture(_byte_pairs_without_padding, _gpt2, GPT2LMHeadModel),
}
"""All pico models by name."""


def write_pico_model(architecture: str, folder: Path) -> None:
    """Make a pico model, always with the same weights, and write it as a new folder.

    Args:
        architecture: one of ``ARCHITECTURES``.
        folder: where to; it must not be there yet.
    """
    make = ARCHITECTURES[architecture]
    tokenizer = make.tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make.model(make.config(len(tokenizer)))
    with new_folder(folder, "a generated model") as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
