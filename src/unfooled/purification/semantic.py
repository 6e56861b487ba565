"""Semantic purifier: the high frequencies of an image are rebuilt with the dictionary of its nearest cluster.

    k = argmin_k d_k(e(x)),    low, high = split(x),    P(x) = clip(low + D_k ISTA(D_k, high))

e is an encoder, d_k the distance of its latents to cluster k (`clusters`), D_k the dictionary of the cluster
(`dictionaries`, `convolutional`). With a temperature T > 0 the three nearest clusters are mixed,

    P(x) = clip(low + sum_k w_k D_k ISTA(D_k, high)),    w = softmax(-d / T)

so that the choice, too, has a gradient. The defence is judged with T = 0; attacks may use T > 0.

References:
    Silva, Das, Scarff, Najafirad, Adaptive clustering of robust semantic representations for adversarial image
    purification, 2021, arXiv:2104.02155. The full text could not be consulted: what the abstract leaves open is ours.
    Silva, Das, Aladdini, Najafirad, ICWSM 2022, 10.1609/icwsm.v16i1.19350.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.checks import check_count, check_inputs, check_number, check_run
from unfooled.core.errors import BadInput, Unrecordable
from unfooled.core.low_pass import check_images
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.batching import batched, out_of_memory
from unfooled.core.model.calls import copied
from unfooled.core.model.modes import evaluating
from unfooled.purification.bands import split
from unfooled.purification.clusters import Clusters, fit_clusters
from unfooled.purification.convolutional import (
    convolutional_codes,
    convolutional_curvature,
    learn_convolutional,
    synthesis,
)
from unfooled.purification.dictionaries import curvature, from_patches, image_patches, ista, learn_patches
from unfooled.purification.storage import Encode, Stored, damaged, read_purifier, write_purifier

NEAREST = 3
"""Number of clusters that are mixed where the temperature is above 0."""
CODINGS = ("patches", "convolutional")
OPTIONS = ("smooth", "sparsity", "steps", "stride", "temperature", "coding")
MAX_CODES = 1 << 20
"""Largest number of code entries that are computed at once, so that they stay in the processor's cache."""
_ASKED: ContextVar[list[SemanticPurifier] | None] = ContextVar("asked", default=None)


@dataclass(frozen=True, eq=False)
class SemanticPurifier:
    """A purifier x -> x that rebuilds the high band with the dictionary of the nearest cluster.

    Args:
        encode: Encoder, x (B, C, H, W) -> latents; `features.Encoder(model, layer)` or any callable.
        clusters: Clusters of its latents, M of them.
        dictionaries: Atoms or filters of each cluster, (M, A, C, size, size).
        smooth: Weight mu of the split into bands; at 0 the high band is empty, and nothing is rebuilt.
        sparsity: Weight of the codes' absolute values, for images in [0, 1].
        steps: Steps of the coder.
        stride: Distance of neighbouring patches.
        temperature: Temperature T of the choice; 0: the nearest cluster alone.
        coding: "patches", whose overlaps are averaged, or "convolutional".
        about: Facts that are saved with it, JSON values: the seed and sizes of the fit.

    Cost: 1 forward of the encoder and `steps` products for each patch; three times as many with a temperature.

    Raises:
        BadInput: Numbers of clusters and dictionaries that differ, or options that cannot be used.
    """

    encode: Encode
    clusters: Clusters
    dictionaries: Tensor
    smooth: float = field(default=5.0, kw_only=True)
    sparsity: float = field(default=0.3, kw_only=True)
    steps: int = field(default=15, kw_only=True)
    stride: int = field(default=2, kw_only=True)
    temperature: float = field(default=0.0, kw_only=True)
    coding: str = field(default="patches", kw_only=True)
    about: Mapping[str, Any] = field(default_factory=dict, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _check_encoder(self.encode)
        shape = tuple(self.dictionaries.shape)
        if len(shape) != 5 or shape[3] != shape[4]:
            raise BadInput(f"dictionaries have shape {shape}; they are (M, A, C, size, size)")
        if shape[0] != len(self.clusters):
            raise BadInput(f"there are {shape[0]} dictionaries and {len(self.clusters)} clusters; give one for each")
        for name in ("smooth", "sparsity", "temperature"):
            check_number(name, getattr(self, name), least=0)
        for name in ("steps", "stride"):
            check_count(name, getattr(self, name))
        for name in ("smooth", "sparsity", "temperature", "steps", "stride"):
            if hasattr(value := getattr(self, name), "item"):  # a number of NumPy or a tensor, which no JSON can hold
                object.__setattr__(self, name, value.item())
        if self.coding not in CODINGS:
            raise BadInput(f'coding is {self.coding!r}; it must be "patches" or "convolutional"')
        if self.coding == "patches" and self.stride > self.size:
            raise BadInput(f"stride is {self.stride} and patches have a side of {self.size}; they must touch")
        if not bool(torch.isfinite(self.dictionaries).all()):
            raise BadInput("dictionaries hold NaN or infinite values; fit the purifier again")

    @property
    def module(self) -> Encode:
        """The encoder, as an attribute in which `frozen` searches for modules."""
        return self.encode

    @property
    def label(self) -> Tensor:
        """Class of each cluster, (M,) int64."""
        return self.clusters.label

    def __call__(self, x: Tensor) -> Tensor:
        """Return the purified images, (B, C, H, W), in [0, 1].

        Raises:
            BadInput: No images, other channels than those of the fit, or images smaller than the patch.
        """
        self._check(x)
        if x.dtype in (torch.float16, torch.bfloat16):  # codes need more digits than these have
            return self(x.float()).to(x.dtype)
        low, high = split(x, smooth=self.smooth)
        return (low + self.rebuilt(high, *self.weights(x))).clamp(0, 1)

    def distance(self, x: Tensor) -> Tensor:
        """Return the distance of images, (B, C, H, W), to each cluster, (B, M), differentiable."""
        if (asked := _ASKED.get()) is not None:
            asked.append(self)
        with evaluating(self.encode):
            return self.clusters.distance(encoded(self.encode, x))

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the clusters whose dictionaries rebuild each image, (B, J) int64, and their weights, (B, J)."""
        if not self.temperature:
            with torch.no_grad():
                k = self.distance(x).argmin(1, keepdim=True)
            return k, torch.ones_like(k, dtype=x.dtype)
        near = self.distance(x).topk(min(NEAREST, len(self.clusters)), dim=1, largest=False)
        return near.indices, (-near.values / self.temperature).softmax(1).to(x.dtype)

    def rebuilt(self, high: Tensor, k: Tensor, weight: Tensor) -> Tensor:
        """Return the high band rebuilt from clusters, (B, C, H, W).

        Args:
            high: High band, (B, C, H, W).
            k: Clusters of each image, (B, J) int64.
            weight: Their weights, (B, J).
        """
        if (asked := _ASKED.get()) is not None:
            asked.append(self)
        rebuild = self._from_patches if self.coding == "patches" else self._from_filters
        total: Tensor | float = 0.0
        for j in range(k.shape[1]):
            some = batched(rebuild, self._batch(high))(high, k[:, j])
            total = total + (some if not self.temperature else weight[:, j, None, None, None] * some)
        assert isinstance(total, Tensor)
        return total

    def save(self, folder: str | Path) -> None:
        """Write the purifier, its encoder's weights included, to `folder`: `purifier.npz` and `purifier.json`.

        Raises:
            BadInput: The folder cannot be written.
        """
        options = {name: getattr(self, name) for name in OPTIONS}
        write_purifier(Stored(self.encode, self.clusters, self.dictionaries, options, self.about), folder)

    @property
    def size(self) -> int:
        """Side of a patch or filter."""
        return int(self.dictionaries.shape[-1])

    @cached_property
    def _curvature(self) -> Tensor:
        """L of each dictionary of patches, (M,)."""
        return curvature(self.dictionaries.flatten(2))

    def _batch(self, high: Tensor) -> int:
        """Return the number of images whose codes are computed at once."""
        places = math.prod(-(-side // (self.stride if self.coding == "patches" else 1)) for side in high.shape[-2:])
        return max(1, MAX_CODES // (places * self.dictionaries.shape[1]))

    def _from_patches(self, high: Tensor, k: Tensor) -> Tensor:
        """Return the high band rebuilt patch by patch with dictionary k of each image."""
        atoms = self.dictionaries.to(high)[k].flatten(2)
        patches = image_patches(high, size=self.size, stride=self.stride)
        lipschitz = self._curvature.to(high)[k]
        codes = ista(patches, atoms, sparsity=self.sparsity, steps=self.steps, lipschitz=lipschitz)
        shape = (high.shape[1], high.shape[2], high.shape[3])
        return from_patches(codes @ atoms, shape, size=self.size, stride=self.stride)

    def _from_filters(self, high: Tensor, k: Tensor) -> Tensor:
        """Return the high band rebuilt as a sum of the filters of cluster k of each image."""
        shape = (high.shape[1], high.shape[2], high.shape[3])
        lipschitz = self._filter_curvature(shape).to(high)[k]
        filters = self.dictionaries.to(high)[k]
        codes = convolutional_codes(high, filters, sparsity=self.sparsity, steps=self.steps, lipschitz=lipschitz)
        return synthesis(codes, filters)

    def _filter_curvature(self, shape: tuple[int, int, int]) -> Tensor:
        """Return L of each set of filters on images of a shape, (M,), computed once for each shape."""
        known: dict[tuple[int, int, int], Tensor] = self.__dict__.setdefault("_curvatures", {})
        if shape not in known:
            known[shape] = convolutional_curvature(self.dictionaries, shape)
        return known[shape]

    def _check(self, x: Tensor) -> None:
        """Refuse images that the dictionaries do not fit."""
        check_images(x)
        channels = self.dictionaries.shape[2]
        if x.shape[1] != channels:
            raise BadInput(
                f"the purifier was fitted to images of {channels} channel{'s' * (channels != 1)}, these have "
                f"{x.shape[1]}; convert them or fit another purifier"
            )
        if min(x.shape[-2:]) < self.size:
            raise BadInput(
                f"images are {x.shape[-2]}x{x.shape[-1]}, patches {self.size}x{self.size}; choose smaller patches"
            )


def fit_purifier(
    encode: Encode,
    x: Tensor,
    y: Tensor,
    *,
    seed: int,
    smooth: float = 5.0,
    sparsity: float = 0.3,
    atoms: int = 64,
    size: int = 8,
    max_clusters: int = 5,
    min_size: int = 50,
    coding: str = "patches",
    batch: int = 256,
) -> SemanticPurifier:
    """Fit clusters and dictionaries to clean images.

    Args:
        encode: Encoder of the latents; it is copied with its networks, so that training them later does not change the
            purifier (a plain function cannot be copied and is used as it is).
        x: Clean training images in [0, 1], (N, C, H, W).
        y: Labels, (N,) int64; every class from 0 to the largest label has at least one image.
        seed: Random seed; saved with the purifier.
        smooth: Weight mu of the split into bands, above 0.
        sparsity: Weight of the codes' absolute values.
        atoms: Atoms of a dictionary.
        size: Side of a patch; strides are half of it while learning, a quarter of it in use.
        max_clusters: Largest number of clusters of a class.
        min_size: Least number of images of a cluster.
        coding: "patches" or "convolutional"; the second is made for a GPU.
        batch: Images encoded at once.

    Returns:
        The purifier. `dataclasses.replace` changes its steps, stride and temperature.

    Raises:
        BadInput: Images outside [0, 1], smaller than the patch or all constant, a class without images, smooth = 0, or
            other numbers that cannot be used.
    """
    check_run(seed, batch)
    counts = {"atoms": atoms, "size": size, "max_clusters": max_clusters, "min_size": min_size}
    for name, value in counts.items():
        check_count(name, value, least=2 if name == "size" and coding == "patches" else 1)
    check_number("sparsity", sparsity, least=0)
    check_number("smooth", smooth)
    if smooth <= 0:
        raise BadInput(f"smooth is {smooth}; it must be above 0, since without it the high band is 0")
    _check_encoder(encode)
    check_images(x)
    check_inputs(x, y)
    if min(x.shape[-2:]) < size:
        raise BadInput(f"images are {x.shape[-2]}x{x.shape[-1]}, patches {size}x{size}; choose smaller patches")
    if coding not in CODINGS:
        raise BadInput(f'coding is {coding!r}; it must be "patches" or "convolutional"')
    encode = _frozen_copy(encode)
    with torch.no_grad(), evaluating(encode):
        latents = batched(lambda part: encoded(encode, part).reshape(len(part), -1), batch)(x)
        high = batched(lambda part: split(part, smooth=smooth)[1], batch)(x)
    source = torch.Generator().manual_seed(seed)
    clusters = fit_clusters(latents, y, max_clusters=max_clusters, min_size=min_size, generator=source)
    k = clusters.nearest(latents.to("cpu", torch.float64), y.cpu()).to(x.device)
    learn = partial(_dictionaries, coding, atoms=atoms, size=size, sparsity=sparsity, generator=source)
    dictionaries = learn(high, k, len(clusters))
    about = {"seed": seed, "n": len(x), "shape": list(x.shape[1:])}
    return SemanticPurifier(
        encode, clusters, dictionaries, smooth=smooth, sparsity=sparsity, stride=max(1, size // 4), coding=coding,
        about=about,
    )  # fmt: skip


def _dictionaries(
    coding: str,
    high: Tensor,
    k: Tensor,
    count: int,
    *,
    atoms: int,
    size: int,
    sparsity: float,
    generator: torch.Generator,
) -> Tensor:
    """Return the dictionaries of `count` clusters, given the cluster k of each image."""
    if coding == "patches":
        half = max(1, size // 2)
        return learn_patches(
            high, k, atoms=atoms, size=size, stride=half, sparsity=sparsity, clusters=count, generator=generator
        )
    members = [high[k == m] for m in range(count)]
    learn = partial(learn_convolutional, atoms=atoms, size=size, sparsity=sparsity, generator=generator)
    return torch.stack([learn(part if len(part) else high) for part in members])


@contextmanager
def noticing_clusters() -> Iterator[list[SemanticPurifier]]:
    """Collect the semantic purifiers that choose a cluster until the context ends, wherever a function hides them."""
    asked: list[SemanticPurifier] = []
    token = _ASKED.set(asked)
    try:
        yield asked
    finally:
        _ASKED.reset(token)


def load_purifier(folder: str | Path, encode: Encode | None = None) -> SemanticPurifier:
    """Read a purifier that `SemanticPurifier.save` wrote.

    Args:
        folder: Its folder.
        encode: Encoder of the fit. None: built from the folder, which holds its weights; possible where it is a layer
            of a network in `models.ARCHITECTURES`.

    Returns:
        The purifier, equal bit for bit to the saved one, on the CPU.

    Raises:
        BadInput: A folder without the two files, damaged files, an encoder with other weights or another layer than
            that of the fit, or none where the network is not known.
    """
    stored = read_purifier(folder, encode)
    if set(stored.options) != set(OPTIONS):
        raise damaged(folder, KeyError(sorted(set(map(str, stored.options)) ^ set(OPTIONS))[0]))
    own = stored.encode if encode is None else _frozen_copy(stored.encode)
    try:
        return SemanticPurifier(own, stored.clusters, stored.dictionaries, **stored.options, about=stored.about)
    except TypeError as error:
        raise damaged(folder, error) from None


def _check_encoder(encode: Encode) -> None:
    """Refuse an encoder that cannot be called."""
    if not callable(encode):
        raise BadInput(f"encode is a {type(encode).__name__}; give a callable, such as Encoder(model, layer)")


def encoded(encode: Encode, x: Tensor) -> Tensor:
    """Return the latents of images, in the encoder's precision where that is not theirs; (B, *F).

    Raises:
        BadInput: The encoder fails, or returns no tensor with one row for each image.
    """
    weights = (p for module in modules_of(encode) for p in module.parameters() if p.is_floating_point())
    weight = next(weights, None)
    try:
        z = encode(x if weight is None or torch.is_autocast_enabled(x.device.type) else x.to(weight.dtype))
    except (BadInput, MemoryError, Unrecordable):
        raise
    except (Exception, SystemExit) as error:
        if out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(
            f"the encoder fails on images of shape {tuple(x.shape[1:])}, {x.dtype}, with {type(error).__name__}"
            f"{reason and ': ' + reason}; mend it, or give another"
        ) from error
    if not isinstance(z, Tensor) or z.ndim < 2 or len(z) != len(x):
        returned = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"a {type(z).__name__}"
        raise BadInput(f"the encoder returns {returned} for {len(x)} images; latents have one row for each, (B, *F)")
    return z


def _frozen_copy(encode: Encode) -> Encode:
    """Return a copy of an encoder in eval mode, whose parameters get no gradient; plain functions are not copied."""
    own: Encode = copied(encode)
    shared = {id(module) for module in modules_of(encode)}
    for module in modules_of(own):
        if id(module) not in shared and isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
    return own
