"""Attributes of a table as coordinates of a network.

A concept network has the attributes as inputs of its head; its columns are matched by name. On any other network a
probe of each attribute is fitted to the features that its last linear layer takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unfooled.core.class_names import few_names
from unfooled.core.limits import allowing
from unfooled.counterfactuals.spaces import AttributeSpace, AucRows, concept_space, probe_space
from unfooled.data.formats.folders import Decoder
from unfooled.runs.chunks import Progress
from unfooled.workflows.attribute_images import Layer, TableImages
from unfooled.workflows.concepts import image_keys, match_columns
from unfooled.workflows.errors import BadOption
from unfooled.workflows.inputs import Inputs
from unfooled.workflows.words import size_of

BATCH = 128  # images decoded at once


@dataclass(frozen=True, eq=False)
class _Columns:
    """Columns of the table for the attribute logits of a concept network.

    Attributes:
        places: Columns, in the order of the logits. None: the table has other attributes, and gets probes.
        warnings: What is assumed.
    """

    places: list[int] | None
    warnings: list[str]


def _columns(layer: Layer, images: TableImages) -> _Columns:
    """Return the column of each attribute logit, by name; by position where the network states no names.

    Raises:
        BadOption: The names match only in part.
    """
    names, constant = images.table.names, images.table.constant
    if layer.attributes is not None:
        places = match_columns(layer.attributes, names, {*layer.left_out, *constant}, images.table.place)
        if places:
            return _Columns(places, [])
        return _Columns(None, [
            f"No column of the table ({few_names(names)}) has the name of an attribute of the network "
            f"({few_names(layer.attributes)}); probes are fitted to its attribute logits."
        ])  # fmt: skip
    varying = [f for f, name in enumerate(names) if name not in constant]
    places = list(range(len(names))) if len(names) == layer.head.n else varying
    if len(places) == layer.head.n:
        return _Columns(places, [
            "The network does not state the names of its attributes. Their order is assumed to be that of the columns: "
            f"{few_names([names[f] for f in places])}."
        ])  # fmt: skip
    return _Columns(None, [
        f"The network has {layer.head.n} attribute logits and the table {len(names)} attributes; probes are fitted "
        "to these logits."
    ])  # fmt: skip


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

    Raises:
        BadOption: The attributes are not those of the concept network, or one that must stay has no logit.
    """
    columns = _columns(layer, images) if layer.concepts else _Columns(None, [])
    truth, names, warnings = images.table.values.double(), images.table.names, columns.warnings
    listed = names if columns.places is None else [names[f] for f in columns.places]
    if lost := [name for name in keep if name not in listed]:
        raise BadOption("{keep} is {0!r}, of which the network has no attribute logit; leave it out", lost[0])
    z, keys = _features(layer, images, inputs, x, progress)
    if bool(((truth != 0) & (truth != 1) & ~truth.isnan()).any()):
        truth = torch.where(truth.isnan(), truth, (truth >= 0.5).double())
        warnings.append("Attributes between 0 and 1 count as present from .5 on.")
    if columns.places is None:
        return probe_space(layer.encode, layer.head, z, truth, names, keep), "probes", warnings
    unseen = None if layer.trained_on is None else ~torch.isin(keys, layer.trained_on.cpu())
    space = concept_space(layer.encode, layer.head, z, truth[:, columns.places], listed, keep, unseen=unseen)
    return space, "concept", [*warnings, *_about_rows(space, unseen)]


def _about_rows(space: AttributeSpace, unseen: Tensor | None) -> list[str]:
    """Return what must be said about the images on which the AUC of a concept network was computed."""
    if unseen is None:
        return [
            "AUC is that of the images of the table. Which images the network was trained on is not known, so that it "
            "may be of training images; on new ones it may be lower."
        ]
    many = space.auc_rows.count(AucRows.TRAINING)
    if not many:
        return []
    count, n = int(unseen.sum()), len(unseen)
    share = f"{n - count} of the {n}" if count else f"All {n}"
    some = f"{many} of {len(space.names)} attributes" if many < len(space.names) else "every attribute"
    return [
        f"{share} images of the table are training images, too many for an AUC on the others: for {some} it is that of "
        "all of them, and may be lower on new ones. Give a table of images that the network was not trained on."
    ]


def _features(
    layer: Layer, images: TableImages, inputs: Inputs, x: Tensor, progress: Progress | None
) -> tuple[Tensor, Tensor]:
    """Return the inputs of the layer for the images of the table, (N, n), and the hashes of these images, (N,)."""
    channels = x.shape[1] if x.ndim == 4 and x.shape[1] in (1, 3) else inputs.channels
    rows, parts, keys = np.arange(len(images.files)), [], []
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
            keys.append(image_keys(part))
            if progress is not None:
                progress("attributes", min(start + BATCH, len(rows)), len(rows))
    return torch.cat(parts), torch.cat(keys)
