"""LIME for inputs of several parts, such as a text beside a table row: one surrogate over all of their features.

A part is anything with `names`, one a feature, and `hide(z, place)`, the value of the part when only the features with
z = 1 are shown. z of the surrogate is the concatenation of the parts' masks; `predict` gets a list of values a part.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.explanations.lime.baselines import Baseline, segment_mean
from unfooled.explanations.lime.findings import Kind
from unfooled.explanations.lime.kernels import Kernel, uniform
from unfooled.explanations.lime.naming import setting_name
from unfooled.explanations.lime.part import RowPart
from unfooled.explanations.lime.predicting import Link, check_rows, identity, labels_of, outputs_of
from unfooled.explanations.lime.result import Surrogates, warn_if_few
from unfooled.explanations.lime.samplers import Sampler, paired, repeating
from unfooled.explanations.lime.segments import Segmenter, counts, grid, pixel_masks, segment
from unfooled.explanations.lime.solving import Settings, assembled, samples_of, shrinking, solve_each, stopping
from unfooled.explanations.lime.surrogate import Prior, UntilStable
from unfooled.explanations.lime.tabular import TabularSpace
from unfooled.explanations.lime.text import Hide, Span, Split, delete, pieces_of, types, words
from unfooled.explanations.lime.view import Mark

BATCH = 256


class Part(Protocol):
    """A piece of an input whose features can be hidden."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the name of each feature."""
        ...

    def hide(self, z: npt.NDArray[np.bool_], place: int = 0) -> Any:
        """Return the value when only the features with z = 1 are shown; `place` numbers the masks of a draw."""
        ...


@dataclass(frozen=True, eq=False)
class TextPart:
    """A text whose pieces can be hidden; made by `text_part`."""

    written: Callable[[Sequence[bool]], str]
    names: tuple[str, ...]
    text: str = ""
    marks: tuple[Mark, ...] = ()

    @property
    def shown(self) -> tuple[Any, ...]:
        """Return what a page shows."""
        return "text", self.text, self.marks

    def hide(self, z: npt.NDArray[np.bool_], place: int = 0) -> str:
        """Return the text without the hidden pieces."""
        return self.written(z.tolist())


@dataclass(frozen=True, eq=False)
class ImagePart:
    """An image whose segments are replaced by a baseline when hidden; made by `image_part`."""

    x: Tensor
    ids: Tensor
    hidden: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """Return the numbers of the segments."""
        return tuple(f"segment {k + 1}" for k in range(int(counts(self.ids)[0])))

    @property
    def shown(self) -> tuple[Any, ...]:
        """Return what a page shows."""
        return "image", self.x[0].detach().cpu(), self.ids[0]

    def hide(self, z: npt.NDArray[np.bool_], place: int = 0) -> Tensor:
        """Return the image, (*D)."""
        shown = pixel_masks(torch.as_tensor(z)[None], self.ids[0], self.x)
        return torch.where(shown, self.x, self.hidden)[0]


def text_part(
    text: str,
    *,
    split: Split = words,
    unit: Callable[[str, Sequence[Span]], list[int]] = types,
    hide: Hide = delete,
) -> TextPart:
    """Return a text as a part; see `lime_text` for the options."""
    pieces = pieces_of(text, split, unit, hide)
    return TextPart(pieces.written, pieces.names, text, pieces.marks)


def row_part(space: TabularSpace, row: Any, *, seed: int = 0) -> RowPart:
    """Return a row of a table as a part; the same as `space.row(row)`.

    Args:
        space: Bins, categories and features of the training table.
        row: The row.
        seed: Random seed of the values of hidden features.
    """
    return space.row(row, seed=seed)


def image_part(
    x: Tensor,
    *,
    segments: Segmenter | Tensor = grid(7),  # noqa: B008  (a partial)
    baseline: Baseline = segment_mean,
) -> ImagePart:
    """Return an image, (*D), as a part; see `lime_image` for the options."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise BadInput(f"the image is a {type(x).__name__}; give a tensor of floating point numbers, (C, H, W)")
    ids = segment(x[None], segments)
    return ImagePart(x[None], ids, baseline(x[None], ids))


def lime_parts(
    predict: Callable[..., Any],
    parts: Sequence[Part],
    y: Sequence[int] | int | None = None,
    *,
    sampler: Sampler = paired,
    samples: int = 1000,
    kernel: Kernel = uniform,
    ridge: float = 0.0,
    prior: Tensor | Prior | None = None,
    until: UntilStable | None = None,
    link: Link = identity,
    keep_samples: bool = False,
    batch: int = BATCH,
    generator: torch.Generator | None = None,
) -> Surrogates:
    """Explain what a function answers about one input of several parts.

    Args:
        predict: Function of a list of values for each part, all of the same length n, to outputs, (n, K). Rows are
            lists of values; `space.as_table(rows)` makes the frame or array of them that a model was trained on.
        parts: Parts: `text_part`, `row_part`, `image_part`, or anything with `names` and `hide`, and
            `random = True` where hidden values are drawn.
        y: Outputs to explain. None: the largest.
        sampler: Function that draws masks of all features together.
        samples: Masks; not used with `until`.
        kernel: Weight of a mask.
        ridge: Penalty on the squared weights per unit of sample weight.
        prior: Expected weights of the features of all parts, (M,), with `ridge` as precision, or a `Prior` with both.
            None: 0.
        until: `until_stable(...)`, a rule that decides the number of masks. None: `samples`.
        link: Function of the outputs before the fit.
        keep_samples: True: the result holds the masks and answers.
        batch: Inputs a call; halved where memory runs out.
        generator: Base seed; not advanced.

    Returns:
        `Surrogates` of one input; names begin with the number of their part, and keys are (part, name).

    Raises:
        BadInput: There is no part, or the function's answer is invalid.
    """
    began = time.perf_counter()
    check_parts(parts)
    check_rows(batch, "inputs", link)
    size = sum(len(part.names) for part in parts)
    masks_of = partial(repeating, sampler=sampler) if any(getattr(p, "random", False) for p in parts) else sampler
    settings = Settings(masks_of, stopping(samples, until), kernel, shrinking(ridge, prior), rng.base_seed(generator))
    asked = [1]

    whole = outputs_of_parts(predict, parts, torch.ones(1, size, dtype=torch.bool), 0, batch)
    labels = labels_of(y if y is None or isinstance(y, int) else torch.as_tensor(y)[None], whole)

    def answers(i: int, masks: Tensor) -> Tensor:
        asked[0] += len(masks)
        return link(outputs_of_parts(predict, parts, masks, asked[0] - len(masks), batch))[:, labels[0]]

    solved = solve_each(answers, [size], settings, prediction := link(whole).gather(1, labels))[0]
    keys = tuple((k, name) for k, part in enumerate(parts) for name in part.names)
    result = assembled(
        ([solved], prediction, labels, settings),
        kind=Kind.PARTS,
        names=(tuple(f"{k + 1}: {name}" for k, name in keys),),
        keys=(keys,),
        content=(tuple((len(part.names), *getattr(part, "shown", (type(part).__name__,))) for part in parts),),
        baseline="each part's own",
        score="output",
        link=setting_name(link),
        outputs=whole,
        calls=torch.tensor(asked),
        seconds=time.perf_counter() - began,
        **samples_of([solved], keep_samples),
    )
    return warn_if_few(result)


def check_parts(parts: Any) -> None:
    """Refuse an empty list of parts, and items that are not parts."""
    if not isinstance(parts, Sequence) or isinstance(parts, str):
        raise BadInput(f"parts is a {type(parts).__name__}; give a list of parts, such as [text_part(text)]")
    if not parts:
        raise BadInput("there is no part to explain")
    for k, part in enumerate(parts):
        if not hasattr(part, "names") or not callable(getattr(part, "hide", None)):
            raise BadInput(
                f"part {k + 1} is a {type(part).__name__}; give text_part(text), row_part(space, row), image_part(x), "
                "or an object with names and hide"
            )


def outputs_of_parts(
    predict: Callable[..., Any], parts: Sequence[Part], masks: Tensor, start: int, batch: int = BATCH
) -> Tensor:
    """Return the outputs at masks of all features, (S, K); `start` numbers the first."""
    rows = [own.numpy() for own in masks.split([len(part.names) for part in parts], 1)]
    values = [[part.hide(z, start + k) for k, z in enumerate(own)] for part, own in zip(parts, rows, strict=True)]

    def of(at: Sequence[int]) -> Any:
        return predict(*([value[k] for k in at] for value in values))

    return outputs_of(of, range(len(masks)), batch)
