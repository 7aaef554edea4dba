"""What is read of a fine-tuned model of any origin before any of it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from regmean_lab.models.pretrained import Checkpoint, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


def read_checkpoint(checkpoint: Checkpoint) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Configuration and tokenizer of a checkpoint.

    Raises:
        ModelError: when they cannot be read, or need code of their own, which is never run.
    """
    try:
        return checkpoint.config(), checkpoint.tokenizer()
    except (OSError, ValueError, KeyError, AttributeError) as error:  # what transformers raises for them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"checkpoint: configuration or tokenizer of {checkpoint.source} cannot be used: {reason}"
        ) from None


def is_local(checkpoint: str) -> bool:
    """Whether a checkpoint is a local folder: what is measured can be written beside it."""
    return Path(checkpoint).expanduser().is_dir()
