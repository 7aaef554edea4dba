from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d", "e", "f", "g", "h"]


def build_tokenizer(inputs: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are single letters between [CLS] (1) and [SEP] (2); "a" has id 4."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_input_names=inputs,
    )


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(["input_ids", "token_type_ids", "attention_mask"])


@pytest.fixture
def tokenizer_without_types() -> PreTrainedTokenizerFast:
    return build_tokenizer(["input_ids", "attention_mask"])
