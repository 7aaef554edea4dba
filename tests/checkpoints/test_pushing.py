"""``push=owner/name`` of ``regmean-lab merge`` and ``regmean-lab collect``, to a stand-in for the hub."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_folders import save_classifier, tensors_of
from huggingface_hub import HfApi, ModelCard
from omegaconf import DictConfig
from stand_in_hub import Account, StandInHub, files_of
from transformers import AutoModelForSequenceClassification

from regmean_lab.checkpoints import collect_command, evaluate_command, merge_command
from regmean_lab.checkpoints.publishing.card import BEGIN
from regmean_lab.checkpoints.sources import find_sources
from regmean_lab.config.schema import ConfigurationError
from regmean_lab.models import hub, hub_uploads
from regmean_lab.models.hub_uploads import PushError
from regmean_lab.statistics import GramFile, StatisticsError

TEXTS = [
    f"the {one} was {two}" for one in ("film", "river", "sun", "music") for two in ("happy", "angry", "good", "bad")
]


@pytest.fixture
def server(new_hub: StandInHub, monkeypatch: pytest.MonkeyPatch) -> StandInHub:
    """A hub without models, for whose account ``me`` this process has a token."""
    new_hub.log_in(monkeypatch, Account("me"))
    return new_hub


@pytest.fixture
def compose(compose_job: Callable[..., Any], tmp_path: Path) -> Callable[..., DictConfig]:
    paths = [f"paths.output_dir={tmp_path}/outputs", f"paths.zoo_dir={tmp_path}/zoo"]
    return partial(compose_job, *paths, "trainer=cpu", "trainer.progress_bar=false")


@pytest.fixture
def members(tmp_path: Path, pico_cache: Path) -> list[str]:
    for number, name in enumerate(("one", "two")):
        save_classifier(tmp_path / name, pico_cache, number)
    return [f"checkpoints=[{tmp_path / 'one'},{tmp_path / 'two'}]", "method=simple"]


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.jsonl"
    rows = [{"text": text, "label": ("anger", "fear", "joy")[number % 3]} for number, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS * 8))
    return path


def there(server: StandInHub, name: str) -> dict[str, bytes]:
    repository = server.repositories[name]
    return dict(repository.commits[repository.references["main"]].files)


def problems(module: Any, config: DictConfig) -> list[str]:
    hub_uploads._asked.cache_clear()
    with pytest.raises(ConfigurationError) as raised:
        module.check(config)
    return raised.value.problems


class TestMerge:
    def test_the_folder_is_pushed_when_it_is_finished(
        self,
        server: StandInHub,
        compose: Callable[..., DictConfig],
        members: list[str],
        scored: Path,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO)
        config = compose(
            *members, "push=me/merged", f"output={tmp_path}/out", f"evaluate={scored}", root="merge_checkpoints"
        )
        merge_command.check(config)
        assert server.repositories == {}
        measured = merge_command.run(config, tmp_path / "job")
        repository = server.repositories["me/merged"]
        assert repository.private
        pushed = there(server, "me/merged")
        assert pushed.pop(".gitattributes")
        assert pushed == files_of(tmp_path / "out")
        assert set(pushed) >= {"model.safetensors", "config.json", "merge.json", "README.md", "tokenizer.json"}
        assert repository.commits[repository.references["main"]].title == "Merge of one + two by simple"
        total = sum(map(len, pushed.values()))
        assert f"are pushed to {server.url}/me/merged (private, new)" in caplog.text
        assert f": {len(pushed)} files, {total:,} bytes" in caplog.text
        assert f"  model.safetensors ({len(pushed['model.safetensors']):,} bytes)" in caplog.text
        data = ModelCard.load(tmp_path / "out" / "README.md").data
        assert (data.pipeline_tag, data.library_name) == ("text-classification", "transformers")
        assert measured is not None
        own = measured.results[-1].metrics["reviews"]
        values = {one.metric_name: one.metric_value for one in data.eval_results or []}
        assert values == {name: pytest.approx(value / 100, abs=1e-6) for name, value in own.items()}
        (source,) = find_sources(["me/merged"], tmp_path / "models")  # somebody reads it
        assert all(
            torch.equal(value, tensors_of(tmp_path / "out")[name]) for name, value in tensors_of(source.folder).items()
        )
        caplog.clear()
        merge_command.run(config, tmp_path / "job")  # found, and nothing is new
        assert "pushed nothing: " in caplog.text

    def test_another_merge_takes_the_place_of_the_one_before(
        self, server: StandInHub, compose: Callable[..., DictConfig], members: list[str], tmp_path: Path
    ) -> None:
        run = partial(compose, *members, "push=me/merged", root="merge_checkpoints")
        merge_command.run(run("max_shard_size=20KB", f"output={tmp_path}/out"), tmp_path / "job")
        assert "model.safetensors.index.json" in there(server, "me/merged")
        server.repositories["me/merged"].commit({**there(server, "me/merged"), "figure.png": b"mine"})
        config = run("method=slerp", f"output={tmp_path}/other", "private=false")
        merge_command.run(config, tmp_path / "job")
        left = set(there(server, "me/merged")) - {".gitattributes"}
        assert left == {*files_of(tmp_path / "other"), "figure.png"}  # no shard of the first
        assert server.repositories["me/merged"].private  # as it was

    def test_what_stands_against_it_is_told_before_the_work(
        self, server: StandInHub, compose: Callable[..., DictConfig], members: list[str], tmp_path: Path
    ) -> None:
        run = partial(compose, *members, root="merge_checkpoints")
        server.add("me/other", {"config.json": b"{}", "README.md": b"", "model.safetensors": b"x"}, private=True)
        (found,) = problems(merge_command, run("push=me/other"))
        told = "no merge has written it (it has config.json, model.safetensors); choose another name"
        assert found == f"push: me/other is there and {told}"
        found = problems(merge_command, run("push=you/new", "heads=both", f"output={tmp_path / 'one'}"))
        assert [one.partition(":")[0] for one in found] == ["heads", "output", "push"]
        assert "push: there is no you/new, and you cannot make one" in problems(merge_command, run("push=you/new"))[0]
        with pytest.raises(ConfigurationError, match="no merge has written it"):
            merge_command.run(run("push=me/other", f"output={tmp_path}/out"), tmp_path / "job")
        assert not (tmp_path / "out").exists()
        server.add("me/empty", {".gitattributes": b"", "README.md": b"soon"}, private=True)
        merge_command.check(run("push=me/empty"))

    def test_statistics_are_not_pushed_with_a_merge(
        self, server: StandInHub, compose: Callable[..., DictConfig], members: list[str], texts: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        merge = compose(*members, "push=me/merged", f"output={out}", root="merge_checkpoints")
        merge_command.run(merge, tmp_path / "job")
        collect = partial(compose, f"checkpoint={out}", f"data={texts}", root="collect_statistics")
        collect_command.run(collect("allow_few_rows=true"), tmp_path / "job")
        hub_uploads._asked.cache_clear()
        with pytest.raises(
            ConfigurationError, match=r"gram\.safetensors is there and not in me/merged, and is not pushed"
        ):
            merge_command.run(merge, tmp_path / "job")
        assert "gram.safetensors is there" in problems(merge_command, merge)[0]
        collect_command.run(collect("push=me/merged", "exclude_layers=[classifier,*.pooler.*]"), tmp_path / "job")
        merge_command.run(merge, tmp_path / "job")  # they are there already
        pushed = there(server, "me/merged")
        assert pushed["statistics/gram.safetensors"] == (out / "statistics" / "gram.safetensors").read_bytes()

    def test_a_merge_that_fails_pushes_nothing(
        self,
        server: StandInHub,
        compose: Callable[..., DictConfig],
        members: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(*arguments: object, **named: object) -> None:
            raise RuntimeError("the disk is full")

        monkeypatch.setattr(merge_command, "write_output", fail)
        config = compose(*members, "push=me/merged", f"output={tmp_path}/out", root="merge_checkpoints")
        with pytest.raises(RuntimeError, match="the disk is full"):
            merge_command.run(config, tmp_path / "job")
        assert server.repositories == {}
        assert not [entry for entry in server.asked if not entry.startswith(("GET", "HEAD"))]

    def test_a_push_that_fails_leaves_the_merge(
        self, server: StandInHub, compose: Callable[..., DictConfig], members: list[str], tmp_path: Path
    ) -> None:
        config = compose(*members, "push=me/merged", f"output={tmp_path}/out", root="merge_checkpoints")
        server.failing["/commit/"] = 500
        with pytest.raises(
            PushError, match=r"not pushed to me/merged: .*The same command tries again; what is finished"
        ):
            merge_command.run(config, tmp_path / "job")
        assert (tmp_path / "out" / "merge.json").is_file()
        server.failing.clear()
        hub_uploads._asked.cache_clear()
        merge_command.run(config, tmp_path / "job")
        assert "merge.json" in there(server, "me/merged")

    def test_scores_of_evaluate_come_along(
        self, server: StandInHub, compose: Callable[..., DictConfig], members: list[str], scored: Path, tmp_path: Path
    ) -> None:
        merge = compose(*members, "push=me/merged", f"output={tmp_path}/out", root="merge_checkpoints")
        merge_command.run(merge, tmp_path / "job")
        assert b"model-index" not in there(server, "me/merged")["README.md"]
        checkpoints = f"checkpoint=[{tmp_path}/out,{tmp_path}/one]"
        measured = evaluate_command.run(
            compose(checkpoints, f"data={scored}", "card=true", root="evaluate"), tmp_path / "e"
        )
        assert f"scores of out are in {tmp_path}/out/README.md" in measured.lines
        assert "one: it has no card here" in measured.lines
        merge_command.run(merge, tmp_path / "job")
        assert b"model-index" in there(server, "me/merged")["README.md"]


class TestStatistics:
    def test_they_are_pushed_beside_the_model(
        self,
        server: StandInHub,
        compose: Callable[..., DictConfig],
        members: list[str],
        texts: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        card = b"---\nlicense: mit # mine\ntags:\n- reviews\n---\n# One\n"
        server.add("me/one", {**files_of(tmp_path / "one"), "README.md": card, "extra.txt": b"x"}, private=True)
        collect = partial(compose, f"data={texts}", "exclude_layers=[classifier,*.pooler.*]", root="collect_statistics")
        config = collect(f"checkpoint={tmp_path / 'one'}", "push=me/one")
        collect_command.check(config)
        collect_command.run(config, tmp_path / "job")
        pushed, local = there(server, "me/one"), tmp_path / "one" / "statistics" / "gram.safetensors"
        assert pushed["statistics/gram.safetensors"] == local.read_bytes()
        assert b"checkpoints=[me/one,OTHER]" in pushed["statistics/README.md"]
        text = pushed["README.md"].decode()
        assert text.startswith("---\nlicense: mit # mine\ntags:\n- regmean-statistics\n- reviews\n---\n# One\n")
        assert text.count(BEGIN) == 1
        assert str(tmp_path) not in text
        assert pushed["extra.txt"] == b"x"
        printed = capsys.readouterr().out
        assert f"pushed to {server.url}/me/one (private)" in printed
        assert f"  statistics/gram.safetensors ({local.stat().st_size:,} bytes)" in printed
        assert "has no weights yet" not in printed
        # Somebody merges them from there.
        other = compose(
            f"checkpoint={tmp_path / 'two'}",
            f"data={texts}",
            "exclude_layers=[classifier,*.pooler.*]",
            root="collect_statistics",
        )
        collect_command.run(other, tmp_path / "job")
        hub._find.cache_clear()
        merge = compose(
            f"checkpoints=[me/one,{tmp_path / 'two'}]",
            "method.exclude_layers=[classifier,*.pooler.*]",
            f"output={tmp_path}/out",
            root="merge_checkpoints",
        )
        merge_command.run(merge, tmp_path / "job")
        data = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
        assert (data["base_model"], data["base_model_relation"]) == (["me/one"], "merge")
        capsys.readouterr()
        collect_command.run(config, tmp_path / "job")
        assert "gram: found" in (printed := capsys.readouterr().out)
        assert "pushed nothing: " in printed

    def test_those_of_a_model_of_the_hub_stay_of_it(
        self,
        server: StandInHub,
        compose: Callable[..., DictConfig],
        members: list[str],
        texts: Path,
        tmp_path: Path,
    ) -> None:
        """The push makes a new commit of the model, at which they are to be used; weights are told by their hashes."""
        for name in ("one", "two"):
            # Beside the weights, others in another format and for another program.
            others = {"model.fp16.safetensors": b"x", "onnx/model.safetensors": b"y"}
            server.add(f"me/{name}", {**files_of(tmp_path / name), **others}, private=True)
            collect = partial(
                compose, f"checkpoint=me/{name}", f"data={texts}", "allow_few_rows=true", root="collect_statistics"
            )
            collect_command.run(collect(), tmp_path / f"job-{name}")  # for oneself, without hashes
            collect_command.run(collect(f"push=me/{name}"), tmp_path / f"job-{name}")
            record = json.loads((tmp_path / f"job-{name}" / collect_command.RECORD_FILE).read_text())
            assert record["done"] == {"gram": "written again"}
            shutil.rmtree(tmp_path / name)
        hub._find.cache_clear()
        merge = compose("checkpoints=[me/one,me/two]", f"output={tmp_path}/out", root="merge_checkpoints")
        merge_command.run(merge, tmp_path / "job")
        assert (tmp_path / "out" / "model.safetensors").is_file()

    def test_the_guard_goes_before(
        self, server: StandInHub, compose: Callable[..., DictConfig], members: list[str], texts: Path, tmp_path: Path
    ) -> None:
        run = partial(
            compose, f"checkpoint={tmp_path / 'one'}", f"data={texts}", "push=me/new", root="collect_statistics"
        )
        texts.write_text("\n".join(TEXTS[:3]))
        with pytest.raises(StatisticsError, match="too few rows"):
            collect_command.run(run(), tmp_path / "job")
        # Measured for oneself with few rows, and found again by a command that pushes.
        collect_command.run(run("allow_few_rows=true", "push=null"), tmp_path / "job")
        with pytest.raises(StatisticsError, match="too few rows"):
            collect_command.run(run(), tmp_path / "job")
        assert server.repositories == {}
        collect_command.run(run("allow_few_rows=true"), tmp_path / "job")
        assert "statistics/gram.safetensors" in there(server, "me/new")

    def test_matrices_of_unknown_rows_are_not_pushed_unasked(
        self, server: StandInHub, compose: Callable[..., DictConfig], members: list[str], tmp_path: Path
    ) -> None:
        torch.save({"x": torch.ones(1)}, tmp_path / "gram.pkl")
        run = partial(
            compose,
            f"checkpoint={tmp_path / 'one'}",
            f"matrices={tmp_path / 'gram.pkl'}",
            "push=me/new",
            root="collect_statistics",
        )
        (found,) = problems(collect_command, run())
        assert found.startswith("rows: matrices of few rows give away the inputs, and the file does not say")
        collect_command.check(run("allow_few_rows=true"))
        collect_command.check(run("rows=100000"))
        assert server.repositories == {}

    def test_matrices_of_a_model_of_the_hub_need_none_of_its_weights(
        self,
        server: StandInHub,
        compose: Callable[..., DictConfig],
        members: list[str],
        tmp_path: Path,
    ) -> None:
        server.add("me/one", tmp_path / "one", private=True)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one")
        layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        torch.save({name: torch.eye(module.in_features) for name, module in layers.items()}, tmp_path / "gram.pkl")
        config = compose(
            *("checkpoint=me/one", f"matrices={tmp_path / 'gram.pkl'}", "rows=100000", "push=me/one"),
            root="collect_statistics",
        )
        collect_command.run(config, tmp_path / "job")
        assert not [entry for entry in server.asked if "resolve" in entry and "safetensors" in entry]
        sums = {"model.safetensors": hashlib.sha256((tmp_path / "one" / "model.safetensors").read_bytes()).hexdigest()}
        with GramFile(tmp_path / "job" / "statistics" / "gram.safetensors") as file:
            assert file.metadata["collected"]["model"]["weights_sha256"] == sums
            assert file.layers == list(layers)
        assert "statistics/gram.safetensors" in there(server, "me/one")

    def test_what_stands_against_it_is_told_before_the_work(
        self, server: StandInHub, compose: Callable[..., DictConfig], members: list[str], texts: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "one"
        run = partial(compose, f"checkpoint={folder}", f"data={texts}", root="collect_statistics")
        assert "expected owner/name" in problems(collect_command, run("push=one"))[0]
        server.add("me/one", {**files_of(tmp_path / "two"), "statistics/fisher.safetensors": b"x"}, private=True)
        (found,) = problems(collect_command, run("push=me/one"))
        assert "me/one has statistics/fisher.safetensors, which is not in" in found
        server.add("me/one", {**files_of(tmp_path / "two"), "README.md": f"# One\n{BEGIN}\n".encode()}, private=True)
        (found,) = problems(collect_command, run("push=me/one"))
        assert "push: README.md of me/one: expected" in found
        server.add("me/one", tmp_path / "two", private=True)
        hub_uploads._asked.cache_clear()
        with pytest.raises(ConfigurationError, match=r"me/one has other weights than those .*\(model\.safetensors\)"):
            collect_command.run(run("push=me/one"), tmp_path / "job")
        assert not (folder / "statistics").exists()
        (folder / "statistics").mkdir()
        (folder / "statistics" / "tokens.safetensors").write_bytes(b"private")
        (found,) = problems(collect_command, run("push=me/one"))
        assert "tokens.safetensors is there too, and its card would tell of it, but it is not among kinds" in found

    def test_a_card_can_be_left_alone(
        self,
        server: StandInHub,
        compose: Callable[..., DictConfig],
        members: list[str],
        texts: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        config = compose(
            *(f"checkpoint={tmp_path / 'one'}", f"data={texts}", "kinds=[tokens]", "card=false", "push=me/new"),
            "private=false",
            root="collect_statistics",
        )
        collect_command.run(config, tmp_path / "job")
        assert not server.repositories["me/new"].private
        assert set(there(server, "me/new")) == {
            ".gitattributes",
            "statistics/tokens.safetensors",
            "statistics/README.md",
        }
        assert "me/new has no weights yet" in capsys.readouterr().out

    def test_the_hub_finds_them_by_their_tag(
        self, server: StandInHub, compose: Callable[..., DictConfig], members: list[str], texts: Path, tmp_path: Path
    ) -> None:
        config = compose(
            *(f"checkpoint={tmp_path / 'one'}", f"data={texts}", "kinds=[tokens]", "push=me/new"),
            root="collect_statistics",
        )
        collect_command.run(config, tmp_path / "job")
        path = HfApi().hf_hub_download("me/new", "README.md")
        assert ModelCard.load(path).data.tags == ["regmean-statistics"]
        digest = hashlib.sha256((tmp_path / "one" / "statistics" / "tokens.safetensors").read_bytes()).hexdigest()
        assert digest in server.stored


def test_no_two_jobs_of_a_sweep_push_to_one_repository(compose: Callable[..., DictConfig], tmp_path: Path) -> None:
    merge = compose("checkpoints=[a,b]", "push=me/merged", root="merge_checkpoints")
    assert [key for key, _ in merge_command.written(merge)] == ["push"]
    collect = compose("checkpoint=a/b", "data=x.txt", "push=me/merged", root="collect_statistics")
    assert collect_command.written(collect) == merge_command.written(merge)
