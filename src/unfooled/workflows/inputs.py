"""Inputs of workflows: a model and labelled samples, by name or as objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.checks import check_labels
from unfooled.core.class_names import counting, few_names
from unfooled.core.errors import BadInput, OneOutput
from unfooled.core.goals import read_logits
from unfooled.core.limits import Limits, allowing, regular
from unfooled.core.model.calls import ModelFails, advice_for, noticing
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.two_class import two_class
from unfooled.data.classes import check_names, for_model, read_names
from unfooled.data.formats.folders import decode, unlabelled_images
from unfooled.data.load import load_dataset
from unfooled.models.black_boxes import function_on_arrays
from unfooled.models.load import load_model
from unfooled.workflows.catalog import DEFAULT_N
from unfooled.workflows.errors import BadOption
from unfooled.workflows.places import check_not_behind_url
from unfooled.workflows.several_labels import as_classes, check_single
from unfooled.workflows.words import at_least, size_of, statistics


@dataclass(frozen=True)
class Inputs:
    """A model and its data, to be loaded.

    Args:
        model: Source of the model, as `load_model` reads it: a path, "package.module:factory", a module or a callable.
        data: Source of the data, as `load_dataset` reads it: a name, a path, "package.module:factory" or (x, y).
        arch: Architecture of a checkpoint.
        split: Part of the data.
        n: Number of samples; None: all.
        shuffle: Draw the samples at random.
        mean: Mean that the model expects, in fractions of the range: a number, one per channel, or "0.49,0.48,0.45".
        std: Standard deviation, likewise.
        size: (height, width) that images are resized to, or "32" or "32x48".
        labels: Class names in the model's order: a file with one per line, or JSON.
        channels: Channels that images are converted to, 1 (grey) or 3 (colour); None: unchanged.
        trust_pickle: Let the model's file run its code when it is read.
        limits: Sizes beyond which a file is refused; None: the defaults of `Limits`.
        model_kind: Kind of the model's source, such as "onnx", where its name suggests another one.
        label: Label that counts where samples have several, (N, L) of 0 and 1: its name or its number from 0; "any": a
            change of any of them counts. None: any, and rows that look one-hot are refused.
    """

    model: str | Path | nn.Module | Callable[..., Any]
    data: str | Path | tuple[Any, ...] = "digits"
    arch: str | None = None
    split: str = "test"
    n: int | None = DEFAULT_N
    shuffle: bool = False
    mean: str | float | Sequence[float] | None = None
    std: str | float | Sequence[float] | None = None
    size: str | int | tuple[int, int] | None = None
    labels: str | Path | None = None
    channels: int | None = None
    trust_pickle: bool = False
    limits: Limits | None = None
    model_kind: str | None = None
    label: str | int | None = None

    @property
    def model_name(self) -> str:
        """Name of the model for records."""
        if isinstance(self.model, (str, Path)):
            return str(self.model)
        return getattr(self.model, "name", "") or getattr(self.model, "__name__", "") or type(self.model).__name__

    @property
    def data_name(self) -> str:
        """Name of the data for records."""
        return str(self.data) if isinstance(self.data, (str, Path)) else "tensors"

    @property
    def options(self) -> dict[str, Any]:
        """The other options that records state."""
        given = {name: getattr(self, name) for name in ("channels", "label") if getattr(self, name) is not None}
        return {name: getattr(self, name) for name in ("split", "shuffle", "arch", "mean", "std", "size")} | given

    def check(self) -> None:
        """Refuse values that cannot be used, before anything is loaded.

        Raises:
            BadOption: one of them; the message names the option.
        """
        at_least("n", self.n, 1)
        statistics(self.mean, self.std)
        size_of(self.size)
        if self.channels not in (None, 1, 3):
            raise BadOption("{channels} is {0}; it must be 1 (grey) or 3 (colour)", self.channels)
        for option in ("model", "data", "split"):
            if isinstance(value := getattr(self, option), str) and not value.strip():
                raise BadOption("{" + option + "} is empty; leave it out, or name something")
            check_not_behind_url(value, option)

    def load(self, device: str, *, seed: int = 0, stream: bool = False) -> Loaded:
        """Load both, and check that they fit each other.

        Args:
            device: Device of both.
            seed: Random seed of a shuffle.
            stream: Read large data in parts, when they are indexed; see `load_dataset`.

        Raises:
            BadInput: a model or data that cannot be read, or that do not belong together.
        """
        self.check()
        resized = self.size is not None
        with allowing(self.limits):
            return self._loaded(
                device, seed=seed, size=size_of(self.size), resized=resized, labelled=True, stream=stream
            )  # fmt: skip

    def load_unlabelled(self, device: str) -> Loaded | None:
        """Load images without labels, which are then the model's predictions; None: the data are something else."""
        self.check()
        files = unlabelled_images(regular(Path(self.data))) if isinstance(self.data, (str, Path)) else []
        if not files:
            return None
        with allowing(self.limits):
            x = decode(files[: self.n], size_of(self.size), self.channels)
        bare = replace(self, data=(x, [0] * len(x)), split="all", n=None, shuffle=False, labels=None)
        loaded = bare._loaded(device, seed=0, size=None, resized=self.size is not None, labelled=False)
        with torch.no_grad():
            logits = read_logits(loaded.model, loaded.x, batch=256)
        names = loaded.model.classes or []
        if self.labels is not None:
            names = [item[-1] for item in read_names(Path(self.labels))]
        names = [*names, *(str(k) for k in range(len(names), logits.shape[1]))]
        return Loaded(loaded.model, loaded.x, logits.argmax(1), names, ())

    def _loaded(
        self, device: str, *, seed: int, size: tuple[int, int] | None, resized: bool, labelled: bool,
        stream: bool = False,
    ) -> Loaded:  # fmt: skip
        mean, std = statistics(self.mean, self.std)
        net = load_model(
            self.model, self.arch, device, mean=mean, std=std, model_kind=self.model_kind,
            trust_pickle=self.trust_pickle,
        )  # fmt: skip
        if net.classes is not None:
            check_names(net.classes, self.model_name)
        channels = None if not labelled else self.channels
        data = load_dataset(
            self.data, split=self.split, n=self.n, shuffle=self.shuffle, seed=seed, size=size, labels=self.labels,
            channels=channels, stream=stream, several=None if self.label is None else True,
        )  # fmt: skip
        x = data.x.to(device)
        given, stated = self.labels is not None, net.classes
        if stated is not None:
            data = for_model(data, stated, len(stated), labels=given)
        if data.y.ndim == 2:
            with noticing():  # of outputs as scores of classes, which these are not
                self._answer(net, x[:16], None, resized=resized)
            net, data = as_classes(net, data, x, self.label)
            stated = None
        else:
            check_single(data, self.label)
        with noticing() as notes:
            net, logits = self._read(net, x, data.y.to(device) if labelled else None, resized=resized)
        k = logits.shape[1]
        if stated is not None and len(stated) != k and not counting(stated):
            raise BadInput(
                f"{self.model_name} states {len(stated)} class names ({few_names(stated)}) and has {k} outputs; it "
                "must name all of them, in their order"
            )
        if stated is None:
            data = for_model(data, None, k, labels=given)
        y = data.y.to(device)
        check_labels(y, len(x), k)
        classes = [*data.classes, *(str(i) for i in range(len(data.classes), k))]
        # The default is "up to so many": that there are fewer is only worth a warning to those who asked for a number.
        warnings = [w for w in data.warnings if self.n != DEFAULT_N or "samples were asked for" not in w]
        return Loaded(net, x, y, classes, (*warnings, *notes))

    def _read(self, net: Classifier, x: Tensor, y: Tensor | None, *, resized: bool) -> tuple[Classifier, Tensor]:
        """Return a model, read as one of two classes or of arrays where it is one, and the logits of a few samples."""
        few, labels = x[:16], None if y is None else y[:16]
        try:
            return net, self._answer(net, few, labels, resized=resized)
        except OneOutput:
            other: Any = two_class(net, x, y)
        except BadInput:
            other = function_on_arrays(net, x, y)
            if other is None:
                raise
        return other, self._answer(other, few, labels, resized=resized)

    def _answer(self, net: Classifier, x: Tensor, y: Tensor | None, *, resized: bool) -> Tensor:
        """Return the logits of a few samples, or say what to do where the model does not take it."""
        try:
            with torch.no_grad():
                return read_logits(net, x, y)
        except ModelFails as e:
            source = self.data if isinstance(self.data, (str, Path)) else "these images"
            reason = str(e.__cause__).splitlines()[0] if str(e.__cause__) else type(e.__cause__).__name__
            advice = advice_for(net, x, e.__cause__)
            if not advice and not _about_shapes(e.__cause__):
                kind = type(e.__cause__).__name__
                raise BadOption(
                    "{0} fails on samples from {1} with {2}: {3}; mend its forward",
                    self.model_name,
                    source,
                    kind,
                    reason,
                ) from e
            raise BadOption(
                f"{{0}} does not accept samples of shape {{1}} from {{2}} ({{3}}); "
                f"{'{4}' if advice else _remedy(net, x, resized)}",
                self.model_name, tuple(x.shape[1:]), source, reason, advice,
            ) from e  # fmt: skip


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model and its data.

    Attributes:
        model: A classifier in evaluation mode.
        x: Samples, (B, *D).
        y: Labels, (B,).
        classes: Names of the classes, in the order of the logits.
        warnings: Assumptions of the readers, one sentence each.
    """

    model: Classifier
    x: Tensor
    y: Tensor
    classes: list[str]
    warnings: tuple[str, ...]


SHAPE_ERRORS = (RuntimeError, ValueError, AssertionError, IndexError, TypeError)
SHAPE_WORDS = re.compile(
    "shape|size|dimension|channel|mat1|mat2|broadcast|expected|kernel|stride|reshape|view|unpack|match|elements|batch|"
    "height|width|resolution|pixel|input|range", re.IGNORECASE,
)  # fmt: skip


def _about_shapes(error: BaseException | None) -> bool:
    """Return whether an error of a model may be due to the shape of the samples."""
    if isinstance(error, NotImplementedError) or not isinstance(error, SHAPE_ERRORS):
        return False
    return isinstance(error, AssertionError) or SHAPE_WORDS.search(str(error)) is not None


def _remedy(net: Classifier, x: Tensor, resized: bool) -> str:
    """Return the advice for a sample that the model does not take."""
    if x.ndim == 3:
        try:
            with torch.no_grad():
                read_logits(net, x[:, None])
            return "it takes grey images: save them as bytes, or as (N, 1, H, W)"
        except BadInput:
            pass
    if x.ndim in (2, 3):
        return "give samples of another shape or choose another model"
    if x.ndim == 4 and x.shape[1] in (1, 3):
        other, kind = (x.mean(1, keepdim=True), "grey") if x.shape[1] == 3 else (x.expand(-1, 3, -1, -1), "colour")
        try:
            with torch.no_grad():
                read_logits(net, other)
            return f"it takes {kind} images: convert them, {{channels:{other.shape[1]}}}"
        except BadInput:
            pass
    return "give another {size} or choose another model" if resized else "resize them ({size}) or choose another model"
