"""Attributes of a table as coordinates of a network: its images are read, and its last linear layer is located.

A concept network has the attributes as inputs of its head. On any other network a probe of each attribute is fitted to
the features that its last linear layer takes; that layer must give the logits, so that the geometry is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.limits import allowing
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.encoder import INPUT, Encoder, root_of
from unfooled.core.model.two_class import LabelSets
from unfooled.core.unanswered import check_answered
from unfooled.counterfactuals.head import AffineHead
from unfooled.counterfactuals.spaces import AttributeSpace, concept_space, probe_space
from unfooled.data.formats.attributes import PATH, AttributeTable, read_attributes
from unfooled.data.formats.folders import Decoder
from unfooled.runs.chunks import Progress
from unfooled.workflows.errors import BadOption
from unfooled.workflows.inputs import Inputs
from unfooled.workflows.words import size_of

BATCH = 128  # images decoded at once
AGREE = 1e-3
"""Largest difference of logits, relative to their spread, up to which a layer counts as the one that gives them."""
POINTS = 16
"""Number of samples, and of random inputs, at which the logits are compared with the last layer."""


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
    def read(cls, path: str | Path, data: Any, keep: Sequence[str]) -> TableImages:
        """Read the table and find its files, before any model is loaded.

        Args:
            path: The CSV.
            data: Source of the images to be changed; if it is a folder, the paths of the table may be relative to it.
            keep: Names of attributes that must stay.

        Raises:
            BadInput: The table cannot be read, files are missing, an attribute is unknown, or all must stay.
        """
        table = read_attributes(path)
        for name in keep:
            table.column(name)
        if set(table.names) <= set(keep):
            raise BadOption("all {0} attributes are in {keep}; at least one must be free to change", len(table.names))
        folders = [table.place.parent]
        if isinstance(data, (str, Path)) and Path(data).is_dir():
            folders.append(Path(data))
        files = [next((f / name for f in folders if (f / name).is_file()), None) for name in table.rows]
        missing = [name for name, file in zip(table.rows, files, strict=True) if file is None]
        if missing:
            some = ", ".join(missing[:3])
            raise BadInput(
                f"{len(missing)} of {len(table.rows)} images of {table.place} do not exist, such as {some}; the column "
                f"{PATH} is the path below {' or '.join(map(str, folders))}"
            )
        return cls(table, [file for file in files if file is not None])


@dataclass(frozen=True, eq=False)
class Layer:
    """The last linear layer of a network, which gives its logits.

    Attributes:
        name: Its name.
        encode: Its input, x -> (B, n).
        head: The layer as a head.
        concepts: True: the inputs of the layer are attribute logits, since the network is a concept network.
    """

    name: str
    encode: Encoder
    head: AffineHead
    concepts: bool


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
    return Layer(name, encode, head, hasattr(root, "encode") and getattr(root, "head", None) is part)


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


def attribute_space(
    layer: Layer, images: TableImages, inputs: Inputs, x: Tensor, keep: Sequence[str],
    progress: Progress | None = None,
) -> tuple[AttributeSpace, str, list[str]]:  # fmt: skip
    """Return the attributes as coordinates, their kind ("concept" or "probes"), and warnings.

    Args:
        layer: The last linear layer.
        images: The images of the table.
        inputs: Options for reading images.
        x: Samples to be changed, whose size the images must have.
        keep: Names of attributes that must stay.
        progress: Called with the number of images read.
    """
    z = _features(layer, images, inputs, x, progress)
    truth, names, warnings = images.table.values.double(), images.table.names, []
    if bool(((truth != 0) & (truth != 1) & ~truth.isnan()).any()):
        truth = torch.where(truth.isnan(), truth, (truth >= 0.5).double())
        warnings.append("Attributes between 0 and 1 count as present from .5 on.")
    constant = set(images.table.constant)
    varying = [f for f, name in enumerate(names) if name not in constant]
    if layer.concepts:
        columns = list(range(len(names))) if len(names) == layer.head.n else varying
        if len(columns) == layer.head.n:
            listed = [names[f] for f in columns]
            return concept_space(layer.encode, layer.head, z, truth[:, columns], listed, keep), "concept", warnings
        warnings.append(
            f"The network has {layer.head.n} attribute logits and the table {len(names)} attributes; probes are fitted "
            "to these logits."
        )
    return probe_space(layer.encode, layer.head, z, truth, names, keep), "probes", warnings


def _features(layer: Layer, images: TableImages, inputs: Inputs, x: Tensor, progress: Progress | None) -> Tensor:
    """Return the inputs of the layer for the images of the table, (N, n)."""
    channels = x.shape[1] if x.ndim == 4 and x.shape[1] in (1, 3) else inputs.channels
    rows, parts = np.arange(len(images.files)), []
    with allowing(inputs.limits), torch.no_grad():
        read = Decoder(images.files, size_of(inputs.size), channels).survey(rows)
        if progress is not None:
            progress("attributes", 0, len(rows))
        for start in range(0, len(rows), BATCH):
            part = torch.from_numpy(read(rows[start : start + BATCH])).to(x)
            if start == 0 and part.shape[1:] != x.shape[1:]:
                raise BadOption(
                    "the images of the table have the shape {0}, and those of {data} {1}; give one {size} for both",
                    tuple(part.shape[1:]), tuple(x.shape[1:]),
                )  # fmt: skip
            parts.append(layer.encode(part).detach().cpu())
            if progress is not None:
                progress("attributes", min(start + BATCH, len(rows)), len(rows))
    return torch.cat(parts)
