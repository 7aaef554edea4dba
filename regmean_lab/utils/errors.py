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
        owner: what both messages begin with before a colon, such as a suite; of several that say the same, all are
            named.
    """

    SUBJECTS = "\0"
    subject: str
    of_several: str
    owner: str

    def __new__(cls, text: str, subject: str, of_several: str, owner: str = "") -> ProblemOf:
        """A text like any other."""
        made = super().__new__(cls, text)
        made.subject, made.of_several, made.owner = subject, of_several, owner
        return made


def together(problems: Iterable[str]) -> list[str]:
    """Messages in which what is said of several things is said once; the others as they are, in their order."""
    shown: dict[str, str] = {}
    alike: dict[str, list[ProblemOf]] = {}
    for problem in problems:
        if isinstance(problem, ProblemOf):
            said = problem.of_several.removeprefix(f"{problem.owner}: ")
            alike.setdefault(said, []).append(problem)
            subjects = list(dict.fromkeys(one.subject for one in alike[said]))
            text = said.replace(ProblemOf.SUBJECTS, ", ".join(subjects))
            text = text if len(subjects) > 1 else problem.removeprefix(f"{problem.owner}: ")
            owners = ", ".join(dict.fromkeys(one.owner for one in alike[said] if one.owner))
            shown[said] = f"{owners}: {text}" if owners else text
        else:
            shown[problem] = problem
    return list(shown.values())
