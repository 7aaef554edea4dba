"""Published settings of a suite and a model: what ``conf/published`` has for one job, as Hydra merges it.

``published/SUITE-MODEL.yaml`` has the keys of a configuration, with two differences. Below ``method`` there is a block
for each method, of which the chosen one counts. Below ``fidelity`` there is what ``fidelity=published`` sets besides.
``published/SUITE.yaml`` has what all models of a suite share, ``published/default.yaml`` what all suites share; the
file that says more about the job wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigSource
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from regmean_lab.utils.names import did_you_mean

CONFIG = ObjectType.CONFIG
FOLDER = "published"
FIDELITY = "fidelity"
FOR_ALL_SUITES = "default"
SWITCHED_ON = "published"
"""The option of the group ``fidelity`` that sets what stands below that key."""


class PublishedError(ConfigCompositionException):
    """A file of published settings that cannot be used; ``problems`` has a message for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def is_published(sources: Sequence[ConfigSource], suite: str, model: str) -> bool:
    """Whether there are published settings that a suite and a model may have."""
    return next(_found(sources, suite, model), None) is not None


def published_settings(
    sources: Sequence[ConfigSource], suite: str, model: str, method: str, fidelity: str
) -> DictConfig:
    """What is published for a suite, a model and a method.

    Args:
        sources: where YAML is looked for; of files with the same name the first one counts.
        suite: an option of the group ``suite``.
        model: an option of the group ``model``.
        method: an option of the group ``method``.
        fidelity: an option of the group ``fidelity``.

    Raises:
        PublishedError: with everything that is wrong with one of the files.
    """
    always: list[DictConfig] = []
    switched: list[DictConfig] = []
    for source, path in _found(sources, suite, model):
        content = source.load_config(path).config
        if problems := [f"{source.path}/{path}.yaml: {problem}" for problem in _problems(content, suite, sources)]:
            raise PublishedError(problems)
        assert isinstance(content, DictConfig)
        if (block := content.pop(FIDELITY, None)) is not None:
            switched.append(_for_method(block, method))
        always.append(_for_method(content, method))
    merged = OmegaConf.merge(*always, *(switched if fidelity == SWITCHED_ON else ()))
    assert isinstance(merged, DictConfig)
    return merged


def _for_method(part: DictConfig, method: str) -> DictConfig:
    """A part of a file with the settings of the chosen method in place of a block for each."""
    blocks = part.pop("method", None) or {}
    if method in blocks:
        part.method = blocks[method]
    return part


def _found(sources: Sequence[ConfigSource], suite: str, model: str) -> Iterator[tuple[ConfigSource, str]]:
    """The files for a suite and a model, each with the place where it is; what says more about them comes later."""
    for name in (FOR_ALL_SUITES, suite, f"{suite}-{model}"):
        path = f"{FOLDER}/{name}"
        if (source := next((source for source in sources if source.is_config(path)), None)) is not None:
            yield source, path


def _problems(content: Any, suite: str, sources: Sequence[ConfigSource]) -> Iterator[str]:
    """What is wrong with a file: unknown keys and methods, and values of the wrong type.

    Of options without a schema of their name, such as a suite that somebody derived from another one, Hydra checks the
    values when it merges them.
    """
    plain = OmegaConf.to_container(content)
    if not isinstance(plain, dict):
        yield "expected keys and values"
        return
    schema = _schema("schema")
    assert schema is not None
    schema.suite = _schema(f"schema/suite/{suite}")
    keys = [str(key) for key in schema]
    for prefix, part, known in (
        ("", plain, [*keys, FIDELITY]),
        (f"{FIDELITY}.", {} if plain.get(FIDELITY) is None else plain[FIDELITY], keys),
    ):
        if not isinstance(part, dict):
            yield f"{FIDELITY}: expected keys and values"
            continue
        special = ["method", *([] if prefix else [FIDELITY]), *(["suite"] if schema.suite is None else [])]
        values = {key: value for key, value in part.items() if key not in special}
        yield from _value_problems(schema, values, prefix, known)
        if part.get("method") is not None:
            yield from _method_problems(part["method"], f"{prefix}method", sources)


def _method_problems(blocks: Any, prefix: str, sources: Sequence[ConfigSource]) -> Iterator[str]:
    if not isinstance(blocks, dict):
        yield f"{prefix}: expected a block for each method"
        return
    for name, block in blocks.items():
        schema = _schema(f"schema/method/{name}")
        if schema is None and name not in (methods := _methods(sources)):
            yield f"{prefix}.{name}: there is no such method; {did_you_mean(str(name), methods)}"
        elif not isinstance(block, dict):
            yield f"{prefix}.{name}: expected keys and values"
        elif schema is not None:
            yield from _value_problems(schema, block, f"{prefix}.{name}.", [str(key) for key in schema])


def _methods(sources: Sequence[ConfigSource]) -> list[str]:
    """Options of the group ``method``, somebody's own among them."""
    return sorted({name for source in sources if source.is_group("method") for name in source.list("method", CONFIG)})


def _value_problems(schema: DictConfig, values: dict[Any, Any], prefix: str, known: Sequence[str]) -> Iterator[str]:
    for key, value in values.items():
        inner = schema._get_node(key) if key in schema else None
        if key not in known:
            yield f"{prefix}{key}: there is no such key; {did_you_mean(str(key), known)}"
        elif isinstance(inner, DictConfig) and isinstance(value, dict):
            yield from _value_problems(inner, value, f"{prefix}{key}.", [str(name) for name in inner])
        else:
            try:
                schema[key] = value
            except OmegaConfBaseException as error:
                yield f"{prefix}{key}: {str(error).splitlines()[0]}"


def _schema(path: str) -> DictConfig | None:
    """A schema, which may be changed; None: there is none."""
    from regmean_lab.config.schema_nodes import schema_of  # Hydra imports this module wherever it finds plugins

    return schema_of(path)
