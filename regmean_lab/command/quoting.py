"""Overrides as Hydra's grammar and a shell read them: quoting hints for overrides that fail to parse.

A value may be written without quotes only where it has letters, digits and some punctuation. Folder names often have
other characters (``epoch=9-step=100``, ``run#3``, ``it's``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence

Parses = Callable[[str], bool]
"""Whether Hydra's grammar accepts an override."""


def quoted_override(argument: str, parses: Parses, *, literal: bool = False) -> str | None:
    """A refused override with quotes around those of its values that need them; None where quotes do not help.

    Args:
        argument: the override.
        parses: whether an override is accepted.
        literal: quote ``${`` too, so that it is a name's own and takes no other setting's value.
    """
    key, equals, value = argument.partition("=")
    if not equals or not parses(f"{key}=x") or (value.startswith("[") and not value.endswith("]")):
        return None
    # A list, several values of a sweep, or one value: the first reading with quotes that is accepted.
    alternatives = [_split(value), [value]] if len(_split(value)) > 1 else [[value]]
    for parts in alternatives:
        corrected = f"{key}={','.join(_quoted_value(part, parses, literal) for part in parts)}"
        if corrected != argument and parses(corrected):
            return corrected
    return None


def as_list(key: str, values: Sequence[str]) -> str:
    """An override that sets a list to values which were given without brackets."""
    return f"{key}=[{','.join(values)}]"


def joined(arguments: Sequence[str]) -> dict[int, str]:
    """Lists that a shell has divided at blanks: by the number of the first piece, all pieces in one.

    Args:
        arguments: the command line's.
    """
    found: dict[int, str] = {}
    for number, argument in enumerate(arguments):
        if not re.fullmatch(r"[^=\s]+=\[[^]]*", argument):
            continue
        pieces = [argument]
        for piece in arguments[number + 1 :]:
            if piece.startswith("-") or re.match(r"[~+]*[\w./]+=", piece):
                break
            pieces.append(piece)
            if piece.endswith("]"):
                found[number] = " ".join(pieces)
                break
    return found


def corrected_command(arguments: Sequence[str], corrections: Mapping[str, str]) -> str | None:
    """The whole command with corrections, quoted for a shell; None without any.

    Args:
        arguments: as they were given, in order; pieces of a divided list are left out where they were joined.
        corrections: by the argument, what to write instead.
    """
    if not any(argument in corrections for argument in arguments):
        return None
    whole = [corrections.get(argument, argument) for argument in arguments]
    return command_line(whole)


def command_line(arguments: Sequence[str]) -> str:
    """The whole command with these arguments, quoted for a shell; empty ones are left out."""
    return " ".join(["python -m regmean_lab", *(for_shell(argument) for argument in arguments if argument)])


def for_shell(argument: str) -> str:
    """An argument as it is typed: in double quotes where it has single ones and nothing that a shell would read."""
    if "'" in argument and not re.search(r'["$`\\!]', argument):
        return f'"{argument}"'
    return shlex.quote(argument)


def _quoted_value(value: str, parses: Parses, literal: bool) -> str:
    """A value with quotes where it needs them; in a list, around single elements."""
    if value.startswith("[") and value.endswith("]"):
        return f"[{','.join(_quoted(part, parses, literal) for part in _split(value[1:-1]))}]"
    return _quoted(value, parses, literal)


def _quoted(text: str, parses: Parses, literal: bool) -> str:
    """One name, in single quotes if it needs them, with backslashes as Hydra and OmegaConf read them."""
    text = text.strip()
    interpolates = literal and re.search(r"(?<!\\)\$\{", text) is not None
    if not interpolates and parses(f"x=[{text}]") and not _divided(text):
        return text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].replace(f"\\{text[0]}", text[0])
    if interpolates:
        text = re.sub(r"(?<!\\)\$\{", r"\\${", text)
    # Hydra takes backslashes as they are, except before a quote.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{chr(92) * trailing}'"


def _divided(text: str) -> bool:
    return len(_split(text)) > 1


def _split(text: str) -> list[str]:
    """Parts between commas that lie in no quotes and no brackets which a part begins with."""
    parts, current, closing = [], "", ""
    depth = 0
    for place, mark in enumerate(text):
        begins = not current.strip()
        if closing:
            if mark == closing and text[place - 1] != "\\":
                closing = ""
        elif depth:
            depth += {"[": 1, "]": -1}.get(mark, 0)
        elif begins and mark == "[":
            depth = 1
        elif begins and mark in "'\"" and mark in text[place + 1 :]:
            closing = mark
        elif mark == ",":
            parts.append(current)
            current = ""
            continue
        current += mark
    return [*parts, current]
