"""What all tests share: small emotion corpora, pico models, and configurations as the command composes them."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks, forking
from hydra.core.hydra_config import HydraConfig
from quick_configurations import install

# Before anything imports Hugging Face libraries, which read these once. Tests need no network, and must not use it.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_SILENT"] = "true"
# Models are made in each test, as if for the first time; tests of what is kept have folders of their own.
os.environ.setdefault("REGMEAN_LAB_CACHE", "")

torch.set_num_threads(1)  # tests run in several processes
install()

WORDS = {
    "joy": ("happy", "wonderful"),
    "anger": ("angry", "waste"),
    "fear": ("afraid", "dark"),
    "love": ("best", "sun"),
}
SIGNED_WORDS = {"-": ("terrible", "boredom", "worse", "angry"), "": ("happy", "wonderful", "best", "loved")}
ANNOTATED = {
    "tec": ("joy", "anger", "love"),
    "isear": ("joy", "anger", "fear"),
    "crowdflower": ("joy", "fear", "love"),
    "emoint": ("joy", "anger", "fear", "love"),
}
"""Emotions that each corpus annotates; `emoint` is the only one out of domain."""
SIZES = {"train": 48, "dev": 12, "test": 10}

MARKS = {
    "benchmarks/": "benchmarks",
    "callbacks/test_choice.py": "experiments",
    "callbacks/test_distillation.py": "experiments",
    "callbacks/test_pseudo_text_merge.py": "experiments",
    "callbacks/test_refining_merge.py": "experiments",
    "checkpoints/test_collect_by_blocks.py": "experiments",
    "checkpoints/test_collect_statistics.py": "experiments",
    "checkpoints/test_collect_together.py": "processes",
    "checkpoints/test_evaluate.py": "experiments",
    "checkpoints/test_given_members.py": "experiments",
    "checkpoints/test_teaching.py": "experiments",
    "command/test_interrupted_sweeps.py": "processes",
    "command/test_jobs.py": "experiments",
    "command/test_launchers.py": "launchers",
    "command/test_live_sweep.py": "processes",
    "command/test_own_data_commands.py": "processes",
    "command/test_plugin_commands.py": "processes",
    "command/test_roots.py": "processes",
    "command/test_search.py": "experiments",
    "command/test_selection_page.py": "processes",
    "models/test_pickled_checkpoints.py": "processes",
    "report/test_report_page.py": "browser",
    "statistics/test_distributed_statistics.py": "processes",
    "suites/test_emotion_text_experiment.py": "experiments",
    "suites/test_glue_experiment.py": "experiments",
    "suites/test_ner_experiment.py": "experiments",
    "test_documented_experiments.py": "experiments",
    "test_experiment.py": "experiments",
    "test_from_the_release.py": "experiments",
    "test_full_disk.py": "experiments",
    "test_gpu.py": "experiments",
    "test_memory.py": "experiments",
    "test_notebook.py": "processes",
    "test_starts.py": "processes",
    "training/test_processes.py": "processes",
    "training/test_training.py": "experiments",
}
"""What `make test-fast` leaves out, by the beginning of a file's path."""

LONGEST = (
    "command/test_launchers.py",
    "test_experiment.py",
    "test_from_the_release.py",
    "command/test_interrupted_sweeps.py",
    "training/test_processes.py",
    "command/test_jobs.py",
    "suites/test_emotion_text_experiment.py",
    "test_documented_experiments.py",
    "suites/test_glue_experiment.py",
    "command/test_own_data_commands.py",
    "test_notebook.py",
    "command/test_selection_page.py",
    "models/test_pickled_checkpoints.py",
    "callbacks/test_refining_merge.py",
    "command/test_search.py",
    "training/test_training.py",
    "command/test_plugin_commands.py",
    "command/test_verbs.py",
    "test_starts.py",
    "command/test_roots.py",
    "checkpoints/test_collect_statistics.py",
    "checkpoints/test_collect_by_blocks.py",
    "checkpoints/test_evaluate.py",
    "suites/test_ner_experiment.py",
    "checkpoints/test_given_members.py",
    "modules/test_text_generation.py",
    "checkpoints/test_checkpoint_merge.py",
    "checkpoints/test_adapter_output.py",
    "config/test_published.py",
    "config/test_schema.py",
    "command/test_overrides.py",
    "command/test_stages.py",
    "checkpoints/recipes/test_recipe_merges.py",
    "callbacks/test_merge_callback.py",
    "callbacks/test_merge_of_text_generators.py",
    "report/test_report_command.py",
    "sweeps/test_plan.py",
    "test_full_disk.py",
    "training/test_lora.py",
    "test_fidelity.py",
)
"""The files that take longest: they begin first, so that the processes end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of whole files, and put those first that take longest."""
    root = Path(__file__).parent
    places = {path: place for place, path in enumerate(LONGEST)}
    order = {}
    for item in items:
        path = item.path.relative_to(root).as_posix() if item.path.is_relative_to(root) else ""
        for beginning, mark in MARKS.items():
            if path.startswith(beginning):
                item.add_marker(mark)
        order[item] = places.get(path, len(places))
    items.sort(key=order.__getitem__)


def emotion_line(generator: random.Random, corpus: str) -> str:
    """A sentence of five to nine words; an emotion is there where one of its words is."""
    filler = ("the", "river", "people", "of", "film", "was", "and", "village", "music")
    emotional = [word for words in WORDS.values() for word in words]
    text = [generator.choice(filler if generator.random() < 0.6 else emotional) for _ in range(generator.randint(5, 9))]
    emotions = {
        name: (float(any(word in WORDS[name] for word in text)) if name in ANNOTATED[corpus] else None)
        for name in WORDS
    }
    return json.dumps({"text": " ".join(text), "emotions": emotions, "VAD": None})


@pytest.fixture(autouse=True)
def number_of_threads() -> Iterator[None]:
    """Tests of one process share PyTorch's number of threads, which decides how products are rounded."""
    yield
    assert torch.get_num_threads() == 1, "the test leaves another number of threads behind"


@pytest.fixture(autouse=True)
def no_running_job() -> Iterator[None]:
    """Tests of one process share Hydra's state, which stays after a job and names its method and overrides."""
    HydraConfig.instance().cfg = None
    yield


@pytest.fixture(scope="session")
def write_emotions() -> Callable[[Path], Path]:
    """Writes the corpora of `ANNOTATED` below a folder, in the layout of the emotion suite."""

    def write(folder: Path) -> Path:
        for corpus in ANNOTATED:
            for split, size in SIZES.items():
                generator = random.Random(f"{corpus} {split}")
                path = folder / "emotion_splits" / corpus / f"{split}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(emotion_line(generator, corpus) + "\n" for _ in range(size)))
        return folder

    return write


@pytest.fixture(scope="session")
def pico_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for generated pico models, which all tests of a process share."""
    return tmp_path_factory.mktemp("pico")


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """What runs commands without waiting for their imports."""
    with forking() as started:
        yield started


@pytest.fixture
def compose_job() -> Callable[..., Any]:
    """Composes the configuration of a job from overrides, as the command does."""
    from compositions import compose_job

    from regmean_lab.config.resolvers import register_resolvers

    register_resolvers()
    return compose_job


@pytest.fixture
def made_up_sentiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with the four sentiment domains; every sentence has a word that tells its sign."""
    from regmean_lab.suites import sentiment

    folder = tmp_path / "data" / "sentiment"
    folder.mkdir(parents=True)
    for domain in ("tweets", "movie", "amazon", "nyt"):
        generator, lines = random.Random(domain), []
        for number in range(240):
            sign = generator.choice(list(SIGNED_WORDS))
            filler = generator.choices(("the", "film", "was", "music", "people", "food"), k=generator.randint(2, 8))
            name = f"{number // 4}_{number % 4}" if domain in ("amazon", "nyt") else str(number)
            rating, word = f"{sign}{generator.uniform(1, 4):.2f}", generator.choice(SIGNED_WORDS[sign])
            lines.append(f"{name}\t{rating}\t{' '.join(filler)} {word}\n")
        content = "".join(lines).encode()
        (folder / f"{domain}.tsv").write_bytes(content)
        made_up = replace(sentiment.DOMAINS[domain], sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(sentiment.DOMAINS, domain, made_up)
    return folder.parent


@pytest.fixture(scope="module")
def running_hub() -> Iterator[Any]:
    from stand_in_hub import stand_in_hub  # imports the libraries of Hugging Face

    with stand_in_hub() as hub:
        yield hub


@pytest.fixture
def new_hub(running_hub: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A stand-in hub without models, which this process takes for the hub, and has asked nothing yet."""
    from regmean_lab.models import hub, hub_uploads

    running_hub.forget()
    running_hub.use(monkeypatch, tmp_path / "cache")
    for asked in (hub._find, hub.conversion_on_hub, hub_uploads._asked):
        asked.cache_clear()
    return running_hub
