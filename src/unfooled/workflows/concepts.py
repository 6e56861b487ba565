"""Attributes for training: those of the shapes, or of a user's table, by the rows of a data set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core import rng
from unfooled.core.class_names import few_names, plain_name
from unfooled.core.model.batching import batched
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.modes import evaluating
from unfooled.core.samples import blocks
from unfooled.data.dataset import Dataset
from unfooled.data.formats.attributes import names_of_constant, read_attributes
from unfooled.data.formats.folders import files_of
from unfooled.data.made.shapes import ATTRIBUTES, load_shapes
from unfooled.models.architectures import build, builder_of
from unfooled.models.known import kind_of
from unfooled.models.load import load_model
from unfooled.training.losses.concepts import attributes_of, concept_logits, head_of, on_rows
from unfooled.workflows.catalog import takes
from unfooled.workflows.errors import BadOption

LEARNT = 0.95
"""AUC from which on an attribute counts as learnt."""
NEGLIGIBLE = 1e-3
"""Size, relative to the largest weight of a head, up to which a weight counts as 0: gradient steps leave none at 0."""


@dataclass(frozen=True, eq=False)
class Concepts:
    """Attributes of the samples of a data set.

    Attributes:
        names: Names of the attributes that vary.
        values: Values in [0, 1], (N, n); NaN: unknown.
        left_out: Names of those that are constant, which are left out.
        held_out: Values of held-out samples, (M, n). None: there are none.
    """

    names: tuple[str, ...]
    values: Tensor
    left_out: tuple[str, ...] = ()
    held_out: Tensor | None = None


def concepts_of(data: Dataset, source: Any, table: str | Path | None) -> tuple[tuple[str, ...], Tensor]:
    """Return the names and values, (N, n), of the attributes of a data set.

    Args:
        data: The samples.
        source: Source that they were loaded from.
        table: CSV of attributes. None: those of the shapes.

    Raises:
        BadOption: The data have no attributes of their own, or are no folder of images that a table could name.
    """
    if table is None:
        if data.name.partition(":")[0] != "shapes":
            raise BadOption("{0} has no attributes of its own; give a table of them, {attributes:table.csv}", data.name)
        rho = float(data.name.partition(":")[2] or 0.25)
        made = load_shapes(int(data.index.max()) + 1, rho=rho, split=data.split)
        return ATTRIBUTES, made.attributes[data.index]
    if not isinstance(source, (str, Path)) or not Path(source).is_dir():
        raise BadOption("{attributes} names images by their path, and {0} is no folder of images", data.name)
    root, read = Path(source), read_attributes(table)
    files = files_of(root, data.split)
    return read.names, read.of([files[row] for row in data.index.tolist()], root)


def image_keys(x: Tensor) -> Tensor:
    """Return a hash of each image, rounded to 8 bits, (N,) int64, by which training images are recognised."""
    return torch.cat([rng.sample_keys((part * 255).round() / 255).cpu() for part in blocks(x)])


def names_of(start: Any, arch: str, *, trust_pickle: bool) -> Sequence[str] | None:
    """Return the names of the attributes of the network that training starts from; None where it states none."""
    return None if start is None else load_model(start, arch, trust_pickle=trust_pickle).attributes


def facts_of(concepts: Concepts | None, x: Tensor, start: Classifier | None) -> dict[str, Any]:
    """Return the entries of a checkpoint by which the columns and the training images of a concept network are known.

    Args:
        concepts: The attributes. None: there are none.
        x: Training images.
        start: Network that the training started from. None: it started from scratch.
    """
    if concepts is None or not concepts.names:
        return {}
    facts: dict[str, Any] = {"attributes": list(concepts.names), "left_out": list(concepts.left_out)}
    if start is None:
        return facts | {"trained_on": image_keys(x)}
    if start.trained_on is None:  # what it was trained on before is not known
        return facts
    return facts | {"trained_on": torch.cat([start.trained_on.cpu(), image_keys(x)]).unique()}


def match_columns(stated: Sequence[str], names: Sequence[str], spare: Collection[str], place: object) -> list[int]:
    """Return the column of a table for each attribute of a concept network, by name; empty if they share no name.

    Names are compared as those of classes: ignoring case, underscores and hyphens, unless two names differ by these.

    Args:
        stated: Names of the network's attributes.
        names: Names of the table's columns.
        spare: Columns that the network may lack: those that are constant, in its training or in the table.
        place: Name of the table for messages.

    Raises:
        BadOption: A column is missing, or is none of the network's; the message has both lists.
    """
    plain = all(len({plain_name(name) for name in part}) == len(part) for part in (stated, names))
    spelt = plain_name if plain else str
    places = {spelt(name): column for column, name in enumerate(names)}
    at = [places.get(spelt(name)) for name in stated]
    columns = [column for column in at if column is not None]
    unknown = [name for k, name in enumerate(names) if k not in columns]
    extra = [name for name in unknown if spelt(name) not in {spelt(one) for one in spare}]
    missing = [name for name, column in zip(stated, at, strict=True) if column is None]
    if not columns or not (missing or extra):
        return columns
    wrong = [f"lacks {few_names(missing)}"] if missing else []
    wrong += [f"has {few_names(extra)}, which the network does not know"] if extra else []
    raise BadOption(
        "the columns of {0} are not the attributes of the network: the table {1}; the table has {2}, the network {3}",
        place, " and ".join(wrong), few_names(names), few_names(stated),
    )  # fmt: skip


def varying(names: tuple[str, ...], values: Tensor) -> Concepts:
    """Return the attributes without those that are constant in training.

    Raises:
        BadOption: None is left.
    """
    constant = names_of_constant(values, names)
    columns = [column for column, name in enumerate(names) if name not in constant]
    if not columns:
        raise BadOption("all {0} attributes are constant in the training data; there is nothing to learn", len(names))
    return Concepts(tuple(names[column] for column in columns), values[:, columns], constant)


def with_attributes(
    objective: Any, data: Dataset, held_out: Dataset | None, source: Any, table: str | Path | None, *,
    names: Sequence[str] | None = None,
) -> tuple[Concepts, Any]:  # fmt: skip
    """Return the attributes of the samples, and the loss with their labels and attributes.

    A loss that was given as an object keeps its own.

    Args:
        objective: The loss.
        data: Training samples.
        held_out: Held-out samples. None: there are none.
        source: Source of the samples.
        table: CSV of attributes. None: those of the shapes.
        names: Names of the attributes of the network that training starts from, in whose order the columns are put.

    Raises:
        BadOption: The loss has another number of rows than there are samples, or the data have no attributes.
    """
    stored = attributes_of(objective)
    if len(stored):
        if len(stored) != len(data.y):
            raise BadOption("{loss} has {0} rows, and there are {1} samples to train on", len(stored), len(data.y))
        return Concepts((), stored), objective
    concepts = varying(*concepts_of(data, source, table))
    if names and (columns := match_columns(names, concepts.names, (), table or data.name)):
        ordered = tuple(concepts.names[column] for column in columns)
        concepts = replace(concepts, names=ordered, values=concepts.values[:, columns])
    if held_out is not None:
        given, values = concepts_of(held_out, source, table)
        concepts = replace(concepts, held_out=values[:, [given.index(name) for name in concepts.names]])
    return concepts, on_rows(objective, data.y, concepts.values)


def check_buildable(arch: str, weights: str | Path | None) -> None:
    """Refuse to build a network of the user's own code, or of timm, from scratch, or to start from code.

    Args:
        arch: Architecture.
        weights: Weights to start from. None: from scratch.
    """
    if weights is None and ":" in arch:
        raise BadOption(
            "{arch} {0}: a network from elsewhere needs weights to start from, {model:weights.pt}; from scratch it is "
            "trained in Python, unfooled.training.train",
            arch,
        )
    if isinstance(weights, (str, Path)) and kind_of(str(weights), Path(weights), arch) in ("factory", "timm"):
        raise BadOption(
            "{model} {0} is no file of weights; to train that network further, save its weights, and give {arch:{0}} "
            "with {model:weights.pt}", str(weights),
        )  # fmt: skip


def built(arch: str, shape: tuple[int, ...], classes: int, concepts: Concepts | None) -> nn.Module:
    """Build a network, with a head on attribute logits where there are attributes.

    Raises:
        BadOption: The architecture has no such head.
    """
    if concepts is None:
        return build(arch, shape, classes)
    if "attributes" not in takes(builder_of(arch)):
        raise BadOption("{arch} {0} has no head on attribute logits; give {arch:concept-cnn}", arch)
    return build(arch, shape, classes, attributes=concepts.values.shape[1])


def attribute_auc(e: Tensor, a: Tensor) -> Tensor:
    """Return the area under the ROC curve of each attribute, (n,); NaN where one of its two values does not occur.

    Args:
        e: Attribute logits, (N, n).
        a: Attributes, (N, n); present from .5 on, NaN: unknown.
    """
    areas = []
    for logits, values in zip(e.unbind(1), a.unbind(1), strict=True):
        present, absent = logits[values >= 0.5], logits[values < 0.5].sort().values
        below = torch.searchsorted(absent, present), torch.searchsorted(absent, present, right=True)
        pairs = len(present) * len(absent)
        areas.append(0.5 * float(below[0].sum() + below[1].sum()) / pairs if pairs else float("nan"))
    return torch.tensor(areas)


def learnt(concepts: Concepts, held_out: Tensor | None, out: Path, arch: str, device: str) -> dict[str, Any]:
    """Return the fields of a training's record about attributes.

    Args:
        concepts: The attributes.
        held_out: Held-out samples. None: there are none.
        out: Checkpoint of the trained network.
        arch: Its architecture.
        device: Device of the network.
    """
    model = load_model(str(out), arch, device)
    about: dict[str, Any] = {
        "attributes": list(concepts.names), "left_out": list(concepts.left_out),
        "head_weights": head_weights(model, concepts.values.shape[1]),
    }  # fmt: skip
    if held_out is None or concepts.held_out is None:
        return about
    return {**about, "not_learnt": not_learnt(model, held_out, concepts, device)}


def head_weights(model: nn.Module, attributes: int) -> tuple[int, int]:
    """Return how many weights of the head are not 0, up to `NEGLIGIBLE`, and how many it has.

    Args:
        model: The network.
        attributes: Number of attributes, which its head takes.
    """
    size = head_of(model, attributes).weight.detach().abs()
    return int((size > NEGLIGIBLE * size.max()).sum()), size.numel()


def not_learnt(model: nn.Module, x: Tensor, concepts: Concepts, device: str) -> dict[str, float]:
    """Return the attributes whose AUC on held-out samples is below .95, with this AUC; NaN where it is not defined."""
    if concepts.held_out is None:
        return {}
    n = len(concepts.names)
    with torch.no_grad(), evaluating(model):
        e = batched(lambda part: concept_logits(model, part.to(device), n)[0].cpu(), 200)(x)
    areas = attribute_auc(e, concepts.held_out).tolist()
    return {name: area for name, area in zip(concepts.names, areas, strict=True) if not area >= LEARNT}
