"""Values of labels."""

from __future__ import annotations

IGNORED = -100
"""The label of what is not annotated: it has no part in a loss, likelihood or metric (PyTorch's ``ignore_index``)."""
