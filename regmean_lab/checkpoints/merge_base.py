"""The model that checkpoints were trained from, under the names of the merged model."""

from __future__ import annotations

from collections.abc import Iterable

from regmean_lab.checkpoints.alignment import AlignedWeights
from regmean_lab.checkpoints.architecture_reading import read_architecture
from regmean_lab.checkpoints.compatibility import Agreement, base_orders
from regmean_lab.checkpoints.converted_weights import ConvertedWeights
from regmean_lab.checkpoints.lora.request import base_problems
from regmean_lab.checkpoints.members import Member, equal_tensors
from regmean_lab.checkpoints.names import ties
from regmean_lab.checkpoints.sources import Source
from regmean_lab.checkpoints.tokenizer_folders import read_tokens
from regmean_lab.checkpoints.weights import FileWeights
from regmean_lab.models.folders import CONFIG_FILE, stored_tensors
from regmean_lab.models.headers import CheckpointError
from regmean_lab.utils.names import abbreviated


def read_base(source: Source, agreement: Agreement, exact: bool = False) -> Member:
    """The base model's weights under the merged model's names; a new head has no base.

    Args:
        source: the base.
        agreement: of the models that were trained from it.
        exact: whether the base must compute with these weights as the models do: it is loaded with an adapter.

    Raises:
        CheckpointError: with all in which it is not their base.
    """
    lead = agreement.lead
    if source.is_adapter:
        raise CheckpointError([f"base: {source.reference} is an adapter; expected a whole model"])
    tensors = stored_tensors(source.folder)
    own = read_architecture(source.folder, len(tensors), stored=tensors, lenient=True)
    if own.model_type != lead.architecture.model_type:
        raise CheckpointError(
            [f"base: a {own.model_type} model; the checkpoints are {lead.architecture.model_type} models"]
        )
    # As transformers would load it into the class of the checkpoints.
    names = lead.architecture.stored_names(tensors)
    weights = ConvertedWeights(FileWeights(tensors), names, lead.architecture)
    values, _ = ties(lead.architecture.tied, names.found, lambda one, other: equal_tensors(weights, one, other))
    same_head = own.name == lead.architecture.name and own.labels == lead.architecture.labels
    wanted = [name for name in agreement.names if same_head or name not in lead.architecture.head]
    for name in wanted:  # weights that the base ties, and the merged model does not
        if name not in values and (tied := own.leaders.get(name)) in values:
            values[name] = values[tied]
    origins = {name: values[name] for name in wanted if name in values}
    if not origins:
        there = f"; its files have names such as {abbreviated(names.strangers)}" if names.strangers else ""
        raise CheckpointError([f"base: {source.reference} has none of the checkpoints' parameters{there}"])
    found = [f"base: {problem}" for problem in names.problems]
    missing = [name for name in agreement.names if name not in origins]
    if lost := [
        name for name in missing if name in wanted and lead.architecture.encoder_part(name) in own.encoder_parts
    ]:
        there = f"; they have {abbreviated(names.strangers)}, which it does not know" if names.strangers else ""
        found.append(f"base: its files lack {abbreviated(lost)} of {lead.architecture.name}{there}")
    tokens, folder = read_tokens([source.folder])
    base = Member(
        source,
        lead.architecture,
        AlignedWeights(weights, origins),
        {name: weights.dtype(origin) for name, origin in origins.items()},
        tokens,
        folder,
        [*dict.fromkeys(tensor.path for tensor in tensors.values()), source.folder / CONFIG_FILE],
    )
    orders = base_orders(lead, base)
    for name in origins:
        shape = base.weights.shape(name)
        if name in orders:
            shape = (len(orders[name].rows), *shape[1:])
        if shape != (expected := lead.weights.shape(name)):
            found.append(f"base: {name}: shape {shape}, in the checkpoints {expected}")
    if exact:
        found += base_problems(lead, base, own)
        leaders = lead.architecture.leaders
        found += [
            f"base: {leaders[name]} and {name} are two weights there, and one in the checkpoints; write the whole model"
            for name in values
            if name in leaders and values.get(leaders[name], values[name]) != values[name]
        ]
    if found:
        raise CheckpointError(found)
    return base


def aligned_base(base: Member, lead: Member, names: Iterable[str]) -> AlignedWeights:
    """The base's weights as they are merged, with rows in the merged model's order; those that it lacks are the lead's.

    Args:
        base: the base.
        lead: the member whose order of rows the merged model has.
        names: the tensors that are wanted; those that the base does not have are left out.
    """
    own = {name: name for name in names if name in base.weights}
    return AlignedWeights(base.weights, own, base_orders(lead, base), filler=lead.weights)
