"""Tokenizers in folders of checkpoints: their files, and their vocabularies.

A vocabulary that transformers has read is kept between processes (``kept_structures.py``), as its import takes longer
than a small merge.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regmean_lab.checkpoints.kept_structures import keep, kept, structure_key
from regmean_lab.models.folders import GENERATION_CONFIG_FILE, check_tokenizer_files
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pretrained import TOKENIZER_FILES, quiet_transformers
from regmean_lab.utils.files import file_sha256
from regmean_lab.utils.installed import installed_version

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MORE_TOKENIZER_FILES = (
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    GENERATION_CONFIG_FILE,
    "*.spm",
    "*.bpe",
    "*.codes",
    "*.tiktoken",
    "*.vocab",
    "*_vocab.json",
    "spiece.*",
)
"""What goes with a tokenizer beside :data:`~regmean_lab.models.pretrained.TOKENIZER_FILES`."""

BACKENDS = ("tokenizers", "sentencepiece", "tiktoken", "protobuf")
"""Libraries with which transformers reads tokenizers."""

NOT_READ = (".bin", ".ckpt", ".gguf", ".h5", ".md", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors")
"""Endings of files that no tokenizer is read from: weights, and the card."""


def tokenizer_files(folder: Path) -> list[Path]:
    """Files of the tokenizer in a folder."""
    return sorted({path for pattern in (*TOKENIZER_FILES, *MORE_TOKENIZER_FILES) for path in folder.glob(pattern)})


def read_tokens(folders: list[Path]) -> tuple[dict[str, int] | None, Path | None]:
    """The vocabulary of the first folder that has a tokenizer, and that folder.

    Raises:
        CheckpointError: when it cannot be read.
    """
    for folder in folders:
        if any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
            files = tokenizer_files(folder)
            check_tokenizer_files(folder, files)
            return _vocabulary(folder, files), folder
    return None, None


def tokenizer_in(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; without a padding token it pads with the token that ends a text."""
    tokenizer = _loaded(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _beside(folder: Path) -> list[Path]:
    """All other files of a folder that may say what its tokenizer is: some classes read files of their own names."""
    return [path for path in folder.iterdir() if path.is_file() and path.suffix not in NOT_READ]


def _vocabulary(folder: Path, files: list[Path]) -> dict[str, int]:
    contents = {path.relative_to(folder).as_posix(): file_sha256(path) for path in {*files, *_beside(folder)}}
    backends = {name: installed_version(name) for name in BACKENDS}
    key = structure_key({"tokenizer": contents, "backends": backends})
    try:
        return _read_vocabulary(str(folder), key)
    except Exception as error:  # whatever a tokenizer's class raises for files that make no sense
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError([f"{folder}: its tokenizer cannot be loaded ({reason[:300]})"]) from None


@lru_cache(maxsize=64)
def _read_vocabulary(folder: str, key: str) -> dict[str, int]:
    """The vocabulary of a folder's tokenizer; the key is there so that changed files are read again."""
    if (before := (kept(key) or {}).get("vocabulary")) is not None and _is_vocabulary(before):
        return dict(before)
    vocabulary = dict(_loaded(Path(folder)).get_vocab())
    if _is_vocabulary(vocabulary):
        keep(key, {"vocabulary": vocabulary})
    return vocabulary


def _is_vocabulary(content: Any) -> bool:
    """Whether it is a mapping from tokens to their ids, so that JSON tells it."""
    return isinstance(content, dict) and all(
        isinstance(token, str) and type(id_) is int for token, id_ in content.items()
    )


def _loaded(folder: Path) -> PreTrainedTokenizerBase:
    with quiet_transformers() as transformers:
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    return tokenizer
