"""Messages that say the same of several things."""

from __future__ import annotations

from pathlib import Path

from regmean_lab.suites.emotion import EmotionSettings, EmotionSuite
from regmean_lab.utils.errors import ProblemOf, together


def missing(what: str, reason: str = "absent") -> ProblemOf:
    return ProblemOf(f"{what} is {reason}", what, f"{ProblemOf.SUBJECTS} are {reason}")


def test_what_is_said_of_several_things_is_said_once() -> None:
    problems = [missing("a"), "other", missing("b"), missing("c", "empty"), missing("a"), "other"]
    assert together(problems) == ["a, b are absent", "other", "c is empty"]
    assert together([missing("a"), missing("a")]) == ["a is absent"]


def test_corpora_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    suite = EmotionSuite(tmp_path, EmotionSettings())
    (told,) = together(suite.missing(["tec", "isear", "crowdflower"]))
    assert told.startswith(f"emotion: files of the corpora tec, isear, crowdflower are not there, in {tmp_path}")
    assert told.count("python -m regmean_lab.prepare suite=emotion") == 1
    assert told.endswith("experiment=sentiment_pairwise model=minilm.")
    (tmp_path / "emotion_splits").mkdir()
    assert "sentiment_pairwise" not in "".join(suite.missing(["tec"]))
