"""The Twitter corpus of the NER suite, which must be placed by hand."""

from __future__ import annotations

from pathlib import Path

from regmean_lab.prepare.base import PrepareError, Preparer, Request, register_preparer
from regmean_lab.suites.base import SPLITS


@register_preparer("twitter")
class TwitterPreparer(Preparer):
    """Says which files the suite reads; there is nothing to fetch or convert."""

    suites = ("ner",)
    needs = "the three JSON files, placed by hand: one object a line, with the lists tokens and labels (BIO)"
    arguments = ""
    notice = """\
Tweets with named entities, as the NER suite reads them out of domain. There is no address to fetch them from; their
terms are those of whoever gave them to you.
"""

    def files(self, data_dir: Path) -> dict[str, tuple[Path, ...]]:
        """``ner/twitter/annotated.twitter-ner-20-21-tweet-{train,dev,test}-withcleaned.json``."""
        folder = data_dir / "ner" / "twitter"
        names = (f"annotated.twitter-ner-20-21-tweet-{split}-withcleaned.json" for split in SPLITS)
        return {"twitter": tuple(folder / name for name in names)}

    def prepare(self, request: Request) -> None:
        """Say what is missing.

        Raises:
            PrepareError: if a file is missing.
        """
        paths = self.files(request.data_dir)["twitter"]
        if absent := [str(path) for path in paths if not path.is_file()]:
            raise PrepareError(
                "this corpus must be placed by hand, one JSON object a line with the lists tokens and labels (BIO). "
                f"Missing: {', '.join(absent)}. Without it: suite.out_of_domain=[conll2003]"
            )
