"""``regmean-lab evaluate``: scores of checkpoints are those that transformers and scikit-learn give."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from peft import LoraConfig, get_peft_model
from round_trip import compose_root
from scipy.special import rel_entr, softmax
from scipy.stats import binomtest, pearsonr
from seqeval.metrics import f1_score as entity_f1
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    T5ForConditionalGeneration,
)

from regmean_lab.checkpoints import merge_command
from regmean_lab.checkpoints.evaluate_command import check, run
from regmean_lab.checkpoints.heads import load_with_head
from regmean_lab.checkpoints.scoring import merged as scored_merges
from regmean_lab.checkpoints.scoring import score as scoring
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.models.headers import CheckpointError
from regmean_lab.models.pico import pico_folder
from regmean_lab.models.pretrained import quiet_transformers
from regmean_lab.report.read import find_runs
from regmean_lab.results import RESULT_FILE, read_result
from regmean_lab.sweeps.checkpoint_summary import show_measured

WORDS = ["the", "river", "film", "was", "happy", "angry", "people", "and", "music", "village", "sun", "rain"]
COLOURS = ("blue", "green", "red")


def sentences(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(4, 9))) for _ in range(count)]


@pytest.fixture
def save(pico_cache: Path, tmp_path: Path) -> Callable[..., Path]:
    """Saves a pico model with a head and large random weights, so that its predictions vary."""

    def save_model(
        name: str,
        labels: Sequence[str],
        seed: int,
        auto_class: Any = AutoModelForSequenceClassification,
        **settings: Any,
    ) -> Path:
        with quiet_transformers():
            source = pico_folder("bert", pico_cache)
            settings = {"id2label": dict(enumerate(labels)), "num_labels": len(labels), **settings}
            settings["label2id"] = {label: number for number, label in settings["id2label"].items()}
            model: PreTrainedModel = auto_class.from_pretrained(source, **settings)
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():  # and a head without a favourite
                for parameter in model.parameters():
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
                tokenizer, model = AutoTokenizer.from_pretrained(source), model.eval()
                logits = [model(**tokenizer(text, return_tensors="pt")).logits for text in sentences(40, seed=9)]
                model.classifier.bias -= torch.cat([part.flatten(0, -2) for part in logits]).mean(0)
            folder = tmp_path / name
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    return save_model


@pytest.fixture
def compose(compose_job: Callable[..., Any], tmp_path: Path) -> Callable[..., DictConfig]:
    compose_job()  # registers resolvers

    def compose_one(*overrides: str) -> DictConfig:
        own = (f"paths.output_dir={tmp_path / 'outputs'}", f"paths.zoo_dir={tmp_path}", "trainer.progress_bar=false")
        return compose_root("evaluate", *own, *overrides)

    return compose_one


def logits_of(folder: Path, *texts: Sequence[str], auto_class: Any = AutoModelForSequenceClassification) -> np.ndarray:
    """What transformers itself computes, one example at a time."""
    model, tokenizer = auto_class.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        rows = [model(**tokenizer(*parts, return_tensors="pt")).logits[0] for parts in zip(*texts, strict=True)]
    return torch.stack(rows).numpy()


def write_csv(path: Path, columns: dict[str, Sequence[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def labelled(path: Path, seed: int, labels: Sequence[Any] = COLOURS, count: int = 60) -> tuple[list[str], list[Any]]:
    texts, generator = sentences(count, seed), random.Random(seed)
    gold = [generator.choice(labels) for _ in texts]
    if path.suffix == ".csv":
        write_csv(path, {"text": texts, "label": gold})
    else:
        rows = [{"text": text, "label": label} for text, label in zip(texts, gold, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return texts, gold


def problems(config: DictConfig) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        check(config)
    return caught.value.problems


def test_classifiers_on_files_have_the_scores_of_transformers_and_scikit_learn(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """Two checkpoints whose outputs are in another order, on two files: four scores, by names of labels."""
    orders = {"first": COLOURS, "second": ("red", "blue", "green")}
    folders = {name: save(name, labels, seed) for seed, (name, labels) in enumerate(orders.items())}
    files = {"films": tmp_path / "films.csv", "books": tmp_path / "books.jsonl"}
    gold = {name: labelled(path, seed) for seed, (name, path) in enumerate(files.items())}
    config = compose(
        f"checkpoint=[{','.join(map(str, folders.values()))}]", f"data=[{','.join(map(str, files.values()))}]"
    )
    check(config)
    measured = run(config, tmp_path / "job")
    right = {}
    for (name, labels), result in zip(orders.items(), measured.results, strict=True):
        assert result == read_result(tmp_path / "job" / name / RESULT_FILE)
        assert (result.experiment, result.suite, result.method) == ("evaluate", "text_classification", name)
        for corpus, (texts, true) in gold.items():
            predicted = [labels[number] for number in logits_of(folders[name], texts).argmax(-1)]
            assert len(set(predicted)) > 1  # or the test would show little
            assert result.scores["in_domain"][corpus] == pytest.approx(100 * accuracy_score(true, predicted))
            macro = 100 * f1_score(true, predicted, average="macro", labels=COLOURS)
            assert result.metrics[corpus]["macro_f1"] == pytest.approx(macro, abs=1e-4)
            right[name, corpus] = np.array(predicted) == np.array(true)
    for line, corpus in zip(measured.lines, gold, strict=True):
        one, other = right["second", corpus], right["first", corpus]
        p = binomtest(int((one & ~other).sum()), int((one != other).sum())).pvalue
        assert line.startswith(f"{corpus}: second is right on {one.sum()} of 60 examples, first on {other.sum()}; ")
        assert line.endswith(f"p = {p:.3f})")
    assert {run.result.method for run in find_runs([tmp_path / "job"]).runs} == set(orders)


def test_what_was_measured_is_printed_and_written_as_a_table(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [save(name, COLOURS, seed) for seed, name in enumerate(("first", "second"))]
    labelled(tmp_path / "films.csv", 0)
    named = f"data={{Films: {tmp_path / 'films.csv'}}}"
    measured = run(compose(f"checkpoint=[{','.join(map(str, folders))}]", named), tmp_path / "job")
    show_measured(measured)
    shown = capsys.readouterr().out
    table = (tmp_path / "job" / "table.md").read_text(encoding="utf-8")
    assert "Films: second is right on" in shown
    for result in measured.results:
        assert f"{result.mean_in_domain:.2f}" in shown and f"{result.mean_in_domain:.2f}" in table
    assert f"Results and table: {tmp_path / 'job'}" in shown


def test_a_finished_result_is_found_until_checkpoint_or_data_change(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    folder, data, job = save("model", COLOURS, 0), tmp_path / "films.csv", tmp_path / "job"
    labelled(data, 0)
    config = compose(f"checkpoint={folder}", f"data={data}")

    def written() -> int:
        run(config, job)
        return (job / "model" / RESULT_FILE).stat().st_mtime_ns

    first = written()
    assert written() == first
    texts, gold = labelled(data, 1)
    second = written()
    assert second != first
    data.unlink()
    write_csv(data, {"gold": [f" {label} " for label in gold], "sentence": texts})  # the same content
    config = compose(f"checkpoint={folder}", f"data={data}", "label=gold", "text=sentence")
    assert written() == second
    save("model", COLOURS, 1)
    third = written()
    assert third != second
    config = compose(f"checkpoint={folder}", f"data={data}", "label=gold", "text=sentence", "score=macro_f1")
    assert written() != third
    (job / "model" / "predictions.safetensors").unlink()
    fourth = (job / "model" / RESULT_FILE).stat().st_mtime_ns
    assert written() != fourth


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_checkpoint_that_changes_while_it_is_scored(
    save: Callable[..., Path],
    compose: Callable[..., DictConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Its result would be found again as that of the weights that are there now."""
    folder, data, job = save("model", COLOURS, 0), tmp_path / "films.csv", tmp_path / "job"
    labelled(data, 0)
    config, predict = compose(f"checkpoint={folder}", f"data={data}"), scoring.predict_all

    def and_change(*arguments: Any, **named: Any) -> Any:
        predicted = predict(*arguments, **named)
        (folder / name).write_bytes((folder / name).read_bytes())
        return predicted

    monkeypatch.setattr(scoring, "predict_all", and_change)
    with pytest.raises(CheckpointError, match=f"{name}: changed while it was read, so that the scores may be of neith"):
        run(config, job)
    assert not [path for path in job.rglob("*") if path.is_file()]
    monkeypatch.setattr(scoring, "predict_all", predict)
    run(config, job)
    assert (job / "model" / RESULT_FILE).is_file()


def test_pairs_of_texts_and_numbers(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    folder = save("scale", ["score"], 0, problem_type="regression")
    one, two = sentences(40, 1), sentences(40, 2)
    gold = [random.Random(number).uniform(0, 5) for number in range(40)]
    data = write_csv(tmp_path / "pairs.csv", {"first": one, "second": two, "similarity": gold})
    config = compose(f"checkpoint={folder}", f"data={data}", "text=[first,second]", "label=similarity")
    (result,) = run(config, tmp_path / "job").results
    expected = logits_of(folder, one, two)[:, 0]
    assert result.suite == "text_regression"
    assert result.mean_in_domain == pytest.approx(100 * pearsonr(expected, gold).statistic, abs=1e-3)
    errors = np.mean((expected - np.array(gold)) ** 2)
    assert result.metrics["pairs"]["mean_squared_error"] == pytest.approx(errors, rel=1e-4)


def test_taggers_have_the_scores_of_seqeval(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    tags = ("I-PER", "O", "B-PER")
    folder = save("tagger", tags, 3, AutoModelForTokenClassification)
    generator = random.Random(0)
    texts = [text.split() for text in sentences(30)]
    gold = [[generator.choice(("O", "B-PER")) for _ in words] for words in texts]
    lines = [
        "".join(f"{word} {tag}\n" for word, tag in zip(words, own, strict=True))
        for words, own in zip(texts, gold, strict=True)
    ]
    data = tmp_path / "news.conll"
    data.write_text("\n".join(lines), encoding="utf-8")
    (result,) = run(compose(f"checkpoint={folder}", f"data={data}"), tmp_path / "job").results
    model, tokenizer = (
        AutoModelForTokenClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    predicted = []
    for words in texts:
        encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            numbers = model(**encoded).logits[0].argmax(-1).tolist()
        places = encoded.word_ids()
        predicted.append([tags[numbers[places.index(number)]] for number in range(len(words))])
    flat = [(one, other) for pair in zip(gold, predicted, strict=True) for one, other in zip(*pair, strict=True)]
    accuracy = 100 * np.mean([one == other for one, other in flat])
    assert result.suite == "token_classification"
    assert result.metrics["news"]["token_accuracy"] == pytest.approx(accuracy)
    assert result.mean_in_domain == pytest.approx(100 * entity_f1(gold, predicted))


def test_labels_that_are_numbers_are_names_first_and_then_places(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of stars 1 to 3, the number 2 is the second output and not the third; 0 is none of them."""
    stars = save("stars", ("1", "2", "3"), 0)
    texts, gold = labelled(tmp_path / "stars.jsonl", 0, (1, 2, 3))
    (result,) = run(compose(f"checkpoint={stars}", f"data={tmp_path / 'stars.jsonl'}"), tmp_path / "one").results
    predicted = logits_of(stars, texts).argmax(-1) + 1
    assert result.mean_in_domain == pytest.approx(100 * accuracy_score(gold, predicted))
    labelled(tmp_path / "zero.csv", 0, (0, 1, 2))
    (told,) = problems(compose(f"checkpoint={stars}", f"data={tmp_path / 'zero.csv'}"))
    assert "zero.csv:" in told and "label: expected one of 1, 2, 3, found 0" in told
    colours = save("colours", COLOURS, 0)
    texts, gold = labelled(tmp_path / "numbers.csv", 0, (0, 1, 2))
    (result,) = run(compose(f"checkpoint={colours}", f"data={tmp_path / 'numbers.csv'}"), tmp_path / "two").results
    assert result.mean_in_domain == pytest.approx(100 * accuracy_score(gold, logits_of(colours, texts).argmax(-1)))
    assert (
        "its labels are numbers (0, 1, 2), taken as those of the checkpoint's outputs: 0 blue, 1 green" in caplog.text
    )


def test_outputs_without_names_are_named(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    folder = save("model", ("LABEL_0", "LABEL_1", "LABEL_2"), 0)
    texts, gold = labelled(tmp_path / "films.csv", 0)
    asked = (f"checkpoint={folder}", f"data={tmp_path / 'films.csv'}")
    (told, *_) = problems(compose(*asked))
    assert "expected one of LABEL_0, LABEL_1, LABEL_2" in told
    (result,) = run(compose(*asked, "labels=[red,green,blue]"), tmp_path / "job").results
    predicted = [("red", "green", "blue")[number] for number in logits_of(folder, texts).argmax(-1)]
    assert result.mean_in_domain == pytest.approx(100 * accuracy_score(gold, predicted))


def test_corpora_of_a_suite(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path, made_up_sentiment: Path
) -> None:
    """The suite's own label names in another order; the examples are the suite's test split."""
    from regmean_lab.suites.sentiment import SentimentSuite

    suite = SentimentSuite(made_up_sentiment, SentimentSuite.settings_type())
    labels = tuple(reversed(suite.task("tweets").labels))
    folder = save("model", labels, 0)
    config = compose(
        f"checkpoint={folder}", "suite=sentiment", "corpora=[tweets,nyt]", f"paths.data_dir={made_up_sentiment}"
    )
    (result,) = run(config, tmp_path / "job").results
    assert (result.suite, result.members) == ("sentiment", ["tweets", "nyt"])
    for corpus in ("tweets", "nyt"):
        examples = suite.examples(corpus, "test")
        gold = [suite.task(corpus).labels[example.label] for example in examples]
        predicted = [labels[number] for number in logits_of(folder, [one.text for one in examples]).argmax(-1)]
        macro = 100 * f1_score(gold, predicted, average="macro")
        assert result.scores["in_domain"][corpus] == pytest.approx(macro, abs=1e-4)
    wrong = compose(
        f"checkpoint={save('other', COLOURS, 0)}",
        "suite=sentiment",
        "corpora=[tweets]",
        *([f"paths.data_dir={made_up_sentiment}"]),
    )
    (told,) = problems(wrong)
    assert told.startswith("other: tweets has labels that the checkpoint does not predict: ")
    assert "it predicts blue, green, red" in told
    (told,) = problems(compose(f"checkpoint={folder}", "suite=sentiment", "corpora=[tweet]"))
    assert told == "corpora: suite sentiment has no 'tweet'; did you mean tweets?"


def test_everything_that_is_wrong_is_told_at_once(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    folder = save("model", COLOURS, 0)
    write_csv(tmp_path / "bad.csv", {"text": sentences(3), "kind": ["red", "Blue", "pink"]})
    told = problems(
        compose(
            f"checkpoint=[{folder},{tmp_path / 'nowhere'}]",
            f"data={tmp_path / 'absent.csv'}",
            "score=accuracyy",
            "batch_size=0",
            "header=maybe",
        )
    )
    assert [line.partition(":")[0] for line in told[:2]] == ["header", "batch_size"]
    assert any("nowhere" in line for line in told)
    told = problems(compose(f"checkpoint={folder}", f"data={tmp_path / 'absent.csv'}", "score=accuracyy"))
    assert told[0].startswith("score: of model: expected one of accuracy, ") and "(did you mean accuracy?)" in told[0]
    assert told[1:] == [f"data: no such file: {tmp_path / 'absent.csv'}"]
    told = problems(compose(f"checkpoint={folder}", f"data={tmp_path / 'bad.csv'}", "label=kind"))
    assert "Blue" in told[0] and "did you mean blue?" in told[0]
    assert "pink" in told[1]
    assert problems(compose(f"checkpoint={folder}")) == [
        "data: expected a file, or corpora of a suite (suite=NAME corpora=[…])"
    ]


def test_a_merge_is_scored_with_its_members_and_their_ensemble(
    save: Callable[..., Path],
    compose: Callable[..., DictConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Members whose outputs are in another order; the ensemble is the mean of logits of the same names."""
    orders = {"first": COLOURS, "second": ("red", "blue", "green")}
    folders = {name: save(name, labels, seed) for seed, (name, labels) in enumerate(orders.items())}
    texts, gold = labelled(tmp_path / "films.csv", 0)

    def merged(*overrides: str) -> DictConfig:
        own = (f"paths.output_dir={tmp_path / 'outputs'}", f"paths.zoo_dir={tmp_path}", "trainer.progress_bar=false")
        chosen = (f"checkpoints=[{','.join(map(str, folders.values()))}]", f"output={tmp_path / 'merged'}")
        return compose_root("merge_checkpoints", *own, *chosen, "method=simple", *overrides)

    config = merged(f"evaluate={tmp_path / 'films.csv'}")
    merge_command.check(config)
    measured = merge_command.run(config, tmp_path / "job")
    assert measured is not None
    scores = {result.method: result.mean_in_domain for result in measured.results}
    assert list(scores) == ["first", "second", "ensemble", "simple"]
    logits = {name: logits_of(folder, texts) for name, folder in {**folders, "simple": tmp_path / "merged"}.items()}
    common = {name: [orders.get(name, COLOURS).index(label) for label in COLOURS] for name in logits}
    logits = {name: part[:, common[name]] for name, part in logits.items()}
    logits["ensemble"] = (logits["first"] + logits["second"]) / 2
    for name, part in logits.items():
        predicted = [COLOURS[number] for number in part.argmax(-1)]
        assert scores[name] == pytest.approx(100 * accuracy_score(gold, predicted)), name
    distance, *lines = measured.lines
    assert [line.partition(" is right")[0] for line in lines] == ["films: first", "films: second"]
    divergence = measured.results[-1].divergence
    assert divergence is not None and divergence["gap_closed"] is None
    for name in orders:
        said, other = (softmax(logits[one], 1) for one in (name, "simple"))
        kl, alike = float(rel_entr(said, other).sum(1).mean()), 100 * np.mean(said.argmax(1) == other.argmax(1))
        assert divergence["members"][name] == {"kl": pytest.approx(kl, rel=1e-4), "agreement": pytest.approx(alike)}
        assert f"{name} {kl:.4g} ({alike:.1f} % alike)" in distance
    written = {
        path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "merged-evaluation").glob("*/result.json")
    }
    assert set(written) == {"first", "second", "ensemble", "merged"}
    merge_command.run(config, tmp_path / "job")
    again = {
        path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "merged-evaluation").glob("*/result.json")
    }
    assert again == written
    with caplog.at_level("INFO"):
        merge_command.run(merged("method.coefficients=[0.3,0.7]"), tmp_path / "job")
    assert f"written to {tmp_path / 'merged'}, in place of an earlier merge" in caplog.text
    assert f"the scores in {tmp_path / 'merged-evaluation'} are those of an earlier merge" in caplog.text

    def told(*overrides: str) -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            merge_command.check(merged(*overrides))
        return caught.value.problems

    assert told(f"evaluate={tmp_path / 'absent.csv'}", "heads=drop") == [
        "evaluate: the merged model has no head to predict with (heads=drop); use heads=merge, which checkpoints "
        "with the same labels can, or heads=keep, by which each head is scored on data of its own",
        f"evaluate: data: no such file: {tmp_path / 'absent.csv'}",
    ]
    assert told(f"evaluate={{data: {tmp_path / 'films.csv'}, labl: gold}}") == [
        "evaluate: labl: there is no such key; did you mean label or labels?"
    ]
    renamed = merged(f"evaluate={{data: {tmp_path / 'films.csv'}, score: macro_f1}}")
    results = merge_command.run(renamed, tmp_path / "job").results
    macro = 100 * f1_score(gold, [COLOURS[number] for number in logits["simple"].argmax(-1)], average="macro")
    assert results[-1].mean_in_domain == pytest.approx(macro, abs=1e-4)


def test_heads_that_are_kept_are_scored_on_their_own_data(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """Of checkpoints with other labels, by what transformers predicts with the merged encoder and each head."""
    kinds = {"first": COLOURS, "second": ("blue", "red")}
    folders = {name: save(name, labels, seed) for seed, (name, labels) in enumerate(kinds.items())}
    data = {name: labelled(tmp_path / f"{name}_data.csv", 0, labels) for name, labels in kinds.items()}
    write_csv(tmp_path / "second_data.csv", {"text": data["second"][0], "colour": data["second"][1]})

    def merged(evaluate: str, *more: str) -> DictConfig:
        own = (f"paths.output_dir={tmp_path / 'outputs'}", f"paths.zoo_dir={tmp_path}", "trainer.progress_bar=false")
        chosen = (f"checkpoints=[{','.join(map(str, folders.values()))}]", f"output={tmp_path / 'merged'}")
        return compose_root("merge_checkpoints", *own, *chosen, "method=simple", "heads=keep", evaluate, *more)

    first, second = tmp_path / "first_data.csv", f"{{data: {tmp_path / 'second_data.csv'}, label: colour}}"
    config = merged(f"evaluate={{first: {first}, second: {second}}}")
    merge_command.check(config)
    measured = merge_command.run(config, tmp_path / "job")
    assert [result.method for result in measured.results] == ["first", "second", "simple", "simple"]
    for name, own, joined in zip(kinds, measured.results[:2], measured.results[2:], strict=True):
        texts, gold = data[name]
        head = load_with_head(tmp_path / "merged", name)
        tokens = AutoTokenizer.from_pretrained(tmp_path / "merged")(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = [(joined, head(**tokens).logits), (own, torch.tensor(logits_of(folders[name], texts)))]
        after, before = (part.log_softmax(-1).double() for _, part in logits)
        assert joined.divergence is not None
        assert joined.divergence["members"][name]["kl"] == pytest.approx(
            float((before.exp() * (before - after)).sum(-1).mean()), rel=1e-4
        )
        for result, part in logits:
            predicted = [kinds[name][number] for number in part.argmax(-1).tolist()]
            assert result.scores["in_domain"] == {f"{name}_data": pytest.approx(100 * accuracy_score(gold, predicted))}
    show_measured(measured)
    rows = (tmp_path / "merged-evaluation" / "table.md").read_text().splitlines()
    assert [row.split("|")[1].strip() for row in rows if row.startswith("| ")] == [
        "method",
        "simple",
        "first",
        "second",
    ]

    def told(evaluate: str) -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            merge_command.check(merged(evaluate))
        return caught.value.problems

    with pytest.raises(ConfigurationError, match="measure_gap: the mean of the weights has no head of its own"):
        merge_command.check(merged(f"evaluate={{first: {first}, second: {second}}}", "measure_gap=true"))
    expected = "expected evaluate={first: FILE, second: FILE}, with null for what is not scored"
    assert told(f"evaluate={first}") == [
        f"evaluate: with heads=keep each checkpoint's head is scored on data of its own; {expected}"
    ]
    assert told(f"evaluate={{first: {first}, secnd: {first}}}") == [
        "evaluate: secnd: no checkpoint is called so; did you mean second?",
        f"evaluate: no data for second; {expected}",
    ]
    (problem,) = told(f"evaluate={{first: {tmp_path / 'absent.csv'}, second: null}}")
    assert problem == f"evaluate: first: data: no such file: {tmp_path / 'absent.csv'}"
    assert any("second: " in line and "green" in line for line in told(f"evaluate={{first: null, second: {first}}}"))
    alone = merge_command.run(merged(f"evaluate={{first: {first}, second: null}}"), tmp_path / "job")
    assert [result.method for result in alone.results] == ["first", "simple"]


def test_an_adapter_is_scored_as_the_model_that_it_makes(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """What PEFT computes with base and adapter, which transformers' own classes then predict with."""
    base = save("base", COLOURS, 0)
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(tmp_path / "adapter")
    texts, gold = labelled(tmp_path / "films.csv", 0)
    config = compose(f"checkpoint={tmp_path / 'adapter'}", f"base={base}", f"data={tmp_path / 'films.csv'}")
    (result,) = run(config, tmp_path / "job").results
    tokenizer, adapted = AutoTokenizer.from_pretrained(base), adapted.eval()
    with torch.no_grad():
        numbers = [int(adapted(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in texts]
    assert numbers != logits_of(base, texts).argmax(-1).tolist()
    assert result.mean_in_domain == pytest.approx(100 * accuracy_score(gold, [COLOURS[number] for number in numbers]))


def test_yes_no_labels_of_a_suite(
    save: Callable[..., Path],
    compose: Callable[..., DictConfig],
    tmp_path: Path,
    write_emotions: Callable[[Path], Path],
) -> None:
    """Labels in another order than the suite's, some of them not annotated: these count neither way."""
    from regmean_lab.suites.emotion import EmotionSuite

    suite = EmotionSuite(write_emotions(tmp_path / "data"), EmotionSuite.settings_type())
    task = suite.task("tec")
    labels = tuple(reversed(task.labels))
    folder = save("model", labels, 0, problem_type="multi_label_classification")
    config = compose(f"checkpoint={folder}", "suite=emotion", "corpora=[tec]", f"paths.data_dir={tmp_path / 'data'}")
    (result,) = run(config, tmp_path / "job").results
    examples = suite.examples("tec", "test")
    logits = logits_of(folder, [one.text for one in examples])[:, ::-1]
    gold = np.array([one.label for one in examples])
    annotated = [number for number in range(len(task.labels)) if (gold[:, number] >= 0).any()]
    scores = [f1_score(gold[:, one], logits[:, one] > 0, zero_division=0.0) for one in annotated]
    assert 0 < len(annotated) < len(task.labels)
    assert result.mean_in_domain == pytest.approx(100 * np.mean(scores), abs=1e-3)


def test_a_model_that_answers_in_words(
    compose: Callable[..., DictConfig], tmp_path: Path, pico_cache: Path, write_emotions: Callable[[Path], Path]
) -> None:
    """Of the two possible answers the one is given to which transformers' own loss is lower."""
    from regmean_lab.suites.emotion_text import EmotionTextSuite

    with quiet_transformers():
        source = pico_folder("t5", pico_cache)
        model, tokenizer = T5ForConditionalGeneration.from_pretrained(source), AutoTokenizer.from_pretrained(source)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
    suite = EmotionTextSuite(write_emotions(tmp_path / "data"), EmotionTextSuite.settings_type(test_examples=4))
    config = compose(
        *(f"checkpoint={tmp_path / 'model'}", "suite=emotion_text", "corpora=[tec]"),
        *("suite.test_examples=4", f"paths.data_dir={tmp_path / 'data'}"),
    )
    check(config)
    (result,) = run(config, tmp_path / "job").results
    model, right = model.eval(), []
    for example in suite.examples("tec", "test"):
        (wording,) = [one for one in example.wordings if one.form == "text_to_text"]
        question = tokenizer(wording.ask(example.text, example.subject), return_tensors="pt")
        losses = []
        for answer in wording.answers:
            target = tokenizer(answer, return_tensors="pt").input_ids[:, :-1]  # without the end, which both have
            with torch.no_grad():
                losses.append(float(model(**question, labels=target).loss) * target.shape[1])
        right.append(int(losses[1] < losses[0]) == example.label[0])
    assert 0 < sum(right) < len(right)
    assert result.metrics["tec"]["accuracy"] == pytest.approx(100 * np.mean(right), abs=1e-3)


def test_the_gap_that_a_merge_closes(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the mean of the weights, merged by another command; measured once."""
    folders = [save(name, COLOURS, seed) for seed, name in enumerate(("first", "second"))]
    texts, _ = labelled(tmp_path / "films.csv", 0)

    def command(output: str, *overrides: str) -> Any:
        own = (f"paths.output_dir={tmp_path / 'outputs'}", f"paths.zoo_dir={tmp_path}", "trainer.progress_bar=false")
        chosen = (f"checkpoints=[{','.join(map(str, folders))}]", f"output={tmp_path / output}")
        return compose_root("merge_checkpoints", *own, *chosen, f"evaluate={tmp_path / 'films.csv'}", *overrides)

    weighted = ("method=simple", "method.coefficients=[0.7,0.3]")
    measured = merge_command.run(command("merged", *weighted, "measure_gap=true"), tmp_path / "job")
    mean = merge_command.run(command("mean", "method=simple", "measure_gap=true"), tmp_path / "job")
    assert measured is not None and mean is not None
    found, reference = (one.results[-1].divergence for one in (measured, mean))
    assert found is not None and reference is not None
    assert reference["gap_closed"] == 0
    for member, values in found["members"].items():
        assert values["kl_simple"] == pytest.approx(reference["members"][member]["kl"], rel=1e-5)
    said = {name: softmax(logits_of(tmp_path / name, texts), 1) for name in ("merged", "mean")}
    own = [softmax(logits_of(folder, texts), 1) for folder in folders]
    merged, simple = (sum(float(rel_entr(one, said[name]).sum()) for one in own) for name in ("merged", "mean"))
    assert found["gap_closed"] == pytest.approx(100 * (1 - merged / simple), abs=1e-2)
    assert f"{found['gap_closed']:.1f} % of the gap" in measured.lines[0]
    assert not list((tmp_path / "merged-evaluation").rglob(".mean-*"))
    monkeypatch.setattr(scored_merges, "_mean", lambda *_: pytest.fail("merged again"))
    again = merge_command.run(command("merged", *weighted, "measure_gap=true"), tmp_path / "job")
    assert again is not None and again.results[-1].divergence == found


def test_a_merge_by_a_recipe_is_scored_too(
    save: Callable[..., Path], compose: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """The checkpoints are those of the recipe, not of the configuration."""
    folders = [save(name, COLOURS, seed) for seed, name in enumerate(("first", "second"))]
    texts, gold = labelled(tmp_path / "films.csv", 0)
    models = "".join(f"  - model: {folder}\n    parameters: {{weight: 1}}\n" for folder in folders)
    (tmp_path / "recipe.yml").write_text(f"merge_method: linear\nmodels:\n{models}dtype: float32\n")
    own = (f"paths.output_dir={tmp_path / 'outputs'}", f"paths.zoo_dir={tmp_path}", "trainer.progress_bar=false")
    chosen = (f"recipe={tmp_path / 'recipe.yml'}", f"output={tmp_path / 'merged'}")
    config = compose_root("merge_checkpoints", *own, *chosen, f"evaluate={tmp_path / 'films.csv'}")
    merge_command.check(config)
    measured = merge_command.run(config, tmp_path / "job")
    assert measured is not None
    first, second, ensemble, merge = measured.results
    assert [first.method, second.method, ensemble.method] == ["first", "second", "ensemble"]
    predicted = [COLOURS[number] for number in logits_of(tmp_path / "merged", texts).argmax(-1)]
    assert merge.mean_in_domain == pytest.approx(100 * accuracy_score(gold, predicted))
