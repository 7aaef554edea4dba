"""Conversations, a column of messages: each a role and what it says, as chat models are trained on them."""

from __future__ import annotations

import json
from typing import Any

MESSAGES = "messages"
"""The obvious name of their column."""

ROLE, CONTENT = "role", "content"
_EXPECTED = f"a list of messages, each with {ROLE} and {CONTENT}"


def written_conversation(value: Any, name: str) -> str | None:
    """A conversation as JSON, every key of its messages in its order; None of what is a text.

    Args:
        value: of a row: a list of messages, or in a column called ``messages`` such a list as JSON.
        name: the column, for messages.

    Raises:
        ValueError: for a list that is no conversation, saying why.
    """
    if isinstance(value, str):
        if name.strip().casefold() != MESSAGES or not value.lstrip().startswith("["):
            return None
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{name}: expected {_EXPECTED}, found no JSON ({error})") from None
    if not isinstance(value, list | tuple):
        return None
    if not value:
        raise ValueError(f"{name}: expected {_EXPECTED}, found none")
    for number, message in enumerate(value, 1):
        if problem := _problem(message):
            raise ValueError(f"{name}: message {number}: {problem}")
    return json.dumps(list(value), ensure_ascii=False)


def contents(value: Any) -> list[str]:
    """What the messages of a conversation say, where they say anything."""
    messages = json.loads(value) if isinstance(value, str) else value
    said = [message.get(CONTENT) if isinstance(message, dict) else message for message in messages]
    return [part for content in said for part in _texts(content)]


def _texts(content: Any) -> list[str]:
    """The texts of a content: itself, or its parts."""
    if isinstance(content, str):
        return [content]
    return [str(part["text"]) for part in content or () if isinstance(part, dict) and "text" in part]


def _problem(message: Any) -> str | None:
    if not isinstance(message, dict):
        return f"expected {ROLE} and {CONTENT}, found {message!r:.60}"
    if not isinstance(message.get(ROLE), str):
        keys = ", ".join(map(str, message)) or "nothing"
        return f"expected {ROLE} (system, user or assistant) and {CONTENT}, found {keys:.60}"
    content = message.get(CONTENT)
    if isinstance(content, str) or (content is None and message.get("tool_calls")):
        return None
    if isinstance(content, list):
        strange = [part for part in content if not (isinstance(part, dict) and isinstance(part.get("text"), str))]
        return f"{CONTENT}: only texts are read, found {strange[0]!r:.60}" if strange else None
    return f"{CONTENT}: expected a text, found {content!r:.60}"
