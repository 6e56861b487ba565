"""Fit a purifier to a network and its data, and purify data with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.limits import Limits, allowing
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.batching import batched
from unfooled.data.dataset import Dataset
from unfooled.data.load import load_dataset
from unfooled.features import Encoder, last_features
from unfooled.models.load import load_model
from unfooled.purification import SemanticPurifier, fit_purifier, guard, load_purifier
from unfooled.purification.storage import ARRAYS, FACTS, UnknownEncoder, stored_layer
from unfooled.runs.chunks import Progress
from unfooled.runs.records import Record
from unfooled.statistics.intervals import Estimate, Mean, mean, share
from unfooled.workflows.errors import BadOption
from unfooled.workflows.guarding import on_device
from unfooled.workflows.inputs import Inputs, Loaded
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import check_file, check_folder
from unfooled.workflows.purify_files import check_files, flat_images, purified, read_files, store, write_files
from unfooled.workflows.rebuilding import refuse_other
from unfooled.workflows.words import at_least, size_of

MAX_HELD_OUT = 1000  # samples that are held out of the fit
EVERY = 5  # where the data have no splits, every fifth sample of a class is held out
AT_ONCE = 64  # samples purified between two reports of progress


@dataclass(frozen=True)
class PurifierOptions:
    """Options of fitting a purifier.

    Args:
        clusters: Largest number of clusters of a class.
        atoms: Atoms of a dictionary.
        patch: Side of a patch in pixels; None: 8, or half of the image's shorter side where that is less.
        stride: Distance of neighbouring patches in use; None: a quarter of the patch.
        smooth: Weight of the split into bands; the larger, the more of the image is rebuilt.
        sparsity: Weight of the codes' absolute values.
        layer: Layer whose output is clustered, or "NAME:input" for its input; None: the linear layer before the last.
        min_size: Least number of images of a cluster.
    """

    clusters: int = 5
    atoms: int = 64
    patch: int | None = None
    stride: int | None = None
    smooth: float = 5.0
    sparsity: float = 0.3
    layer: str | None = None
    min_size: int = 50

    def check(self) -> None:
        """Refuse numbers that no purifier can use."""
        for option in ("clusters", "atoms", "stride", "min_size"):
            at_least(option, getattr(self, option), 1)
        at_least("patch", self.patch, 2)  # a patch of one pixel has no detail
        at_least("smooth", self.smooth, 0, above=True)
        at_least("sparsity", self.sparsity, 0)


class ClassClusters(Record):
    """Clusters of one class.

    Attributes:
        name: Name of the class.
        n: Number of images.
        clusters: Number of clusters.
        sizes: Images of each cluster.
        stability: Agreement of the clusters from several seeds, an adjusted Rand index. None: not needed.
        silhouette: Mean silhouette. None: one cluster.
    """

    name: str
    n: int
    clusters: int
    sizes: list[int]
    stability: float | None
    silhouette: float | None


class PurifierRecord(Record):
    """Result of fitting a purifier.

    Attributes:
        out: Folder of the purifier, which `load_purifier` reads.
        model: Name of the model.
        data: Name of the data.
        layer: Layer whose output was clustered.
        n: Images of the fit.
        classes: Clusters of each class.
        atoms: Atoms of each dictionary.
        patch: Side of a patch.
        stride: Distance of neighbouring patches in use.
        before: Accuracy on held-out clean images without the purifier.
        after: Accuracy on the same images behind the purifier.
        psnr: Mean peak signal-to-noise ratio of purified against clean held-out images, in dB.
        seconds: Seconds of the fit.
        warnings: Assumptions and findings, one sentence each.
    """

    out: str
    model: str
    data: str
    layer: str
    n: int
    classes: list[ClassClusters]
    atoms: int
    patch: int
    stride: int
    before: Estimate
    after: Estimate
    psnr: Mean
    seconds: float
    warnings: list[str] = Field(default_factory=list)


class AppliedRecord(Record):
    """Result of purifying data.

    Attributes:
        out: An .npz or a folder of images, which `load_data` reads.
        data: Name of the data.
        n: Number of images.
        psnr: Mean peak signal-to-noise ratio of the purified against the given images, in dB.
        seconds: Seconds of purifying.
        warnings: Assumptions of the readers, one sentence each.
    """

    out: str
    data: str
    n: int
    psnr: Mean
    seconds: float
    warnings: list[str] = Field(default_factory=list)


def purify_fit(
    inputs: Inputs,
    out: str | Path,
    *,
    options: PurifierOptions = PurifierOptions(),
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> PurifierRecord:
    """Fit a semantic purifier to a network and clean training images, and save it.

    Args:
        inputs: Model and clean training images.
        out: Folder of the purifier; an earlier purifier in it is replaced, other files are not touched.
        options: Sizes and weights.
        seed: Random seed of clusters and dictionaries.
        machine: The device, and images encoded at once.
        progress: Called as `(stage, steps done, steps in all)`.

    Returns:
        A `PurifierRecord`; `load_purifier(out)` is the purifier. The record does not say what the purifier is worth:
        clean accuracy says nothing about attacks.

    Raises:
        BadInput: options, model or data that cannot be used, or a folder that cannot be written or holds other files.
    """
    options.check()
    inputs.check()
    out = _check_out(out)
    device = machine.prepare(seed)
    report = progress or (lambda *_: None)
    report("loading", 0, 1)
    loaded = inputs.load(device, seed=seed)
    (x, y), held_out = _held_out(inputs, loaded, device, seed)
    patch = _check_images(x, options)
    _check_classes(y, loaded.classes)
    layer = options.layer or last_features(loaded.model)
    encode = Encoder(loaded.model, layer)
    with torch.no_grad():
        encode(x[:1])
    report("loading", 1, 1)
    report("clusters and dictionaries", 0, 1)
    started = time.perf_counter()
    fitted = fit_purifier(
        encode, x, y, seed=seed, smooth=options.smooth, sparsity=options.sparsity, atoms=options.atoms, size=patch,
        max_clusters=options.clusters, min_size=options.min_size, batch=machine.batch or 256,
    )  # fmt: skip
    purify = fitted if options.stride is None else replace(fitted, stride=options.stride)
    seconds = round(time.perf_counter() - started, 2)
    report("clusters and dictionaries", 1, 1)
    report("held-out images", 0, 1)
    before, after, psnr = _judged(loaded, purify, *held_out)
    purify.save(out)
    report("held-out images", 1, 1)
    return PurifierRecord(
        out=str(out), model=inputs.model_name, data=inputs.data_name, layer=layer, n=len(x),
        classes=_classes(purify, loaded.classes), atoms=options.atoms, patch=patch, stride=purify.stride,
        before=before, after=after, psnr=psnr, seconds=seconds,
        warnings=[*loaded.warnings, *_without_images(loaded, y), *_small_classes(purify, loaded.classes, options)],
    )  # fmt: skip


def purify_apply(
    purifier: str | Path | SemanticPurifier,
    data: str | Path | Callable[..., Any] | tuple[Any, ...],
    out: str | Path,
    *,
    model: str | Path | Callable[..., Any] | None = None,
    split: str = "test",
    n: int | None = None,
    size: str | int | tuple[int, int] | None = None,
    labels: str | Path | None = None,
    channels: int | None = None,
    limits: Limits | None = None,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> AppliedRecord:
    """Purify images, and store them as data; those without labels as files of the same names.

    Args:
        purifier: Folder of a saved purifier, or the purifier.
        data: Source of the data, as `load_dataset` reads it, or a folder of images without class folders.
        out: An .npz, or a folder of PNG files by class; it is complete once its manifest is there. Of images without
            labels: a folder, in which each PNG file has the name of its image.
        model: Model that the purifier was fitted with, for a folder that cannot build its encoder. None: not needed.
        split: Part of the data.
        n: Number of images; None: all.
        size: (height, width) that images are resized to, or "32" or "32x48".
        labels: Class names in order.
        channels: Channels that images are converted to, 1 (grey) or 3 (colour); None: unchanged.
        limits: Sizes beyond which a file is refused; None: the defaults of `Limits`.
        machine: The device, and images purified at once.
        progress: Called as `(stage, images done, images in all)`.

    Returns:
        An `AppliedRecord`; `load_data(out)` reads images with labels.

    Raises:
        BadInput: a folder without a purifier, images of other channels than those of the fit or smaller than the patch,
            or an `out` that holds something else.
    """
    at_least("n", n, 1)
    if channels not in (None, 1, 3):
        raise BadOption("{channels} is {0}; it must be 1 (grey) or 3 (colour)", channels)
    files = flat_images(data)[:n]
    if files:
        out = check_files(out, files, labels=labels)
    else:
        out = check_file(out) if Path(out).suffix.lower() == ".npz" else check_folder(out)
        refuse_other(out, out.parent / f"{out.name}.parts")
    purify, device = _loaded(purifier, model, machine.prepare())
    with allowing(limits):
        images = (
            read_files(files, size_of(size), channels)
            if files
            else load_dataset(data, split, n, size=size_of(size), labels=labels, channels=channels)
        )
    _check_fit(purify, images)
    started = time.perf_counter()
    made = purified(purify, images.x, device, machine.batch or AT_ONCE, progress or (lambda *_: None))
    seconds = round(time.perf_counter() - started, 2)
    if files:
        write_files(out, files, made, str(purifier))
    else:
        store(out, images, made, str(purifier))
    return AppliedRecord(
        out=str(out), data=images.name, n=len(made), psnr=mean(psnr_of(made, images.x)), seconds=seconds,
        warnings=list(images.warnings),
    )  # fmt: skip


def psnr_of(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of images in [0, 1], (B,), in dB; infinite for equal ones."""
    return -10 * (a - b).square().flatten(1).mean(1).double().log10()


def _check_out(out: str | Path) -> Path:
    """Return the folder; refuse one that cannot be written, or that contains other files than those of a purifier."""
    path = check_folder(out)
    others = [p.name for p in path.iterdir() if p.name not in (ARRAYS, FACTS)] if path.is_dir() else []
    if others:
        raise BadOption("{0} holds other files, such as {1}; choose another {out}", path, min(others))
    return path


def _held_out(
    inputs: Inputs, loaded: Loaded, device: str, seed: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return the samples of the fit and the held-out ones: the test split, or every fifth sample of each class."""
    try:
        with allowing(inputs.limits):
            separate = load_dataset(inputs.data, "test", n=1, labels=inputs.labels).split == "test"
    except (BadInput, ValueError):
        separate = False
    x, y = loaded.x, loaded.y
    if separate and inputs.split not in ("test", "all"):
        others = replace(
            inputs, model=loaded.model, arch=None, mean=None, std=None, split="test", n=MAX_HELD_OUT, shuffle=False
        )
        held_out = others.load(device, seed=seed)
        return (x, y), (held_out.x, held_out.y)
    out = _every_fifth(y)
    if not bool(out.any()):
        raise BadOption("{data:{0}} has {1} samples; a purifier needs at least {2}", inputs.data_name, len(y), EVERY)
    return (x[~out], y[~out]), (x[out][:MAX_HELD_OUT], y[out][:MAX_HELD_OUT])


def _every_fifth(y: Tensor) -> Tensor:
    """Return every fifth sample of each class in turn, (N,) bool; the only sample of a class is never one of them."""
    order = torch.argsort(y, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(y), device=y.device)
    return (place % EVERY == EVERY - 1) & (y.bincount()[y] > 1)


def _check_images(x: Tensor, options: PurifierOptions) -> int:
    """Refuse samples that have no patches of the size that was asked for; return the side of a patch."""
    if x.ndim != 4:
        raise BadOption("samples have shape {0}; a purifier takes images, (C, H, W)", tuple(x.shape[1:]))
    side = min(x.shape[2:])
    patch = min(8, max(2, side // 2)) if options.patch is None else options.patch
    if patch > side:
        raise BadOption("images are {0}x{1} and {patch} is {2}; give a smaller {patch}", *x.shape[2:], patch)
    if options.stride is not None and options.stride > patch:
        raise BadOption("{stride} is {0} and {patch} {1}; patches must touch: give a smaller {stride}",
                        options.stride, patch)  # fmt: skip
    return patch


def _check_classes(y: Tensor, names: list[str]) -> None:
    """Refuse labels that leave out a class below the largest one."""
    missing = [k for k, count in enumerate(y.bincount().tolist()) if not count]
    if missing:
        listed = ", ".join(names[k] if k < len(names) else str(k) for k in missing[:8])
        raise BadOption(
            "no image is of these classes: {0}; give images of each, such as more of them by {n}, or number the "
            "classes without gaps", listed + ", ..." * (len(missing) > 8),
        )  # fmt: skip


def _judged(loaded: Loaded, purify: SemanticPurifier, x: Tensor, y: Tensor) -> tuple[Estimate, Estimate, Mean]:
    """Return the clean accuracy without and with the purifier, and the peak signal-to-noise ratio."""
    with torch.no_grad():
        before = read_logits(loaded.model, x, batch=256).argmax(1) == y
        after = read_logits(guard(loaded.model, purify), x, batch=AT_ONCE).argmax(1) == y
        made = batched(purify, AT_ONCE)(x)
    return share(before), share(after), mean(psnr_of(made, x))


def _classes(purify: SemanticPurifier, names: list[str]) -> list[ClassClusters]:
    """Return the record of each class's clusters."""
    return [
        ClassClusters(
            name=names[fit.label] if fit.label < len(names) else str(fit.label), n=fit.n, clusters=fit.k,
            sizes=list(fit.sizes), stability=_number(fit.stability[fit.k - 1]), silhouette=_number(fit.silhouette),
        )
        for fit in purify.clusters.fits
    ]  # fmt: skip


def _without_images(loaded: Loaded, y: Tensor) -> list[str]:
    """Return a sentence about classes of the model of which there is no image."""
    with torch.no_grad():
        classes = read_logits(loaded.model, loaded.x[:1]).shape[1]
    missing = [k for k in range(classes) if not bool((y == k).any())]
    if not missing:
        return []
    names = [loaded.classes[k] if k < len(loaded.classes) else str(k) for k in missing[:8]]
    listed = ", ".join(names) + (", ..." if len(missing) > 8 else "")
    return [f"no image is of these classes of the model: {listed}; theirs will be rebuilt from those of other classes"]


def _small_classes(purify: SemanticPurifier, names: list[str], options: PurifierOptions) -> list[str]:
    """Return sentences about classes that are one cluster for want of images, and about images of a single class."""
    few = [fit for fit in purify.clusters.fits if fit.n < options.min_size]
    if len(purify.clusters.fits) == 1:
        only = names[purify.clusters.fits[0].label]
        found = [f"all images are of one class, {only}; every image will be rebuilt from its dictionaries"]
    else:
        found = []
    if not few:
        return found
    listed = ", ".join(f"{names[fit.label]} ({fit.n})" for fit in few[:8]) + (", ..." if len(few) > 8 else "")
    return [*found, f"classes with fewer than {options.min_size} images are one cluster: {listed}"]


def _number(value: float) -> float | None:
    """Return a number for a record; NaN becomes None."""
    return None if value != value else round(value, 4)


def _loaded(purifier: str | Path | SemanticPurifier, model: Any, device: str) -> tuple[SemanticPurifier, str]:
    """Return the purifier, with its encoder from the model where one is given, and the device of its encoder."""
    if isinstance(purifier, SemanticPurifier):
        weights = [value for module in modules_of(purifier.encode) for value in module.parameters()]
        return purifier, str(weights[0].device) if weights else "cpu"
    encode = None if model is None else Encoder(load_model(model), *stored_layer(purifier))
    try:
        purify = load_purifier(purifier, encode)
    except UnknownEncoder:
        raise BadOption("the encoder of {0} is of own code; give the {model} of the fit", purifier) from None
    on_device(purify, device)
    return purify, device


def _check_fit(purify: SemanticPurifier, images: Dataset) -> None:
    """Refuse images that the dictionaries do not fit."""
    x, channels = images.x, int(purify.dictionaries.shape[2])
    if x.ndim != 4:
        raise BadOption("{0} has samples of shape {1}; a purifier takes images", images.name, tuple(x.shape[1:]))
    if x.shape[1] != channels:
        sentence = f"the purifier was fitted to images of {{0}} channel{'s' * (channels != 1)}, {{1}} has {{2}}"
        advice = f"; convert them, {{channels:{channels}}}" if channels in (1, 3) else "; fit another purifier"
        raise BadOption(sentence + advice, channels, images.name, x.shape[1])
    if min(x.shape[2:]) < purify.size:
        sentence = "images are {0}x{1}, patches of the purifier {2}x{2}; resize them ({size}) or fit smaller patches"
        raise BadOption(sentence, *x.shape[2:], purify.size)
    with torch.no_grad():
        purify(x[:1])  # other sizes than those of the fit give other latents
