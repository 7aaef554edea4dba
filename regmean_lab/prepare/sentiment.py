"""The sentiment suite's data, which the suite brings by itself; here so that it can be brought ahead of a job."""

from __future__ import annotations

import logging
from pathlib import Path

from regmean_lab.prepare.base import PrepareError, Preparer, Request, register_preparer
from regmean_lab.suites import sentiment
from regmean_lab.utils.download import DownloadError, read_source_distribution
from regmean_lab.utils.files import write_bytes

_logger = logging.getLogger(__name__)


@register_preparer("sentiment")
class SentimentPreparer(Preparer):
    """Rated sentences of four domains, from the package index or a source distribution that the user has."""

    suites = ("sentiment", "sentiment_partition")
    options = ("from",)
    needs = f"a package index (2.5 MB by pip), or from= {sentiment.SOURCE.file_name}"
    arguments = "suite=sentiment"
    notice = """\
Sentences of four domains with their mean sentiment rating, from the source distribution of the Python package
vaderSentiment 3.3.2 (https://pypi.org/project/vaderSentiment/3.3.2/). Licence: MIT. Cite:
  C. J. Hutto, E. E. Gilbert. VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text. ICWSM
    2014.
"""

    def files(self, data_dir: Path) -> dict[str, tuple[Path, ...]]:
        """``sentiment/{tweets,movie,amazon,nyt}.tsv``."""
        return {domain: (data_dir / "sentiment" / f"{domain}.tsv",) for domain in sentiment.DOMAINS}

    def prepare(self, request: Request) -> None:
        """Bring what is absent; ``force`` also replaces files that are not the published ones."""
        suite = sentiment.SentimentSuite(request.data_dir, sentiment.SentimentSettings())
        if request.source is not None:
            archive = request.source / sentiment.SOURCE.file_name if request.source.is_dir() else request.source
            if not archive.is_file():
                raise PrepareError(f"{archive} is not there")
            try:
                content = read_source_distribution(sentiment.SOURCE, archive)
            except DownloadError as error:
                raise PrepareError(str(error)) from error
            suite.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(suite.folder / sentiment.SOURCE.file_name, content)
        if request.force:
            for domain, (path,) in self.files(request.data_dir).items():
                if suite.missing([domain]):
                    path.unlink()
        suite.prepare(tuple(sentiment.DOMAINS))
        _logger.info("sentiment: %s in %s", ", ".join(sentiment.DOMAINS), suite.folder)
