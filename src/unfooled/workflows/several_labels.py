"""Several labels per sample: a model of labels, and data with them, as a model and data of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from unfooled.core.class_names import few_names, plain_name
from unfooled.core.errors import nearest
from unfooled.core.model.two_class import multi_label
from unfooled.data.dataset import Dataset
from unfooled.workflows.errors import BadOption

ANY = "any"
"""Value of the option: a change of any label counts."""


def as_classes(model: Any, data: Dataset, x: Tensor, label: str | int | None) -> tuple[Any, Dataset]:
    """Return the model of sets of labels, or of the chosen label, and the same samples with their classes.

    Args:
        model: Model of L labels.
        data: Samples with several labels, (N, L), and the names of the labels.
        x: The samples on the model's device.
        label: Name or number of the label that counts. None or "any": all.

    Raises:
        BadInput: There is no such label, or model and data do not agree.
    """
    chosen = None if label in (None, ANY) else place_of(label, data.classes)
    model, y, titles = multi_label(model, data.y.to(x.device), x, label=chosen, names=data.classes)
    return model, replace(data, y=y, classes=titles, sorted=False)


def place_of(label: Any, names: Sequence[str]) -> int:
    """Return the place of a label, given by its name or number.

    Raises:
        BadOption: There is none of this name.
    """
    plain = [plain_name(name) for name in names]
    text = plain_name(str(label))
    if text in plain:
        return plain.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise BadOption("{label:{0}} is no label{1}; there are {2}, or any", label, nearest(text, plain), few_names(names))


def check_single(data: Dataset, label: str | int | None) -> None:
    """Refuse a chosen label for samples that have one label each."""
    if label is not None:
        raise BadOption(
            "{label:{0}} is for data with several labels per sample, (N, L) of 0 and 1; {1} has one", label, data.name
        )
