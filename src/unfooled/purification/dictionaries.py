"""Dictionaries of patches, one for each cluster, and sparse codes in them.

    codes         a = argmin 1/2 ||p - a D||^2 + s ||a||_1
    ISTA          a <- soft(a - (a D - p) D^T / L, s / L),   soft(u, t) = sign(u) max(|u| - t, 0),   L = ||D D^T||_2
    dictionary    D = argmin sum 1/2 ||p - a D||^2 over ||d_j|| <= 1, row after row, exactly

p are patches, (.., P, n), D has A atoms, (.., A, n), and s is the sparsity. `ista` takes a fixed number of steps from
zero, is differentiable, and works on batches of dictionaries. `learn_patches` alternates FISTA, which is ISTA with
momentum, and the update of the dictionary, for all clusters in one batch.

References:
    Daubechies, Defrise, De Mol, An iterative thresholding algorithm for linear inverse problems with a sparsity
    constraint, Communications on Pure and Applied Mathematics 57, 2004 (ISTA).
    Beck, Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse problems, SIAM Journal on
    Imaging Sciences 2, 2009 (FISTA).
    Mairal, Bach, Ponce, Sapiro, Online dictionary learning for sparse coding, ICML 2009, algorithm 2 (the update;
    theirs is online).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core import rng
from unfooled.core.checks import check_count, check_number
from unfooled.core.errors import BadInput
from unfooled.core.low_pass import check_images
from unfooled.core.shapes import where_rows

ROUNDS = 1
"""Rounds over the atoms in one update of a dictionary."""


def soft_threshold(u: Tensor, t: Tensor | float) -> Tensor:
    """Return sign(u) max(|u| - t, 0); t broadcasts."""
    bound = torch.as_tensor(t, dtype=u.dtype, device=u.device)
    return u - torch.minimum(torch.maximum(u, -bound), bound)


def curvature(dictionary: Tensor) -> Tensor:
    """Return L = ||D D^T||_2 of dictionaries, (.., A, n) -> (..)."""
    gram = dictionary @ dictionary.mT
    return torch.linalg.eigvalsh(gram.detach())[..., -1].clamp_min(1e-12)


def ista(
    patches: Tensor, dictionary: Tensor, *, sparsity: float, steps: int = 15, lipschitz: Tensor | None = None
) -> Tensor:
    """Return sparse codes after a fixed number of steps from zero.

    Args:
        patches: Patches, (.., P, n).
        dictionary: Atoms, (.., A, n), of norm at most 1; leading dimensions broadcast against those of the patches.
        sparsity: Weight s of ||a||_1, at least 0.
        steps: Number of steps, at least 1.
        lipschitz: L of each dictionary, (..). None: computed.

    Returns:
        Codes, (.., P, A), differentiable with respect to the patches and the dictionary. The objective does not rise
        from step to step. Cost: `steps` matrix products, (P, A) with (A, A).

    Raises:
        BadInput: Sizes of patches and atoms that differ, a negative sparsity, or steps below 1.

    Example:
        >>> ista(torch.tensor([[0.9, 0.7]]), torch.eye(2), sparsity=0.5, steps=1)
        tensor([[0.4000, 0.2000]])
    """
    if patches.shape[-1] != dictionary.shape[-1]:
        raise BadInput(f"patches have {patches.shape[-1]} values, atoms {dictionary.shape[-1]}; they must agree")
    check_number("sparsity", sparsity, least=0)
    check_count("steps", steps)
    size = (curvature(dictionary) if lipschitz is None else lipschitz)[..., None, None]
    decay, projected, scale = _scaled(patches, dictionary, size, sparsity)
    codes = _thresholded(projected, sparsity)
    for _ in range(steps - 1):
        codes = _thresholded(_gradient_step(codes, decay, projected), sparsity)
    return codes * scale


def _scaled(patches: Tensor, dictionary: Tensor, size: Tensor, sparsity: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return I - D D^T / L, p D^T in units of the threshold, and that unit, s / L.

    In units of s / L every threshold is 1, whatever the dictionary, and a step is one product and one soft threshold.
    """
    gram = dictionary @ dictionary.mT
    decay = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device) - gram / size
    unit = sparsity if sparsity else 1.0
    return decay, patches @ dictionary.mT / unit, unit / size


def _gradient_step(codes: Tensor, decay: Tensor, projected: Tensor) -> Tensor:
    """Return a (I - D D^T / L) + p D^T / L, in one pass where the shapes allow."""
    if codes.ndim == 3 and decay.ndim == 3 and len(codes) == len(decay):
        return torch.baddbmm(projected, codes, decay)
    return projected + codes @ decay


def _thresholded(codes: Tensor, sparsity: float) -> Tensor:
    """Return soft(a, 1); a itself if the sparsity is 0."""
    return F.softshrink(codes, 1.0) if sparsity else codes


def objective(patches: Tensor, dictionary: Tensor, codes: Tensor, *, sparsity: float) -> Tensor:
    """Return 1/2 ||p - a D||^2 + s ||a||_1 of each patch, (.., P)."""
    rest = patches - codes @ dictionary
    return rest.square().sum(-1) / 2 + sparsity * codes.abs().sum(-1)


def fista(patches: Tensor, dictionary: Tensor, *, sparsity: float, steps: int, start: Tensor | None = None) -> Tensor:
    """Return sparse codes by accelerated steps from given codes; for fitting, without a gradient.

    Args:
        patches: Patches, (.., P, n).
        dictionary: Atoms, (.., A, n).
        sparsity: Weight s of ||a||_1.
        steps: Number of steps.
        start: Codes to start from, (.., P, A). None: zero.

    Returns:
        Codes, (.., P, A).
    """
    with torch.no_grad():
        size = curvature(dictionary)[..., None, None]
        decay, projected, scale = _scaled(patches, dictionary, size, sparsity)
        codes = torch.zeros_like(projected) if start is None else start / scale
        ahead, t = codes, 1.0
        for _ in range(steps):
            last, codes = codes, _thresholded(_gradient_step(ahead, decay, projected), sparsity)
            t, before = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
            ahead = codes.lerp(last, (1 - before) / t)  # codes + (before - 1) / t (codes - last)
        return codes * scale


def update_atoms(patches: Tensor, dictionary: Tensor, codes: Tensor, *, rounds: int = ROUNDS) -> Tensor:
    """Return the dictionaries after exact updates of each atom in turn, with norms of at most 1.

    The objective does not rise; an atom that no code uses stays as it is.

    Args:
        patches: Patches, (M, P, n).
        dictionary: Atoms, (M, A, n).
        codes: Codes, (M, P, A).
        rounds: Rounds over the atoms.
    """
    inner, outer = codes.mT @ codes, codes.mT @ patches
    atoms = dictionary.clone()
    weight = inner.diagonal(dim1=1, dim2=2)
    used = weight > 1e-10
    for _ in range(rounds):
        for j in range(atoms.shape[1]):
            rest = outer[:, j] - torch.einsum("ma,man->mn", inner[:, j], atoms) + weight[:, j, None] * atoms[:, j]
            moved = rest / weight[:, j, None].clamp_min(1e-10)
            moved = moved / moved.norm(dim=1, keepdim=True).clamp_min(1)
            atoms[:, j] = where_rows(used[:, j], moved, atoms[:, j])
    return atoms


def image_patches(x: Tensor, *, size: int, stride: int) -> Tensor:
    """Return the patches of images, (B, C, H, W) -> (B, P, C * size * size).

    Images are padded by their last row and column until the patches cover every pixel.

    Raises:
        BadInput: Images are smaller than the patch.
    """
    check_images(x)
    height, width = x.shape[-2:]
    if min(height, width) < size:
        raise BadInput(f"images are {height}x{width}, patches {size}x{size}; choose smaller patches")
    right, down = (-(side - size) % stride for side in (width, height))
    return F.unfold(F.pad(x, (0, right, 0, down), mode="replicate"), size, stride=stride).mT


def from_patches(patches: Tensor, shape: tuple[int, int, int], *, size: int, stride: int) -> Tensor:
    """Return images from their patches, overlaps averaged: (B, P, C * size * size) -> (B, C, H, W)."""
    _, height, width = shape
    right, down = (-(side - size) % stride for side in (width, height))
    whole = (height + down, width + right)
    total = F.fold(patches.mT, whole, size, stride=stride)
    count = F.fold(torch.ones_like(patches[:1, :, : size * size].mT), whole, size, stride=stride)
    return (total / count)[..., :height, :width]


def learn_patches(
    high: Tensor,
    cluster: Tensor,
    *,
    atoms: int = 64,
    size: int = 8,
    stride: int = 4,
    sparsity: float = 0.3,
    least: float = 0.02,
    most: int = 1500,
    rounds: int = 30,
    steps: int = 10,
    clusters: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Learn a dictionary of patches for each cluster of images, all of them in one batch.

    Args:
        high: High band of clean images in the units of the images to purify, (N, C, H, W).
        cluster: Cluster of each image, (N,) int64.
        atoms: Atoms of a dictionary, A.
        size: Side of a patch.
        stride: Distance of neighbouring patches while learning.
        sparsity: Weight of ||a||_1; purify with the same.
        least: Standard deviation below which a patch is left out.
        most: Largest number of patches for each cluster, drawn at random.
        rounds: Number of alternations of codes and dictionary.
        steps: Steps of FISTA for the codes in each of them.
        clusters: Number of clusters, M. None: the largest value of `cluster` plus one.
        generator: Base seed of the draws.

    Returns:
        Atoms of norm at most 1, (M, A, C, size, size). A cluster without patches gets those of all clusters.

    Raises:
        BadInput: Images smaller than the patch, a high band without any patch above `least`, or numbers that cannot be
            used.
    """
    for name, value in (("atoms", atoms), ("stride", stride), ("most", most), ("rounds", rounds), ("steps", steps)):
        check_count(name, value)
    check_count("size", size, least=2, because=": a patch of one pixel has no detail")
    if cluster.shape != (len(high),):
        raise BadInput(f"cluster has shape {tuple(cluster.shape)}; there must be one per image, ({len(high)},)")
    source = torch.Generator().manual_seed(rng.base_seed(generator))
    count = int(cluster.max()) + 1 if clusters is None else clusters
    parts = [high.detach()[cluster == k] for k in range(count)]
    patches = _training_patches(parts, size, stride, least, most, source)
    dictionary = _first_atoms(patches, atoms, source)
    codes = torch.zeros(*patches.shape[:2], atoms, dtype=patches.dtype, device=patches.device)
    for _ in range(rounds):
        codes = fista(patches, dictionary, sparsity=sparsity, steps=steps, start=codes)
        dictionary = update_atoms(patches, dictionary, codes)
    return dictionary.reshape(len(patches), atoms, high.shape[1], size, size)


def _training_patches(
    parts: list[Tensor], size: int, stride: int, least: float, most: int, source: torch.Generator
) -> Tensor:
    """Return the patches of each cluster, (M, P, n), padded with zero patches, which change no dictionary."""
    by_cluster: list[Tensor] = []
    for members in parts:
        # Images in random order, and no more of them than have enough patches.
        members = members[torch.randperm(len(members), generator=source).to(members.device)]
        rows: list[Tensor] = []
        for part in members.split(256) if len(members) else ():
            candidates = image_patches(part, size=size, stride=stride).flatten(0, 1)
            rows.append(candidates[candidates.std(1, correction=0) >= least])
            if sum(len(row) for row in rows) >= 4 * most:
                break
        joined = torch.cat(rows) if rows else members.new_zeros(0, members.shape[1] * size * size)
        pick = torch.randperm(len(joined), generator=source)[:most].to(joined.device)
        by_cluster.append(joined[pick])
    everything = torch.cat(by_cluster)
    if not len(everything):
        if not any(bool((one.abs() > least).any()) for one in parts):
            raise BadInput("every image is constant, so that the high band is 0; give images with some detail")
        raise BadInput(
            f"no patch of the high band has a standard deviation of {least:g}; give images with more detail, or raise "
            "smooth, which is the weight of the low-pass filter"
        )
    fallback = everything[torch.randperm(len(everything), generator=source)[:most].to(everything.device)]
    by_cluster = [rows if len(rows) else fallback for rows in by_cluster]
    longest = max(len(rows) for rows in by_cluster)
    return torch.stack([F.pad(rows, (0, 0, 0, longest - len(rows))) for rows in by_cluster])


def _first_atoms(patches: Tensor, atoms: int, source: torch.Generator) -> Tensor:
    """Return normalised random patches, (M, A, n), and random directions where there are too few."""
    first = torch.randn(len(patches), atoms, patches.shape[2], generator=source, dtype=torch.float64).to(patches)
    have = min(atoms, patches.shape[1])
    some = patches[:, :have]  # in random order already
    first[:, :have] = torch.where(some.norm(dim=2, keepdim=True) > 0, some, first[:, :have])
    return first / first.norm(dim=2, keepdim=True).clamp_min(1e-12)
