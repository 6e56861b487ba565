"""Models of a single logit, or of several labels at once, as models of classes.

    single logit z          -> (-z, z) / 2
    probability p           -> z = log p - log(1 - p), then as above
    labels z_1, ..., z_L    -> one class for each set of labels c in {0, 1}^L:  f_c = sum_l (c_l - 1/2) z_l

The largest f_c is that of the labels with z_l > 0, and max_{c != y} f_c - f_y = -min_l |z_l| for labels y that are
right: the margin is that of the label that changes first. It is enough to have the sets y that occur, and their
neighbours, which differ in one label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.model.calls import notice, noticing
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.outputs import logits_of
from unfooled.core.types import Model

MOST_CLASSES = 4096
"""Largest number of sets of labels."""
FEW = 64
"""Samples from whose outputs it is read whether they are probabilities."""


class Outputs(nn.Module):
    """The independent outputs of a model as logits, (B, L).

    Args:
        model: Model of one output, (B,) or (B, 1), or of L labels, (B, L).
        probabilities: True: its outputs are probabilities, as of a sigmoid.
    """

    def __init__(self, model: Model, *, probabilities: bool) -> None:
        super().__init__()
        self.model, self.probabilities = model, probabilities
        self.eval()

    def train(self, mode: bool = True) -> Outputs:
        """Leave the model in its mode."""
        return self

    def extra_repr(self) -> str:
        """Return how outputs are read."""
        return "probabilities" if self.probabilities else "logits"

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, L)."""
        z = _columns(self.model, x)
        if not self.probabilities:
            return z
        tiny = torch.finfo(z.dtype).tiny
        return z.clamp_min(tiny).log() - (1 - z).clamp_min(tiny).log()


class LabelSets(nn.Module):
    """A model of several labels as a model of sets of labels.

    Args:
        outputs: Logits of the labels.
        sets: The sets, (K, L) of 0 and 1.
    """

    sets: Tensor

    def __init__(self, outputs: Outputs, sets: Tensor) -> None:
        super().__init__()
        self.outputs = outputs
        self.register_buffer("sets", sets)
        self.eval()

    def train(self, mode: bool = True) -> LabelSets:
        """Leave the model in its mode."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the sets, (B, K)."""
        z = self.outputs(x)
        return z @ (self.sets.to(z) - 0.5).T


def two_class(
    model: Model, x: Tensor | None = None, y: Tensor | None = None, *, probabilities: bool | None = None
) -> Model:
    """Turn a model of one output per sample into a model of two classes; the second is that of larger outputs.

    Args:
        model: Model with outputs (B,) or (B, 1).
        x: Samples, from whose outputs it is read what they are. None: `probabilities` says it.
        y: Labels of these samples, 0 or 1. None: not known.
        probabilities: True: the outputs are probabilities, with a threshold of .5; False: logits, with one of 0. None:
            probabilities where all of them lie in [0, 1] and these agree with the labels no worse.

    Raises:
        BadInput: The model has several outputs, or labels are other than 0 and 1.
    """
    if y is not None and y.numel() and not 0 <= int(y.min()) <= int(y.max()) <= 1:
        span = f"[{int(y.min())}, {int(y.max())}]"
        raise BadInput(
            f"the model has one output, which can tell two classes, and labels lie in {span}; give a model with an "
            "output for each class"
        )
    is_probability = _read(model, x, y, probabilities)
    wrapped = LabelSets(Outputs(model, probabilities=is_probability), torch.tensor([[0.0], [1.0]]))
    kind = "a probability" if is_probability else "a logit"
    found = _classifier(model, wrapped, None)
    notice(found, f"The model has a single output, which was taken for {kind} of the second of two classes.")
    return found


def multi_label(
    model: Model,
    y: Tensor,
    x: Tensor | None = None,
    *,
    label: int | None = None,
    names: Sequence[str] | None = None,
    probabilities: bool | None = None,
) -> tuple[Model, Tensor, list[str]]:
    """Turn a model of several labels, and the labels of samples, into a model of classes and classes.

    A sample is fooled where any of its labels changes, or the chosen one.

    Args:
        model: Model of L labels, (B, L): logits, or probabilities as of a sigmoid.
        y: Labels, (n, L) of 0 and 1.
        x: Samples, from whose outputs it is read what they are. None: `probabilities` says it.
        label: Label that counts, from 0. None: all.
        names: Names of the labels. None: their numbers.
        probabilities: True: the outputs are probabilities; False: logits. None: as for `two_class`.

    Returns:
        The model of classes, the class of each sample, (n,) int64, and the names of the classes.

    Raises:
        BadInput: Labels other than 0 and 1, another number of them than outputs, or too many sets of labels.

    Example:
        >>> z = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
        >>> model, classes, names = multi_label(lambda x: x, (z > 0).long(), probabilities=False)
        >>> model(z).argmax(1).equal(classes), names[int(classes[0])]
        (True, '0')
    """
    y = checked_labels(y)
    count = y.shape[1]
    known = list(names) if names is not None else [str(k) for k in range(count)]
    if len(known) != count:
        raise BadInput(f"there are {len(known)} names for {count} labels")
    if label is not None and not 0 <= label < count:
        raise BadInput(f"label is {label}; there are {count}, from 0 to {count - 1}")
    outputs = Outputs(model, probabilities=_read(model, x, y, probabilities))
    sets = _sets(y, label)
    classes = _places(y, sets) if label is None else y[:, label]
    if label is not None:
        titles = [f"not {known[label]}", known[label]]
    else:
        titles = ["+".join(name for name, on in zip(known, row, strict=True) if on) or "none" for row in sets.tolist()]
    wrapped = LabelSets(outputs, sets)
    what = f"label {known[label]} alone counts" if label is not None else "a change of any of them counts"
    found = _classifier(model, wrapped, titles)
    with noticing():  # who calls this function knows it; an audit of the model says it
        notice(found, f"The samples have {count} labels; {what}. {_reading(outputs)}")
    return found, classes, titles


def checked_labels(y: Tensor) -> Tensor:
    """Return labels (n, L) of 0 and 1 as integers; refuse others."""
    if y.ndim != 2 or not bool(((y == 0) | (y == 1)).all()):
        raise BadInput(f"y has shape {tuple(y.shape)}; several labels per sample are (n, L) of 0 and 1")
    return y.long()


def _reading(outputs: Outputs) -> str:
    return f"Its outputs were taken for {'probabilities' if outputs.probabilities else 'logits'}."


def _sets(y: Tensor, label: int | None) -> Tensor:
    """Return the sets of labels that occur, and those that differ from one of them in one label, (K, L)."""
    if label is not None:
        row = torch.full((2, y.shape[1]), 0.5)  # the other labels have no weight
        row[:, label] = torch.tensor([0.0, 1.0])
        return row
    known = y.cpu().unique(dim=0)
    size = len(known) * (y.shape[1] + 1)
    if size > 16 * MOST_CLASSES:
        raise BadInput(f"{len(known)} sets of {y.shape[1]} labels occur, which are too many; choose one label: label=0")
    flips = torch.cat([torch.zeros(1, y.shape[1], dtype=torch.long), torch.eye(y.shape[1], dtype=torch.long)])
    sets = (known[:, None] ^ flips[None]).reshape(-1, y.shape[1]).unique(dim=0)
    if len(sets) > MOST_CLASSES:
        raise BadInput(f"{len(sets)} sets of labels are too many, at most {MOST_CLASSES}; choose one label: label=0")
    return sets.float()


def _places(y: Tensor, sets: Tensor) -> Tensor:
    """Return the place of each row of labels, (n, L), among sets, (K, L)."""
    known, row = y.unique(dim=0, return_inverse=True)
    return (known[:, None] == sets.long().to(y)).all(2).long().argmax(1)[row]


def _columns(model: Model, x: Tensor) -> Tensor:
    """Return a model's outputs, (B, L)."""
    z = logits_of(model(x), model)
    return z[:, None] if z.ndim == 1 else z


def are_probabilities(model: Model, x: Tensor, y: Tensor | None = None) -> bool:
    """Return whether the outputs of a model of one output, or of one for each label, are read as probabilities.

    Args:
        model: Any callable to outputs, (B,) or (B, L).
        x: Samples.
        y: Their labels, (n,) or (n, L). None: not known.
    """
    return _read(model, x, y, None)


def _read(model: Model, x: Tensor | None, y: Tensor | None, given: bool | None) -> bool:
    """Return whether outputs are probabilities."""
    if given is not None:
        return given
    if x is None:
        raise BadInput("give x, from whose outputs it is read what they are, or probabilities=True or False")
    with torch.no_grad():
        z = _columns(model, x[:FEW]).cpu()
    if y is not None and y.ndim == 2 and y.shape[1] != z.shape[1]:
        raise BadInput(f"the model has {z.shape[1]} outputs, and y {y.shape[1]} labels per sample; they must agree")
    if y is None or y.ndim == 1:
        if z.shape[1] != 1:
            raise BadInput(f"the model has {z.shape[1]} outputs; a model of two classes by one output has one")
        y = None if y is None else y[:, None]
    if not bool(((z >= 0) & (z <= 1)).all()):
        return False
    if y is None:
        return True
    label = y[:FEW].cpu().bool()
    return float(((z > 0.5) == label).double().mean()) >= float(((z > 0) == label).double().mean())


def _classifier(model: Any, wrapped: nn.Module, titles: Sequence[str] | None) -> Model:
    """Return the wrapped model, as a `Classifier` where it was one."""
    if not isinstance(model, Classifier):
        return wrapped
    names = titles or (model.classes if model.classes and len(model.classes) == 2 else None)
    return Classifier(wrapped, name=model.name, classes=names, input_shape=model.input_shape).eval()
