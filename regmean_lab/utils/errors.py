"""The base of all errors that a user can correct."""

from __future__ import annotations


class UserError(Exception):
    """An error that the person at the command line can correct: it is shown without a traceback.

    Its message says what was wrong, where, and what to do.
    """
