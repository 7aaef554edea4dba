"""Tokenizers read from ``tokenizer.json`` without transformers, to count the tokens of texts.

transformers makes some of its tokenizers anew from a file's vocabulary. So only those are read here of which it takes
the file as it is, and BERT's where the file says what transformers would make of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from regmean_lab.models.folders import read_json_file
from regmean_lab.models.headers import CheckpointError

TOKENIZER_FILE, TOKENIZER_CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
AS_IT_IS = ("TokenizersBackend", "PreTrainedTokenizerFast")
BERT = ("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast")
"""Classes of tokenizers, as ``tokenizer_config.json`` names them."""

NOT_PLAIN = ("add_bos_token", "add_eos_token", "auto_map", "chat_template", "split_special_tokens")
"""Settings by which a tokenizer does something else than its file says; ``false`` and ``null`` change nothing."""

NO_LIMIT = int(1e30)
"""What transformers has for a tokenizer whose configuration gives no longest input."""


class Encoded(dict[str, Any]):
    """What a tokenizer makes of texts: lists by name, and of each text the words that its tokens come from."""

    def __init__(self, encodings: Sequence[Encoding], *, single: bool) -> None:
        columns: dict[str, list[Any]] = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "offset_mapping": [encoding.offsets for encoding in encodings],
        }
        super().__init__({name: column[0] if single else column for name, column in columns.items()})
        self._encodings = encodings

    def word_ids(self, index: int) -> list[int | None]:
        """For each token of a text the number of its word, or None of a special one."""
        words: list[int | None] = self._encodings[index].word_ids
        return words


class PlainTokenizer:
    """As much of a tokenizer of transformers as the encodings of :mod:`regmean_lab.suites` use.

    Args:
        tokenizer: the tokenizer of the file.
        config: what ``tokenizer_config.json`` says.
    """

    is_fast = True
    chat_template = None

    def __init__(self, tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self.model_max_length = int(config.get("model_max_length") or NO_LIMIT)
        self.unk_token, eos = _token(config.get("unk_token")), _token(config.get("eos_token"))
        self.eos_token_id = None if eos is None else tokenizer.token_to_id(eos)

    def __call__(
        self,
        text: Any = None,
        text_pair: Sequence[str] | None = None,
        *,
        text_target: Any = None,
        truncation: bool = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        is_split_into_words: bool = False,
        **_: Any,
    ) -> Encoded:
        """Tokenise a text, or several, as transformers' tokenizers do; what concerns output alone is not looked at."""
        texts = text if text_target is None else text_target
        single = isinstance(texts, str)
        self._tokenizer.no_padding()
        if truncation and max_length is not None:
            self._tokenizer.enable_truncation(max_length)  # of a pair the longer text first
        else:
            self._tokenizer.no_truncation()
        batch = [texts] if single else list(texts)
        if text_pair is not None:
            batch = list(zip(batch, text_pair, strict=True))
        encodings = self._tokenizer.encode_batch(
            batch, is_pretokenized=is_split_into_words, add_special_tokens=add_special_tokens
        )
        return Encoded(encodings, single=single)

    def num_special_tokens_to_add(self) -> int:
        """Number of special tokens in one text."""
        number: int = self._tokenizer.num_special_tokens_to_add(False)
        return number

    def get_vocab(self) -> dict[str, int]:
        """All tokens, with their ids."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary


def plain_tokenizer(folder: Path) -> PlainTokenizer | None:
    """The tokenizer of a folder; None where transformers may make another one of it."""
    try:
        config = read_json_file(folder / TOKENIZER_CONFIG_FILE)
        file = read_json_file(folder / TOKENIZER_FILE)
    except CheckpointError:
        return None
    own_class = config.get("tokenizer_class")
    if own_class not in AS_IT_IS and not (own_class in BERT and _is_bert(file, config)):
        return None
    if any(config.get(name) for name in NOT_PLAIN) or list(folder.glob("chat_template*")):
        return None
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    except Exception:  # tokenizers raises no other; transformers then says what is wrong
        return None
    named = [_token(value) for name, value in config.items() if name.endswith("_token")]
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    if not isinstance(extra, list):
        return None
    listed = (config.get("added_tokens_decoder") or {}).values()
    special = [token for token in [*named, *map(_token, [*extra, *listed])] if token is not None]
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    return PlainTokenizer(tokenizer, config) if added.issuperset(special) else None


def _is_bert(file: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a file has the parts that transformers makes of BERT's settings."""
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
        "strip_accents": config.get("strip_accents"),
        "lowercase": config.get("do_lower_case", True),
    }
    model = file.get("model") or {}
    return (
        file.get("normalizer") == normalizer
        and file.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
        and model.get("type", "WordPiece") == "WordPiece"
        and model.get("continuing_subword_prefix", "##") == "##"
        and model.get("max_input_chars_per_word", 100) == 100
        and model.get("unk_token") == _token(config.get("unk_token", "[UNK]"))
    )


def _token(value: Any) -> str | None:
    """A token as a configuration has it, by itself or with how it is treated."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None
