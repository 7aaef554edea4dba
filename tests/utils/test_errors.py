"""Messages that say the same of several things."""

from __future__ import annotations

from pathlib import Path

from regmean_lab.suites.emotion import EmotionSettings, EmotionSuite
from regmean_lab.suites.emotion_text import EmotionTextSuite
from regmean_lab.utils.errors import ProblemOf, together


def missing(what: str, reason: str = "absent") -> ProblemOf:
    return ProblemOf(f"{what} is {reason}", what, f"{ProblemOf.SUBJECTS} are {reason}")


def test_what_is_said_of_several_things_is_said_once() -> None:
    problems = [missing("a"), "other", missing("b"), missing("c", "empty"), missing("a"), "other"]
    assert together(problems) == ["a, b are absent", "other", "c is empty"]
    assert together([missing("a"), missing("a")]) == ["a is absent"]


def test_what_several_owners_say_is_said_once() -> None:
    def of(owner: str, what: str) -> ProblemOf:
        return ProblemOf(f"{owner}: {what} is absent", what, f"{owner}: {ProblemOf.SUBJECTS} are absent", owner)

    assert together([of("x", "a"), of("x", "b"), of("y", "a"), of("y", "b")]) == ["x, y: a, b are absent"]
    assert together([of("x", "a"), of("y", "a")]) == ["x, y: a is absent"]
    assert together([of("x", "a"), of("x", "b")]) == ["x: a, b are absent"]


def test_two_suites_that_read_the_same_files(tmp_path: Path) -> None:
    suites = [kind(tmp_path, kind.settings_type()) for kind in (EmotionSuite, EmotionTextSuite)]
    (told,) = together(problem for suite in suites for problem in suite.missing(["tec", "isear"]))
    assert told.startswith("emotion, emotion_text: files of the corpora tec, isear are not there")


def test_corpora_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    suite = EmotionSuite(tmp_path, EmotionSettings())
    (told,) = together(suite.missing(["tec", "isear", "crowdflower"]))
    assert told.startswith(f"emotion: files of the corpora tec, isear, crowdflower are not there, in {tmp_path}")
    assert told.count("python -m regmean_lab.prepare suite=emotion") == 1
    assert told.endswith("experiment=sentiment_pairwise model=minilm.")
    (tmp_path / "emotion_splits").mkdir()
    assert "sentiment_pairwise" not in "".join(suite.missing(["tec"]))
