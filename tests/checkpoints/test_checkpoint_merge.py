"""Merging folders: the merged tensors against plain sums over what another library reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_folders import LABELS, merge_into, randomise, save_classifier, save_decoder, tensors_of, tokenizer_of
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForPreTraining,
)

from regmean_lab.checkpoints.heads import load_with_head
from regmean_lab.checkpoints.merge import MergeRequest, prepare_merge, statistics_problems
from regmean_lab.checkpoints.output import checksums, find_merged, fingerprint, output_problem
from regmean_lab.merging import MergeError, MergeMethod, method_types
from regmean_lab.merging.auto import Auto
from regmean_lab.merging.fisher import Fisher
from regmean_lab.merging.mats import Mats
from regmean_lab.merging.regmean import RegMean
from regmean_lab.merging.simple import Simple
from regmean_lab.merging.task_arithmetic import TaskArithmetic
from regmean_lab.merging.ties import Ties
from regmean_lab.models.headers import CheckpointError
from regmean_lab.statistics import (
    FisherStatistics,
    GradientGramStatistics,
    GramStatistics,
    linear_layers,
    save_fisher,
    save_gradient_gram,
    save_gram,
)

EMBEDDING = "bert.embeddings.word_embeddings.weight"


def mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.double() for tensor in tensors]).mean(0)


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.double(), other.double(), rtol=1e-6, atol=1e-7)


def refused(checkpoints: Sequence[Path], method: MergeMethod | None = None, **settings: object) -> list[str]:
    request = MergeRequest([str(path) for path in checkpoints], method or Simple(), **settings)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError) as caught:
        prepare_merge(request)
    return caught.value.problems


def test_patterns_that_match_nothing_are_told_before_any_weights_are_read(tmp_path: Path, pico_cache: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for seed, folder in enumerate(folders):
        save_classifier(folder, pico_cache, seed)
    assert refused(folders, RegMean(exclude_layers=["*.dens"], gram_from="estimated"), base=str(folders[0])) == [
        "method.exclude_layers: no linear layer matches *.dens"
    ]
    assert refused(folders, Simple(keep_layers=["clasifier"])) == [
        "method.keep_layers: no module or parameter matches clasifier"
    ]


def test_mean_of_two_folders(tmp_path: Path, pico_cache: Path) -> None:
    models = [save_classifier(tmp_path / name, pico_cache, seed) for seed, name in enumerate("ab")]
    merged = merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple())
    states = [model.state_dict() for model in models]
    loaded = AutoModelForSequenceClassification.from_pretrained(merged)
    assert all(close(value, mean([state[name] for state in states])) for name, value in loaded.state_dict().items())
    assert loaded.config.id2label == dict(enumerate(LABELS))
    assert tokenizer_of(merged).get_vocab() == tokenizer_of(tmp_path / "a").get_vocab()
    record = json.loads((merged / "merge.json").read_text())
    assert [source["name"] for source in record["checkpoints"]] == ["a", "b"]
    assert str(tmp_path) not in (merged / "README.md").read_text()


def test_files_and_shards_make_no_difference(tmp_path: Path, pico_cache: Path) -> None:
    for name, size in (("a", "5GB"), ("b", "20KB"), ("c", "5GB")):
        save_classifier(tmp_path / name, pico_cache, seed=0 if name == "a" else 1, max_shard_size=size)
    whole = merge_into(tmp_path / "whole", [tmp_path / "a", tmp_path / "c"], Simple())
    parts = merge_into(tmp_path / "parts", [tmp_path / "a", tmp_path / "b"], Simple(), max_shard_size=20_000)
    assert len(list((tmp_path / "b").glob("model-*.safetensors"))) > 1
    files = list(parts.glob("model-*.safetensors"))
    assert len(files) > 1
    assert all(file.stat().st_size < 40_000 for file in files)
    one, other = tensors_of(whole), tensors_of(parts)
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    AutoModelForSequenceClassification.from_pretrained(parts)


def test_labels_are_matched_by_name(tmp_path: Path, pico_cache: Path) -> None:
    order = [2, 0, 1]
    one = save_classifier(tmp_path / "a", pico_cache, 0)
    other = save_classifier(tmp_path / "b", pico_cache, 1, labels=[LABELS[number] for number in order])
    merged = tensors_of(merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple()))
    for name in ("classifier.weight", "classifier.bias"):
        rows = other.state_dict()[name]
        expected = torch.empty_like(rows)
        for place, number in enumerate(order):
            expected[number] = rows[place]
        assert close(merged[name], mean([one.state_dict()[name], expected]))


def test_tokens_are_matched_by_text(tmp_path: Path, pico_cache: Path) -> None:
    """One model has two tokens more, another has them in another order."""
    plain = save_classifier(tmp_path / "plain", pico_cache, 0).state_dict()[EMBEDDING]
    more = save_classifier(tmp_path / "more", pico_cache, 1, tokens=["<x>", "<y>"]).state_dict()[EMBEDDING]
    turned = save_classifier(tmp_path / "turned", pico_cache, 2, tokens=["<y>", "<x>"]).state_dict()[EMBEDDING]
    count = len(plain)
    folders = [tmp_path / "plain", tmp_path / "more", tmp_path / "turned"]
    merged = merge_into(tmp_path / "out", folders, Simple(coefficients=[0.5, 0.2, 0.3]))
    table = tensors_of(merged)[EMBEDDING]
    shared = 0.5 * plain.double() + 0.2 * more[:count].double() + 0.3 * turned[:count].double()
    assert close(table[:count], shared)
    swapped = turned[count:].flip(0).double()
    assert close(table[count:], 0.4 * more[count:].double() + 0.6 * swapped)
    assert tokenizer_of(merged).get_vocab() == tokenizer_of(tmp_path / "more").get_vocab()
    assert len(AutoModel.from_pretrained(merged).embeddings.word_embeddings.weight) == count + 2


@pytest.mark.parametrize(
    "name", sorted(name for name, kind in method_types().items() if not (kind().statistics or kind().needs_text))
)
def test_rows_of_one_models_tokens_are_kept_from_it(tmp_path: Path, pico_cache: Path, name: str) -> None:
    method = method_types()[name]()
    base = save_classifier(tmp_path / "base", pico_cache, 9).state_dict()
    save_classifier(tmp_path / "a", pico_cache, 0)
    own = save_classifier(tmp_path / "b", pico_cache, 1, tokens=["<x>"]).state_dict()[EMBEDDING]
    folders = [tmp_path / "a", tmp_path / "b"]
    merged = merge_into(tmp_path / "out", folders, method, base=str(tmp_path / "base"))
    assert torch.equal(tensors_of(merged)[EMBEDDING][-1], own[-1])
    assert len(base[EMBEDDING]) == len(own) - 1


def test_tied_weights_under_one_name_or_both(tmp_path: Path, pico_cache: Path) -> None:
    one = save_decoder(tmp_path / "a", pico_cache, 0).state_dict()
    other = save_decoder(tmp_path / "b", pico_cache, 1).state_dict()
    both = {name: value.clone() for name, value in other.items()}
    assert {"lm_head.weight", "transformer.wte.weight"} <= set(both)
    save_file(both, tmp_path / "b" / "model.safetensors", metadata={"format": "pt"})
    merged = merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple())
    assert len([name for name in tensors_of(merged) if "wte" in name or "lm_head" in name]) == 1
    loaded = AutoModelForCausalLM.from_pretrained(merged)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert close(loaded.lm_head.weight, mean([one["lm_head.weight"], other["lm_head.weight"]]))
    both["lm_head.weight"][0, 0] += 1
    save_file(both, tmp_path / "b" / "model.safetensors", metadata={"format": "pt"})
    # Not equal any more: transformers does not tie them then, and what it loads is what is merged.
    apart = merge_into(tmp_path / "apart", [tmp_path / "a", tmp_path / "b"], Simple())
    loaded = AutoModelForCausalLM.from_pretrained(apart)
    for name in ("lm_head.weight", "transformer.wte.weight"):
        assert close(loaded.state_dict()[name], mean([one[name], both[name]]))


def test_half_precision_is_merged_in_float32(tmp_path: Path, pico_cache: Path) -> None:
    models = [
        save_classifier(tmp_path / name, pico_cache, seed, dtype=dtype)
        for seed, (name, dtype) in enumerate({"a": torch.bfloat16, "b": torch.float16, "c": torch.bfloat16}.items())
    ]
    folders = [tmp_path / name for name in "abc"]
    first = merge_into(tmp_path / "first", folders, Simple())
    chosen = merge_into(tmp_path / "chosen", folders, Simple(), dtype=torch.float32)
    states = [model.state_dict() for model in models]
    full = tensors_of(chosen)
    for name, value in tensors_of(first).items():
        assert value.dtype == torch.bfloat16
        assert full[name].dtype == torch.float32
        assert close(full[name], mean([state[name] for state in states]))
        assert torch.equal(value, full[name].bfloat16())
    assert AutoModel.from_pretrained(first).dtype == torch.bfloat16


def test_task_vectors_against_a_base_without_the_head(tmp_path: Path, pico_cache: Path) -> None:
    models = [save_classifier(tmp_path / name, pico_cache, seed) for seed, name in enumerate("ab")]
    start = AutoModel.from_pretrained(tmp_path / "a")
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.mul_(0.5)
    start.save_pretrained(tmp_path / "base")  # its names lack the prefix
    merged = tensors_of(
        merge_into(
            tmp_path / "out",
            [tmp_path / "a", tmp_path / "b"],
            TaskArithmetic(scaling=0.3),
            base=str(tmp_path / "base"),
        )
    )
    states, zero = [model.state_dict() for model in models], start.state_dict()
    for name, value in merged.items():
        own = [state[name].double() for state in states]
        if name.startswith("bert."):
            based = zero[name.removeprefix("bert.")].double()
            expected = based + 0.3 * sum(tensor - based for tensor in own)
        else:
            expected = mean(own)
        assert close(value, expected), name


class TestHeads:
    def save_two(self, tmp_path: Path, pico_cache: Path) -> list[Path]:
        save_classifier(tmp_path / "moods", pico_cache, 0)
        save_classifier(tmp_path / "topics", pico_cache, 1, labels=["sports", "news"])
        return [tmp_path / "moods", tmp_path / "topics"]

    def test_of_other_labels_cannot_be_merged(self, tmp_path: Path, pico_cache: Path) -> None:
        (problem,) = refused(self.save_two(tmp_path, pico_cache))
        assert "heads=keep" in problem
        assert "sports" in problem

    def test_are_kept_beside_the_encoder(self, tmp_path: Path, pico_cache: Path) -> None:
        folders = self.save_two(tmp_path, pico_cache)
        merged = merge_into(tmp_path / "out", folders, Simple(), heads="keep")
        encoder = AutoModel.from_pretrained(merged)
        for folder in folders:
            model = load_with_head(merged, folder.name)
            own = tensors_of(folder)
            assert torch.equal(model.classifier.weight, own["classifier.weight"])
            assert torch.equal(model.bert.pooler.dense.weight, encoder.pooler.dense.weight)
            assert model.config.num_labels == len(own["classifier.bias"])
        with pytest.raises(CheckpointError, match="moods, topics"):
            load_with_head(merged, "other")

    def test_of_other_kinds_are_kept(self, tmp_path: Path, pico_cache: Path) -> None:
        """A classifier of texts and a language model on the same encoder."""
        source = save_classifier(tmp_path / "moods", pico_cache, 0)
        config = BertConfig.from_pretrained(tmp_path / "moods")
        randomise(BertForPreTraining(config), 1).save_pretrained(tmp_path / "words")
        (problem,) = refused([tmp_path / "words", tmp_path / "moods"])
        assert "BertForPreTraining" in problem
        folders = [tmp_path / "words", tmp_path / "moods"]
        merged = merge_into(tmp_path / "out", folders, Simple(), heads="keep")
        assert all(name.startswith("bert.") for name in tensors_of(merged))
        assert torch.equal(load_with_head(merged, "moods").classifier.weight, source.classifier.weight)
        words, own = load_with_head(merged, "words"), tensors_of(tmp_path / "words")
        assert torch.equal(words.cls.predictions.transform.dense.weight, own["cls.predictions.transform.dense.weight"])
        assert words.cls.predictions.decoder.weight is words.bert.embeddings.word_embeddings.weight

    def test_are_dropped(self, tmp_path: Path, pico_cache: Path) -> None:
        folders = self.save_two(tmp_path, pico_cache)
        merged = merge_into(tmp_path / "out", folders, Simple(), heads="drop")
        assert not any("classifier" in name for name in tensors_of(merged))
        assert not (merged / "heads").exists()
        encoder = AutoModel.from_pretrained(merged).state_dict()
        owns = [tensors_of(folder) for folder in folders]
        assert all(close(value, mean([own[f"bert.{name}"] for own in owns])) for name, value in encoder.items())

    def test_layers_that_a_method_leaves_are_kept_too(self, tmp_path: Path, pico_cache: Path) -> None:
        folders = self.save_two(tmp_path, pico_cache)
        method = Simple(keep_layers=["bert.pooler"])
        merged = merge_into(tmp_path / "out", folders, method, heads="keep")
        assert "bert.pooler.dense.weight" not in tensors_of(merged)
        model = load_with_head(merged, "topics")
        assert torch.equal(model.bert.pooler.dense.weight, tensors_of(folders[1])["bert.pooler.dense.weight"])


class TestStatistics:
    """Statistics drawn at random: the merged folder against the library's own merge of states and statistics."""

    def statistics(self, folder: Path, model: torch.nn.Module, seed: int, **metadata: object) -> None:
        generator = torch.Generator().manual_seed(seed)
        layers = linear_layers(model)
        shapes = {name: reversed(module.weight.shape) for name, module in layers.items()}
        grams, gradients = {}, {}
        for name, (inputs, outputs) in shapes.items():
            rows = torch.randn(2 * inputs, inputs, generator=generator)
            grams[name] = rows.T @ rows / len(rows)
            rows = torch.randn(2 * outputs, outputs, generator=generator)
            gradients[name] = rows.T @ rows / len(rows)
        same = {name: name for name in grams}
        counts = dict.fromkeys(grams, 100)
        save_gram(
            folder / "statistics" / "gram.safetensors",
            GramStatistics(grams, same, counts, 10, 1),
            dict(metadata),  # type: ignore[arg-type]
        )
        save_gradient_gram(
            folder / "statistics" / "gradient_gram.safetensors",
            GradientGramStatistics(gradients, counts, 10, 1, "true", "single_label"),
            {},
        )
        fisher = {name: torch.rand(value.shape, generator=generator) for name, value in model.named_parameters()}
        save_fisher(
            folder / "statistics" / "fisher.safetensors",
            FisherStatistics(fisher, {name: name for name in fisher}, 10, 1, "true", "single_label"),
            {},
        )

    @pytest.mark.parametrize("method", [RegMean(), Fisher(), Mats()], ids=lambda method: method.name)
    def test_follow_the_order_of_labels(self, tmp_path: Path, pico_cache: Path, method: MergeMethod) -> None:
        """Turning the labels of one checkpoint and of its statistics changes nothing."""
        order = [2, 0, 1]
        for seed, name in enumerate("ab"):
            self.statistics(tmp_path / name, save_classifier(tmp_path / name, pico_cache, seed), seed)
        turned = tmp_path / "turned" / "b"
        shutil.copytree(tmp_path / "b", turned)
        content = json.loads((turned / "config.json").read_text())
        content["id2label"] = {str(place): LABELS[number] for place, number in enumerate(order)}
        content["label2id"] = {LABELS[number]: place for place, number in enumerate(order)}
        (turned / "config.json").write_text(json.dumps(content))
        for path in (turned / "model.safetensors", *(turned / "statistics").glob("*.safetensors")):
            self.turn(path, order)
        plain = tensors_of(merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], method))
        other = tensors_of(merge_into(tmp_path / "out2", [tmp_path / "a", turned], method))
        assert set(plain) == set(other)
        assert all(torch.allclose(plain[name], other[name], atol=1e-5) for name in plain)

    @pytest.mark.parametrize("method", [RegMean(), Fisher(), Mats()], ids=lambda method: method.name)
    def test_of_a_bare_encoder_have_its_names(self, tmp_path: Path, pico_cache: Path, method: MergeMethod) -> None:
        """A classifier's encoder saved alone, with its statistics, merges as the classifier does."""
        for seed, name in enumerate("ab"):
            self.statistics(tmp_path / name, save_classifier(tmp_path / name, pico_cache, seed), seed)
        bare = tmp_path / "bare" / "b"
        shutil.copytree(tmp_path / "b", bare)
        AutoModel.from_pretrained(tmp_path / "b").save_pretrained(bare)
        for path in (bare / "statistics").glob("*.safetensors"):
            self.without_prefix(path)
        whole = merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], method, heads="drop")
        mixed = merge_into(tmp_path / "out2", [tmp_path / "a", bare], method, heads="drop")
        other = merge_into(tmp_path / "out3", [bare, tmp_path / "a"], method, heads="drop")
        expected, found, turned = (AutoModel.from_pretrained(folder).state_dict() for folder in (whole, mixed, other))
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
            assert torch.allclose(turned[name], value, atol=1e-4), name

    def without_prefix(self, path: Path) -> None:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            metadata = {key: text.replace('"bert.', '"') for key, text in file.metadata().items()}
            tensors = {name.removeprefix("bert."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors, path, metadata=metadata)

    def turn(self, path: Path, order: list[int]) -> None:
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        for name, value in tensors.items():
            if name.startswith("classifier") and path.stem != "gram":
                tensors[name] = value[order].contiguous()
                if path.stem == "gradient_gram":
                    tensors[name] = tensors[name][:, order].contiguous()
        save_file(tensors, path, metadata=metadata)

    def test_that_are_missing_are_told_with_the_command(self, tmp_path: Path, pico_cache: Path) -> None:
        for seed, name in enumerate("ab"):
            model = save_classifier(tmp_path / name, pico_cache, seed)
            if name == "a":
                self.statistics(tmp_path / name, model, seed)
        (problem,) = refused([tmp_path / "a", tmp_path / "b"], Mats())
        assert problem.startswith("b has no gram and no gradient_gram statistics")
        assert f"experiment=collect_statistics checkpoint={tmp_path / 'b'} kinds=[gram,gradient_gram]" in problem

    def test_of_another_model_are_refused(self, tmp_path: Path, pico_cache: Path) -> None:
        for seed, name in enumerate("ab"):
            save_classifier(tmp_path / name, pico_cache, seed)
            decoder = save_decoder(tmp_path / "decoder", pico_cache, seed)
            self.statistics(tmp_path / name, decoder, seed)
        found = refused([tmp_path / "a", tmp_path / "b"], RegMean())
        assert len(found) == 2
        assert all("nothing for bert.encoder" in problem for problem in found)
        assert "it is of another model" in refused([tmp_path / "a", tmp_path / "b"], Fisher())[0]

    def test_layers_that_were_left_out_are_told_with_the_setting(self, tmp_path: Path, pico_cache: Path) -> None:
        for seed, name in enumerate("ab"):
            model = save_classifier(tmp_path / name, pico_cache, seed)
            self.statistics(tmp_path / name, model, seed)
            widths = {layer: module.weight.shape[1] for layer, module in linear_layers(model).items()}
            grams = {layer: torch.eye(width) for layer, width in widths.items() if layer != "classifier"}
            measured = GramStatistics(grams, {layer: layer for layer in grams}, dict.fromkeys(grams, 100), 10, 1)
            save_gram(tmp_path / name / "statistics" / "gram.safetensors", measured, {})
        for method in (RegMean(), Auto(criterion="quadratic")):
            found = refused([tmp_path / "a", tmp_path / "b"], method)
            assert len(found) == 2
            assert all(problem.endswith("method.exclude_layers=[classifier] averages them") for problem in found), found
            excluding = replace(method, exclude_layers=["classifier"])
            prepare_merge(MergeRequest([str(tmp_path / "a"), str(tmp_path / "b")], excluding))
        assert refused([tmp_path / "a", tmp_path / "b"], Mats())[0].endswith("when it was collected")

    def test_without_any_it_is_told_what_does_without(self, tmp_path: Path, pico_cache: Path) -> None:
        for seed, name in enumerate("ab"):
            save_classifier(tmp_path / name, pico_cache, seed)
        for problem in refused([tmp_path / "a", tmp_path / "b"], Auto()):
            assert "kinds=[tokens] data=FILE; without them: Gram matrices of all of them" in problem
            assert problem.endswith("method=simple, which needs nothing, or method=actmat and base=FOLDER_OR_NAME")

    def test_of_other_weights_are_refused(self, tmp_path: Path, pico_cache: Path) -> None:
        for seed, name in enumerate("ab"):
            model = save_classifier(tmp_path / name, pico_cache, seed)
            self.statistics(tmp_path / name, model, seed)
        prepared = prepare_merge(MergeRequest([str(tmp_path / "a"), str(tmp_path / "b")], RegMean()))
        sums = checksums(prepared)
        assert statistics_problems(prepared, sums) == []
        right = {"model": {"weights_sha256": {"model.safetensors": sums["a"]["model.safetensors"]}}}
        self.statistics(tmp_path / "a", model, 0, collected=right)
        self.statistics(tmp_path / "b", model, 0, collected=right)
        (problem,) = statistics_problems(prepared, sums)
        assert "collected from other weights than those of b" in problem


class TestIncompatible:
    def test_architectures(self, tmp_path: Path, pico_cache: Path) -> None:
        save_classifier(tmp_path / "a", pico_cache, 0)
        save_decoder(tmp_path / "b", pico_cache, 0)
        assert refused([tmp_path / "a", tmp_path / "b"]) == ["b is a gpt2 model, a is a bert model"]

    def test_sizes_and_settings_all_at_once(self, tmp_path: Path, pico_cache: Path) -> None:
        for name in ("a", "b"):
            save_classifier(tmp_path / name, pico_cache, 0)
        path = tmp_path / "b" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": 4, "hidden_act": "relu"}))
        (problem,) = refused([tmp_path / "a", tmp_path / "b"])
        assert problem.startswith("config.json: hidden_act is 'relu' in b, 'gelu' in a; num_attention_heads is 4 in b")

    def test_files_that_are_not_what_the_configuration_says(self, tmp_path: Path, pico_cache: Path) -> None:
        model = save_classifier(tmp_path / "a", pico_cache, 0)
        save_classifier(tmp_path / "b", pico_cache, 0)
        state = dict(model.state_dict())
        del state["classifier.bias"]
        state["bert.pooler.dense.weight"] = torch.zeros(3, 16)
        save_file(state, tmp_path / "b" / "model.safetensors")
        found = refused([tmp_path / "a", tmp_path / "b"])
        assert len(found) == 2
        assert "lack classifier.bias" in found[0]
        assert "shape (3, 16), but its configuration says (16, 16)" in found[1]

    def test_tokenizers(self, tmp_path: Path, pico_cache: Path) -> None:
        save_classifier(tmp_path / "a", pico_cache, 0, tokens=["<x>"])
        save_classifier(tmp_path / "b", pico_cache, 0, tokens=["<y>"])
        found = refused([tmp_path / "a", tmp_path / "b"])
        assert len(found) == 2
        assert "'<y>'" in found[0]

    def test_missing_base_and_patterns_that_match_nothing(self, tmp_path: Path, pico_cache: Path) -> None:
        for name in ("a", "b"):
            save_classifier(tmp_path / name, pico_cache, 0)
        folders = [tmp_path / "a", tmp_path / "b"]
        assert "set base=FOLDER_OR_NAME" in refused(folders, Ties())[0]
        assert "matches clasifier" in refused(folders, Simple(keep_layers=["clasifier"]), heads="keep")[0]

    def test_base_of_another_size(self, tmp_path: Path, pico_cache: Path) -> None:
        for name in ("a", "b"):
            save_classifier(tmp_path / name, pico_cache, 0)
        save_decoder(tmp_path / "base", pico_cache, 0)
        assert refused([tmp_path / "a", tmp_path / "b"], Ties(), base=str(tmp_path / "base")) == [
            "base: a gpt2 model; the checkpoints are bert models"
        ]

    def test_weights_that_are_not_finite(self, tmp_path: Path, pico_cache: Path) -> None:
        for name in ("a", "b"):
            model = save_classifier(tmp_path / name, pico_cache, 0)
        state = dict(model.state_dict())
        state["classifier.bias"] = torch.tensor([0.0, float("nan"), 0.0])
        save_file(state, tmp_path / "b" / "model.safetensors")
        with pytest.raises(MergeError, match=r"classifier\.bias: NaN or infinity in the weights of b"):
            merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple())
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


class TestOutput:
    def test_is_found_again_until_something_changes(self, tmp_path: Path, pico_cache: Path) -> None:
        for seed, name in enumerate("ab"):
            save_classifier(tmp_path / name, pico_cache, seed)
        folders = [str(tmp_path / "a"), str(tmp_path / "b")]
        merged = merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple())
        prepared = prepare_merge(MergeRequest(folders, Simple()))
        wanted = fingerprint(prepared, {"name": "simple"}, checksums(prepared))
        later = {"name": "simple", "label_head": "merged"}  # a setting that 0.1 did not have
        assert fingerprint(prepared, later, checksums(prepared)) == wanted
        assert find_merged(merged, wanted)
        other = prepare_merge(MergeRequest(folders, Simple(), dtype=torch.float16))
        assert not find_merged(merged, fingerprint(other, {"name": "simple"}, checksums(other)))
        save_classifier(tmp_path / "b", pico_cache, 5)
        assert not find_merged(merged, fingerprint(prepared, {"name": "simple"}, checksums(prepared)))
        (merged / "model.safetensors").write_bytes(b"")
        assert not find_merged(merged, wanted)

    def test_does_not_take_the_place_of_something_else(self, tmp_path: Path) -> None:
        assert output_problem(tmp_path) is None
        (tmp_path / "thesis.tex").write_text("")
        assert "was not written by a merge" in (output_problem(tmp_path) or "")
        (tmp_path / "merge.json").write_text("{}")
        assert output_problem(tmp_path) is None

    def test_copies_no_file_from_elsewhere(self, tmp_path: Path, pico_cache: Path) -> None:
        for seed, name in enumerate("ab"):
            save_classifier(tmp_path / name, pico_cache, seed)
        (tmp_path / "secret").write_text("secret")
        (tmp_path / "a" / "merges.txt").symlink_to(tmp_path / "secret")
        with pytest.raises(CheckpointError, match="leads out of its folder"):
            merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple())
        assert not (tmp_path / "out").exists()


def test_heads_read_the_tokens_of_the_merged_model(tmp_path: Path, pico_cache: Path) -> None:
    """Also the head of a checkpoint with fewer tokens: what it had in its embedding is a part of the merged one."""
    one = save_classifier(tmp_path / "plain", pico_cache, 0)
    other = save_classifier(tmp_path / "more", pico_cache, 1, labels=("no", "yes"), tokens=["<x>"])
    merged = merge_into(tmp_path / "out", [tmp_path / "plain", tmp_path / "more"], Simple(), heads="keep")
    for name, own in (("plain", one), ("more", other)):
        loaded = load_with_head(merged, name)
        assert loaded.config.vocab_size == other.config.vocab_size == one.config.vocab_size + 1
        state = loaded.state_dict()
        assert torch.equal(state["classifier.weight"], own.state_dict()["classifier.weight"])
        expected = mean([model.state_dict()[EMBEDDING][: one.config.vocab_size] for model in (one, other)])
        assert close(state[EMBEDDING][:-1], expected)
        assert torch.equal(state[EMBEDDING][-1], other.state_dict()[EMBEDDING][-1])


@pytest.mark.parametrize("shard", [5 * 10**9, 2000])
@pytest.mark.parametrize(("value", "fits"), [(65504.0, True), (65519.0, True), (65520.0, False), (-1e5, False)])
def test_values_beyond_the_range_of_the_written_dtype(
    tmp_path: Path, pico_cache: Path, value: float, fits: bool, shard: int
) -> None:
    """Float16 holds what rounds to at most 65504; beyond, the tensor is named and nothing is there."""
    for name, dtype in (("one", torch.float32), ("two", torch.bfloat16), ("half", torch.float16)):
        save_classifier(tmp_path / name, pico_cache, 0, dtype=dtype)
    state = tensors_of(tmp_path / "one")
    state["bert.pooler.dense.bias"][3] = value
    save_file(state, tmp_path / "one" / "model.safetensors", metadata={"format": "pt"})
    one, out = tmp_path / "one", tmp_path / "merged" / "out"
    copies = [Path(shutil.copytree(one, tmp_path / f"copy{number}")) for number in range(2)]
    if fits:
        merge_into(out, [one, copies[0]], Simple(), dtype=torch.float16, max_shard_size=shard)
        assert tensors_of(out)["bert.pooler.dense.bias"][3] == 65504
    else:
        for settings in ({"dtype": torch.float16}, {}):
            merge_into(out, [one, copies[0]], Simple())
            before = tensors_of(out)
            members = [one, copies[0]] if settings else [tmp_path / "half", one, *copies]
            weights = Simple(coefficients=None if settings else [0.0, 1.0, 0.0, 0.0])
            with pytest.raises(MergeError, match=r"bert.pooler.dense.bias: its largest value .* range of float16") as e:
                merge_into(out, members, weights, max_shard_size=shard, **settings)
            assert f"{value:.6g}" in str(e.value)
            assert [path.name for path in out.parent.iterdir()] == ["out"]
            assert torch.equal(tensors_of(out)["bert.pooler.dense.bias"], before["bert.pooler.dense.bias"])


def test_what_loses_digits_is_noted(tmp_path: Path, pico_cache: Path) -> None:
    for name, dtype in (("half", torch.float16), ("whole", torch.float32)):
        save_classifier(tmp_path / name, pico_cache, 0, dtype=dtype)
    folders = [str(tmp_path / name) for name in ("half", "whole")]
    notes = prepare_merge(MergeRequest(folders, Simple())).agreement.notes
    assert "whole: tensors of float32, which are written as float16" in notes
    assert not prepare_merge(MergeRequest(folders[::-1], Simple())).agreement.notes


def test_encoders_with_and_without_a_pooler(tmp_path: Path, pico_cache: Path) -> None:
    encoders = []
    for seed, name in enumerate("abc"):
        classifier = save_classifier(tmp_path / "whole", pico_cache, seed)
        classifier.bert.save_pretrained(tmp_path / name)
        tokenizer_of(tmp_path / "whole").save_pretrained(tmp_path / name)
        encoders.append(classifier.bert.state_dict())
    for name in "bc":
        tensors = {key: value for key, value in tensors_of(tmp_path / name).items() if "pooler" not in key}
        save_file(tensors, tmp_path / name / "model.safetensors", {"format": "pt"})
    alone = tensors_of(merge_into(tmp_path / "alone", [tmp_path / "b", tmp_path / "c"], Simple()))
    assert not any("pooler" in name for name in alone)
    assert all(close(value, mean([state[name] for state in encoders[1:]])) for name, value in alone.items())
    dropped = tensors_of(merge_into(tmp_path / "out", [tmp_path / "a", tmp_path / "b"], Simple(), heads="drop"))
    both = {name: value for name, value in dropped.items() if "pooler" not in name}
    assert both
    assert all(close(value, mean([state[name] for state in encoders[:2]])) for name, value in both.items())
    with pytest.raises(CheckpointError, match="in a, not in b: pooler"):
        merge_into(tmp_path / "refused", [tmp_path / "a", tmp_path / "b"], Simple())
