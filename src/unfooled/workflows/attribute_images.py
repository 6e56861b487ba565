"""Images of a table of attributes, and the last linear layer of a network, which must give its logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.encoder import INPUT, Encoder, root_of
from unfooled.core.model.two_class import LabelSets
from unfooled.core.unanswered import check_answered
from unfooled.counterfactuals.head import AffineHead
from unfooled.data.formats.attributes import PATH, AttributeTable, read_attributes
from unfooled.workflows.errors import BadOption

LISTED = 3  # folders listed in a message
AGREE = 1e-3
"""Largest difference of logits, relative to their spread, up to which a layer counts as the one that gives them."""
POINTS = 16
"""Number of samples, and of random inputs, at which the logits are compared with the last layer."""


@dataclass(frozen=True)
class AttributeFiles:
    """A table of attributes, and where its images lie.

    Args:
        table: CSV with a column `path` and one for each attribute.
        images: Folder that the paths are below. None: that of the table, or the source of the images to be changed, if
            it is a folder, or a folder that this source lies in.
    """

    table: str | Path
    images: str | Path | None = None


@dataclass(frozen=True, eq=False)
class TableImages:
    """Images of a table of attributes.

    Attributes:
        table: The table.
        files: Files of its images, in the order of its rows.
    """

    table: AttributeTable
    files: list[Path]

    @classmethod
    def read(cls, source: AttributeFiles, data: Any, keep: Sequence[str]) -> TableImages:
        """Read the table and find its files, before any model is loaded.

        Args:
            source: The CSV and the folder of its images.
            data: Source of the images to be changed.
            keep: Names of attributes that must stay.

        Raises:
            BadInput: The table cannot be read, files are missing, an attribute is unknown, or all must stay.
        """
        table, images = read_attributes(source.table), source.images
        for name in keep:
            table.column(name)
        if set(table.names) <= set(keep):
            raise BadOption("all {0} attributes are in {keep}; at least one must be free to change", len(table.names))
        folders = _folders(table, data, images)
        files = [next((f / name for f in folders if (f / name).is_file()), None) for name in table.rows]
        missing = [name for name, file in zip(table.rows, files, strict=True) if file is None]
        if missing:
            some = ", ".join(missing[:3])
            raise BadOption(
                "{0} of {1} images of {2} do not exist, such as {3}; the column {4} is the path below {5}"
                + ("" if images is not None else ", or below the folder that {images} names"),
                len(missing), len(table.rows), table.place, some, PATH, " or ".join(map(str, folders[:LISTED])),
            )  # fmt: skip
        return cls(table, [file for file in files if file is not None])


def _folders(table: AttributeTable, data: Any, images: str | Path | None) -> list[Path]:
    """Return the folders that the paths of a table may be below, the first one first.

    Args:
        table: The table.
        data: Source of the images to be changed.
        images: Folder that the user names. None: none.
    """
    if images is not None:
        if not Path(images).is_dir():
            raise BadOption("{images} is {0}, and there is no such folder", images)
        return [Path(images)]
    folders, first = [table.place.parent], next(iter(table.rows))
    place = Path(data) if isinstance(data, (str, Path)) else None
    if place is not None and place.is_dir():
        folders.append(place)
    elif place is not None and place.is_file():
        folders.append(place.parent)
    if place is not None and place.exists():  # images lie in folders by split and class
        folders += [up for up in folders[-1].parents if (up / first).is_file()]
    return list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]


@dataclass(frozen=True, eq=False)
class Layer:
    """The last linear layer of a network, which gives its logits.

    Attributes:
        name: Its name.
        encode: Its input, x -> (B, n).
        head: The layer as a head.
        concepts: True: the inputs of the layer are attribute logits, since the network is a concept network.
        attributes: Names of these attributes. None: the network states none.
        left_out: Names of attributes that were constant in training.
        trained_on: Hash of each training image, see `image_keys`. None: unknown.
    """

    name: str
    encode: Encoder
    head: AffineHead
    concepts: bool
    attributes: Sequence[str] | None = None
    left_out: Sequence[str] = ()
    trained_on: Tensor | None = None


def last_layer(model: Classifier, x: Tensor, classes: Sequence[str]) -> Layer:
    """Return the linear layer that gives the logits.

    Args:
        model: The network.
        x: A few samples.
        classes: Names of the classes.

    Raises:
        BadInput: There is none, or the logits are not an affine map of what the last one takes; the message names it.
    """
    root = root_of(model)
    linears = [(name, part) for name, part in root.named_modules() if isinstance(part, nn.Linear)]
    if root is model or not linears:
        raise BadInput(
            f"{model.name} has no linear layer whose input could carry attributes; give a network that ends in one"
        )
    called: list[tuple[str, nn.Linear]] = []
    handles = [
        part.register_forward_hook(lambda _m, _i, _o, pair=pair: called.append(pair))
        for pair in linears
        for part in [pair[1]]
    ]
    try:
        with torch.no_grad():
            logits = read_logits(model, x)
    finally:
        for handle in handles:
            handle.remove()
    check_answered(logits)
    if not called:
        raise BadInput(
            f"{model.name} calls none of its linear layers, as modules; give the network itself, not an exported "
            "program, and one that calls its last layer"
        )
    name, part = called[-1]
    if not name:  # the network is one linear layer
        raise BadInput("the network is a single linear layer, which takes pixels; attributes need a layer before it")
    encode = Encoder(model, name + INPUT)
    points = _with_random(x)
    with torch.no_grad():
        read = _read_head(encode(points), part, read_logits(model, points))
    if read is None and any(isinstance(module, LabelSets) for module in model.modules()):
        raise BadInput(f"{model.name} has a single output and so no two classes to compare; give it one for each class")
    if read is None:
        raise BadInput(
            f"the head is not affine: the logits are not those of the last linear layer, {name!r}; cut the network "
            f"after {name!r}, whose input would be the embedding"
        )
    head = AffineHead(read[0], read[1], classes[: len(read[0])])
    concepts = hasattr(root, "encode") and getattr(root, "head", None) is part
    return _with_names(Layer(name, encode, head, concepts), model)


def _with_names(layer: Layer, model: Classifier) -> Layer:
    """Return the layer of a concept network with what the network states about its attributes."""
    if not layer.concepts or model.attributes is None:
        return layer
    if len(model.attributes) != layer.head.n:
        raise BadInput(
            f"{model.name} states the names of {len(model.attributes)} attributes, and has {layer.head.n} attribute "
            "logits"
        )
    return replace(layer, attributes=model.attributes, left_out=model.left_out, trained_on=model.trained_on)


def _with_random(x: Tensor) -> Tensor:
    """Return a few samples, and as many random patchworks: a few alike could not tell what depends on the sample."""
    source = torch.Generator().manual_seed(0)
    drawn = torch.rand(POINTS, x.shape[1], 2, 2, generator=source)
    drawn[::2] = drawn[::2].round()
    return torch.cat([x[:POINTS], nn.functional.interpolate(drawn, x.shape[2:]).to(x)])


def _read_head(z: Tensor, part: nn.Linear, logits: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return weight and bias of the head that gives the logits; None where it is not an affine map of z.

    The logits are those of the layer, times one factor, up to a constant added to all logits of a sample (as by a
    log-softmax, which changes no decision), or times a factor and plus a constant for each class (as by a batch norm).

    Args:
        z: Inputs of the layer.
        part: The layer.
        logits: Logits at the same inputs.
    """
    if z.ndim != 2 or part.out_features != logits.shape[1]:
        return None
    with torch.no_grad():
        seen, wanted = part(z).double().cpu(), logits.double().cpu()
    layer = AffineHead.of(part)
    factor = _factor(_centred(seen), _centred(wanted))
    if factor is not None:
        return layer.weight * factor, layer.bias * factor
    spread = seen - seen.mean(0)
    size = spread.square().sum(0)
    factors = torch.where(size > 0, (spread * wanted).sum(0) / size.clamp(min=1e-300), 1.0)
    constants = (wanted - factors * seen).mean(0)
    if not _agree(factors * seen + constants, wanted):
        return None
    return layer.weight * factors[:, None], layer.bias * factors + constants


def _factor(seen: Tensor, wanted: Tensor) -> float | None:
    """Return the positive factor between two tensors; None where there is none."""
    size = float(seen.square().sum())
    factor = float((seen * wanted).sum()) / size if size else 1.0
    factor = 1.0 if abs(factor - 1) < AGREE else factor
    return factor if factor > 0 and _agree(factor * seen, wanted) else None


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


def _agree(seen: Tensor, wanted: Tensor) -> bool:
    return float((seen - wanted).abs().max()) <= AGREE * float(_centred(wanted).abs().max()) + 1e-6
