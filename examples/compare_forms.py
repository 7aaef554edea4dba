"""How much a RegMean merge loses with smaller forms of statistics: sentiment members of a zoo, merged with each form.

    python examples/compare_forms.py ZOO_ENTRY ZOO_ENTRY --data-dir data --examples 500

Each argument is a member of the sentiment suite with Gram matrices beside it (``python -m regmean_lab.zoo list`` shows
them; any job with ``method=regmean`` leaves them there). Prints a Markdown table. "Gain kept" is how much of what
RegMean gains over simple averaging is left: the mean over linear layers of the share of the gain in what RegMean
minimises, the squared distance of the layer's outputs to each member's on its own data. Then the key score of each
domain.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from regmean_lab.config.groups import TrainerConfig
from regmean_lab.evaluation.scores import load_module, metrics_of, predict
from regmean_lab.merging import MergeMember, layout_of, merge_members
from regmean_lab.merging.parameters import GramSource
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.weights import SafetensorsWeights
from regmean_lab.models.pretrained import load_tokenizer
from regmean_lab.statistics import Form, GramFile, GramStatistics, save_gram
from regmean_lab.suites.data_module import CorpusDataModule
from regmean_lab.suites.evaluations import evaluations_for
from regmean_lab.suites.sentiment import SentimentSettings, SentimentSuite
from regmean_lab.training.trainers import test_trainer

RANKS = [1, 4, 16, 64]
FORMS: list[Form] = ["full", "packed", "low_rank", "diagonal"]


def main() -> None:
    """Merge two members with each form and evaluate them on all four domains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("members", nargs=2, type=Path, help="folders of two members of the zoo")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="as paths.data_dir")
    parser.add_argument(
        "--examples", type=int, default=500, help="most sentences of each test set; 0 evaluates nothing"
    )
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=FORMS, help="only these forms")
    parser.add_argument("--ranks", nargs="*", type=int, default=RANKS, help="ranks of low_rank")
    options = parser.parse_args()
    forms = [(form, rank) for form in options.forms for rank in (options.ranks if form == "low_rank" else [None])]
    folders: list[Path] = options.members
    names = [folder.name.split("-")[1] for folder in folders]
    measured = [_measured(folder) for folder in folders]
    suite = SentimentSuite(options.data_dir, SentimentSettings(test_examples=options.examples))
    evaluations = evaluations_for(suite, names) if options.examples else []
    module = load_module(folders[0], suite.task(names[0]))
    loaders = CorpusDataModule(
        suite,
        load_tokenizer(folders[0]),
        batch_size=32,
        eval_batch_size=32,
        max_length=64,
        seed=0,
        evaluations=evaluations,
    ).test_dataloader()
    trainer = test_trainer(TrainerConfig(accelerator="cpu", progress_bar=False))
    layout = layout_of(module.model)

    def merged(method: RegMean | Simple, grams: Sequence[GramSource | None]) -> dict[str, Tensor]:
        members = [
            MergeMember(name, SafetensorsWeights(folder), gram)
            for name, folder, gram in zip(names, folders, grams, strict=True)
        ]
        return {parameter.name: parameter.value for parameter in merge_members(method, members, layout)}

    def errors(weights: dict[str, Tensor]) -> dict[str, float]:
        """What RegMean minimises, by layer: squared distance to each member's outputs on its own data."""
        found = dict.fromkeys((layer.name for layer in layout.linear.values()), 0.0)
        for folder, gram in zip(folders, measured, strict=True):
            own = SafetensorsWeights(folder)
            for name, layer in layout.linear.items():
                change = (weights[name] - own[name]).double()
                found[layer.name] += float((change @ gram.matrix(layer.name).double() * change).sum())
        return found

    worst, best = errors(merged(Simple(), [None, None])), errors(merged(RegMean(), measured))
    scored = [*(part.name for part in evaluations), "mean"] if evaluations else []
    print(f"| {' | '.join(['statistics', 'bytes of both', 'gain kept', *scored])} |")
    print(f"|---|{'---:|' * (2 + len(scored))}", flush=True)

    def row(title: str, size: int, weights: dict[str, Tensor]) -> None:
        own = errors(weights)
        kept = mean((worst[layer] - own[layer]) / (worst[layer] - best[layer]) for layer in best)
        cells = [title, f"{size:,}", f"{100 * kept:.1f} %"]
        if evaluations:
            targets = module.model.state_dict(keep_vars=True)
            with torch.no_grad():
                for name, value in weights.items():
                    targets[name].copy_(value)
            metrics = metrics_of(evaluations, predict(trainer, module, loaders))
            scores = [metrics[part.name][part.task.key_score] for part in evaluations]
            cells += [f"{score:.2f}" for score in [*scores, mean(scores)]]
        print(f"| {' | '.join(cells)} |", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        for form, rank in forms:
            paths = [Path(temporary) / f"{folder.name}-{form}-{rank}.safetensors" for folder in folders]
            for path, statistics in zip(paths, measured, strict=True):
                save_gram(path, statistics, {}, form=form, rank=rank)
            size = sum(path.stat().st_size for path in paths)
            title = form if rank is None else f"{form}, rank {rank}"
            row(title, size, merged(RegMean(), [GramFile(path) for path in paths]))
    row("none (`simple`)", 0, merged(Simple(), [None, None]))


def _measured(folder: Path) -> GramStatistics:
    """The Gram matrices that lie beside a member."""
    path = min((folder / "statistics").glob("gram-*.safetensors"))
    with GramFile(path) as file:
        matrices = {layer: file.matrix(layer) for layer in file.rows}
        return GramStatistics(matrices, file.shared, file.rows, file.examples, file.batches)


if __name__ == "__main__":
    main()
