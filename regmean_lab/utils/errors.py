"""The base class of all errors that a user can fix, and merging of messages that several items share."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """An error that the person at the command line can correct: it is shown without a traceback.

    Its message says what was wrong, where, and what to do.
    """


class ProblemOf(str):
    """A message about one thing, which may be put together with messages that say the same of others.

    Args:
        text: the message, alone.
        subject: the thing.
        of_several: the message about several things, with ``SUBJECTS`` in the place of their names.
    """

    SUBJECTS = "\0"
    subject: str
    of_several: str

    def __new__(cls, text: str, subject: str, of_several: str) -> ProblemOf:
        """A text like any other."""
        made = super().__new__(cls, text)
        made.subject, made.of_several = subject, of_several
        return made


def together(problems: Iterable[str]) -> list[str]:
    """Messages in which what is said of several things is said once; the others as they are, in their order."""
    shown: dict[str, str] = {}
    alike: dict[str, list[str]] = {}
    for problem in problems:
        if isinstance(problem, ProblemOf):
            subjects = alike.setdefault(problem.of_several, [])
            subjects.append(problem.subject)
            several = problem.of_several.replace(ProblemOf.SUBJECTS, ", ".join(dict.fromkeys(subjects)))
            shown[problem.of_several] = several if len(set(subjects)) > 1 else str(problem)
        else:
            shown[problem] = problem
    return list(shown.values())
