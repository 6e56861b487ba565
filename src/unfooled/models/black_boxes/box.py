"""A model that answers with scores or labels and has no gradient: any function from arrays to arrays.

scores   (B, K) numbers, the largest of which is the class; or (B,) numbers z of two classes, read as (-z, z) / 2
labels   (B,) whole numbers, or names of classes, read as rows that are 1 at the class and 0 elsewhere
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.core.access import Access
from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.calls import notice
from unfooled.runs.hashes import function_hash

Array = np.ndarray[Any, np.dtype[Any]]


class BlackBox(nn.Module):
    """A classifier without gradients, from a function of arrays; what comes in and goes out are tensors.

    Declare a model that way where its gradients are not to be had: an audit then attacks it by search, by its labels
    and through a network that is trained on its answers, and says so. A model with gradients is judged better by them.

    Args:
        answer: Function from a NumPy array, (B, *D) in the unit box, to scores (B, K) or labels (B,).
        classes: Number of classes, or their labels in the order of the scores. None: as many as there are scores;
            needed for a function that returns labels.
        others: True: labels that are none of the classes count as one more class.
        single: True: a single number per sample is the score of the second of two classes.
        flat: True: samples are passed as rows, (B, F).
        name: Name in reports. Empty: the function's name.
        identity: Text that changes with the model, for the fingerprint of a run. Empty: the function's code.

    Raises:
        BadInput: In a call: another number of rows, no numbers, or a label that is no class.

    Example:
        >>> import numpy as np, torch
        >>> box = BlackBox(lambda a: (a.sum(1) > 1).astype(int), classes=2)
        >>> box(torch.tensor([[0.9, 0.8], [0.1, 0.2]])).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """

    def __init__(
        self,
        answer: Callable[[Array], Any],
        *,
        classes: int | Sequence[Any] | None = None,
        others: bool = False,
        single: bool = False,
        flat: bool = False,
        name: str = "",
        identity: str = "",
    ) -> None:
        super().__init__()
        if not callable(answer):
            raise BadInput(f"answer is a {type(answer).__name__}; give a function from an array to scores or labels")
        if isinstance(answer, nn.Module) or modules_of(answer):
            raise BadInput(
                "answer uses a torch module, which has gradients; audit the module itself, since an attack without "
                "gradients says less"
            )
        self.answer = answer
        self.labels = None if classes is None else list(range(classes)) if isinstance(classes, int) else list(classes)
        self.others, self.single, self.flat = others, single, flat
        self.name = name or getattr(answer, "__name__", "") or type(answer).__name__
        own = function_hash(answer) if isinstance(answer, FunctionType) else type(answer).__qualname__
        self.identity = identity or own
        self.access: Access | None = None
        self.noted = False
        self.eval()

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, where they are text."""
        named = self.labels is not None and all(isinstance(label, str) for label in self.labels)
        return [str(label) for label in self.labels or []] if named else None

    def extra_repr(self) -> str:
        """Return what a fingerprint of the model depends on."""
        return f"{self.name}, {self.identity}"

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), without a gradient."""
        array = x.detach().cpu().numpy()
        given = self.answer(array.reshape(len(array), -1) if self.flat else array)
        rows = _array(given, self.name)
        if rows.ndim == 2 and rows.shape[1] == 1:
            rows = rows[:, 0]
        if rows.ndim not in (1, 2) or len(rows) != len(x):
            raise BadInput(
                f"{self.name} answered with shape {rows.shape} for {len(x)} samples; it needs a row for each"
            )
        logits = self._scores(rows) if rows.ndim == 2 or self.single else self._one_hot(rows)
        return torch.from_numpy(np.ascontiguousarray(logits)).to(x.device, x.dtype)

    def _scores(self, rows: Array) -> Array:
        """Return scores as logits."""
        self.access = self.access or Access.SCORES
        if rows.dtype.kind not in "fiub":
            raise BadInput(f"{self.name} answered with values of {rows.dtype}; scores are numbers")
        rows = rows.astype(np.float64)
        if rows.ndim == 1:
            return np.stack([-rows, rows], 1) / 2
        if self.labels is not None and rows.shape[1] != len(self.labels):
            raise BadInput(f"{self.name} answered with {rows.shape[1]} scores for {len(self.labels)} classes")
        total, inside = rows.sum(1), bool(((rows >= 0) & (rows <= 1)).all())
        if inside and len(rows) > 1 and not self.noted and np.abs(total - 1).max() > 1e-3:
            self.noted = True
            notice(
                self,
                f"{self.name} answers with numbers in [0, 1] that do not sum to one ({total.min():.3g} to "
                f"{total.max():.3g}); they are taken for scores, the largest of which is the class.",
            )
        return rows

    def _one_hot(self, rows: Array) -> Array:
        """Return labels as rows of 0 and 1."""
        if rows.dtype.kind == "f":
            raise BadInput(
                f"{self.name} answered with one number per sample, such as {float(rows[0]):.4g}; return a score for "
                "each class, such as np.stack([1 - p, p], 1), or whole numbers for labels, or give single=True for a "
                "score that is above 0 for the second class"
            )
        self.access = Access.LABELS
        if self.labels is None:
            raise BadInput(
                f"{self.name} answers with labels only; give classes=, the number of classes "
                "or their labels; to an address append #classes=10"
            )
        number = {label: k for k, label in enumerate(self.labels)}
        given = rows.tolist()
        at = [number.get(label, -1) for label in given]
        if -1 in at and not self.others:
            odd = given[at.index(-1)]
            raise BadInput(f"{self.name} answered with the label {odd!r}; the classes are {_short(self.labels)}")
        return np.eye(len(self.labels) + self.others)[np.array(at, dtype=int)]


def _array(given: Any, name: str) -> Array:
    """Return an answer as an array."""
    try:
        return given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{name} answered with a {type(given).__name__} that is no array: {error}") from error


def _short(labels: Sequence[Any]) -> str:
    """Write a few labels."""
    shown = ", ".join(map(str, labels[:10]))
    return shown if len(labels) <= 10 else f"{shown}, ... ({len(labels)})"


def black_box_of(model: Any) -> BlackBox | None:
    """Return the black box behind a model, in whatever it is wrapped; None where there is none."""
    parts = (part for root in modules_of(model) for part in root.modules())
    return next((part for part in parts if isinstance(part, BlackBox)), None)


def access_of(model: Any) -> Access:
    """Return what an attack can use of a model; scores where a black box has not answered yet."""
    box = black_box_of(model)
    return Access.GRADIENTS if box is None else box.access or Access.SCORES
