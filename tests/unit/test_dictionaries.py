"""Dictionaries of patches and filters, and codes in them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.purification.convolutional import (
    analysis,
    convolutional_codes,
    convolutional_curvature,
    learn_convolutional,
    synthesis,
)
from unfooled.purification.dictionaries import (
    curvature,
    fista,
    from_patches,
    image_patches,
    ista,
    learn_patches,
    objective,
    soft_threshold,
    update_atoms,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dictionaries(*shape: int, seed: int = 1) -> Tensor:
    return F.normalize(noise(*shape, seed=seed), dim=-1)


def test_an_orthonormal_dictionary_is_soft_thresholding_in_one_step() -> None:
    basis = torch.linalg.qr(noise(6, 6))[0]
    patches = noise(4, 6, seed=2)
    for steps in (1, 5):
        codes = ista(patches, basis, sparsity=0.4, steps=steps)
        torch.testing.assert_close(codes, soft_threshold(patches @ basis.T, 0.4))
    torch.testing.assert_close(ista(patches, torch.eye(6).double(), sparsity=0.0, steps=1), patches)


@pytest.mark.parametrize("sparsity", [0.05, 0.5])
def test_the_objective_never_rises(sparsity: float) -> None:
    patches, atoms = noise(3, 5, 8), dictionaries(3, 12, 8)
    values = [
        objective(patches, atoms, ista(patches, atoms, sparsity=sparsity, steps=n), sparsity=sparsity)
        for n in range(1, 30)
    ]
    assert all(bool((b <= a + 1e-12).all()) for a, b in pairwise(values))


def test_many_steps_reach_scikit_learns_codes() -> None:
    from sklearn.decomposition import sparse_encode

    patches, atoms = noise(6, 8), dictionaries(12, 8)
    expected = torch.from_numpy(sparse_encode(patches.numpy(), atoms.numpy(), algorithm="lasso_lars", alpha=0.3))
    for codes in (
        ista(patches, atoms, sparsity=0.3, steps=2000),
        fista(patches, atoms, sparsity=0.3, steps=500),
    ):
        torch.testing.assert_close(codes, expected, rtol=1e-5, atol=1e-6)


def test_a_batch_of_dictionaries_is_each_of_them() -> None:
    patches, atoms = noise(3, 5, 8), dictionaries(3, 12, 8)
    together = ista(patches, atoms, sparsity=0.2)
    for i in range(3):
        torch.testing.assert_close(together[i], ista(patches[i], atoms[i], sparsity=0.2))
    size = curvature(atoms)
    assert torch.equal(together, ista(patches, atoms, sparsity=0.2, lipschitz=size))
    torch.testing.assert_close(size[1], torch.linalg.matrix_norm(atoms[1], 2) ** 2)


@pytest.mark.parametrize("sparsity", [0.0, 0.2])
def test_codes_have_gradients(sparsity: float) -> None:
    patches, atoms = noise(2, 3, 5).requires_grad_(), dictionaries(2, 6, 5).requires_grad_()
    size = curvature(atoms)

    def codes(p: Tensor, d: Tensor) -> Tensor:
        return ista(p, d, sparsity=sparsity, steps=5, lipschitz=size)

    assert torch.autograd.gradcheck(codes, (patches, atoms))
    filters = dictionaries(3, 2 * 9).reshape(3, 2, 3, 3).requires_grad_()
    length = convolutional_curvature(filters, (2, 5, 4))

    def maps(h: Tensor, d: Tensor) -> Tensor:
        return convolutional_codes(h, d, sparsity=sparsity, steps=3, lipschitz=length)

    assert torch.autograd.gradcheck(maps, (noise(1, 2, 5, 4).requires_grad_(), filters))


@pytest.mark.parametrize(
    ("height", "width", "size", "stride"), [(8, 8, 4, 2), (9, 7, 4, 3), (6, 6, 6, 1), (5, 8, 3, 1)]
)
def test_images_are_the_average_of_their_patches(height: int, width: int, size: int, stride: int) -> None:
    x = noise(2, 3, height, width)
    patches = image_patches(x, size=size, stride=stride)
    assert patches.shape[2] == 3 * size * size
    torch.testing.assert_close(from_patches(patches, (3, height, width), size=size, stride=stride), x)


def test_an_update_is_exact_and_never_raises_the_error() -> None:
    patches, atoms = noise(2, 40, 6), dictionaries(2, 5, 6)
    codes = fista(patches, atoms, sparsity=0.2, steps=50)
    codes[..., 4] = 0  # an atom that nothing uses
    patches[0] *= 0.1  # short atoms suffice there
    error = [(patches - codes @ d).square().sum((1, 2)) for d in (atoms, update_atoms(patches, atoms, codes))]
    assert (error[1] < error[0]).all()
    new = update_atoms(patches, atoms, codes, rounds=200)
    assert (new.norm(dim=2) <= 1 + 1e-9).all()
    assert torch.equal(new[:, 4], atoms[:, 4])
    # At the constrained optimum the gradient is 0, or pushes the atom straight out of the ball.
    gradient = codes.mT @ (codes @ new - patches)
    inside = new.norm(dim=2) < 1 - 1e-6
    assert inside.any(1).tolist() == [True, False]
    assert gradient[inside].abs().max() < 1e-6
    outward = (gradient + gradient.norm(dim=2, keepdim=True) * new)[~inside]
    assert outward.abs().max() < 1e-5


def test_learnt_atoms_are_as_good_as_scikit_learns() -> None:
    from sklearn.decomposition import MiniBatchDictionaryLearning

    true, source = dictionaries(10, 16), torch.Generator().manual_seed(5)
    codes = torch.randn(400, 10, generator=source).double() * (torch.rand(400, 10, generator=source) < 0.2)
    patches = codes @ true + 0.02 * noise(400, 16, seed=7)
    images = patches.reshape(400, 1, 4, 4)
    twin = MiniBatchDictionaryLearning(n_components=12, alpha=0.1, random_state=0, max_iter=15).fit(patches.numpy())
    both = learn_patches(
        images.repeat(2, 1, 1, 1), torch.arange(2).repeat_interleave(400), atoms=12, size=4, stride=4, sparsity=0.1
    ).flatten(2)
    assert both.shape == (2, 12, 16)

    def value(atoms: Tensor) -> float:
        return float(objective(patches, atoms, fista(patches, atoms, sparsity=0.1, steps=300), sparsity=0.1).mean())

    theirs = value(torch.from_numpy(twin.components_))
    for ours in both:
        assert (ours.norm(dim=1) <= 1 + 1e-6).all()
        assert value(ours) <= 1.02 * theirs


def test_a_cluster_without_patches_learns_from_all() -> None:
    high = noise(12, 1, 8, 8)
    high[:4] = 0
    k = torch.tensor([0] * 4 + [1] * 8)
    learnt = learn_patches(high, k, atoms=6, size=4, rounds=3, clusters=3)
    assert learnt.shape == (3, 6, 1, 4, 4)
    assert (learnt.flatten(2).norm(dim=2) > 0.1).all()
    same = learn_patches(high, k, atoms=6, size=4, rounds=3, clusters=3)
    assert torch.equal(learnt, same)


def test_synthesis_and_analysis_are_adjoint_for_one_set_and_for_many() -> None:
    filters, x = dictionaries(2, 3, 18).reshape(2, 3, 2, 3, 3), noise(2, 2, 6, 5)
    codes = noise(2, 3, 8, 7, seed=4)
    for d in (filters, filters[0]):
        left, right = (synthesis(codes, d) * x).sum(), (codes * analysis(x, d)).sum()
        torch.testing.assert_close(left, right)
    for i in range(2):
        torch.testing.assert_close(synthesis(codes, filters)[i : i + 1], synthesis(codes[i : i + 1], filters[i]))
        torch.testing.assert_close(analysis(x, filters)[i : i + 1], analysis(x[i : i + 1], filters[i]))


def test_convolutional_codes_are_those_of_the_dense_problem() -> None:
    filters, x = dictionaries(3, 9).reshape(3, 1, 3, 3), noise(1, 1, 4, 4)
    places = torch.eye(3 * 6 * 6, dtype=torch.float64).reshape(-1, 3, 6, 6)
    rows = synthesis(places, filters).flatten(1)
    size = float(curvature(rows))
    assert size <= float(convolutional_curvature(filters, (1, 4, 4), iterations=200)) <= 1.03 * size
    expected = fista(x.flatten(1), rows, sparsity=0.3, steps=3000)
    codes = convolutional_codes(x, filters, sparsity=0.3, steps=3000)
    torch.testing.assert_close(codes.flatten(1), expected, rtol=1e-4, atol=1e-5)

    def value(c: Tensor) -> Tensor:
        return (synthesis(c, filters) - x).square().sum() / 2 + 0.3 * c.abs().sum()

    values = [float(value(convolutional_codes(x, filters, sparsity=0.3, steps=n, fast=False))) for n in range(1, 20)]
    assert values == sorted(values, reverse=True)


def test_learnt_filters_code_better_than_random_ones() -> None:
    true = dictionaries(2, 9).reshape(2, 1, 3, 3)
    source = torch.Generator().manual_seed(3)
    spikes = (torch.rand(30, 2, 10, 10, generator=source) < 0.05).double() * 2
    x = synthesis(spikes, true)
    source = torch.Generator().manual_seed(0)
    learnt = learn_convolutional(x, atoms=4, size=3, sparsity=0.1, rounds=40, generator=source)
    random = dictionaries(4, 9, seed=8).reshape(4, 1, 3, 3)
    assert (learnt.flatten(1).norm(dim=1) <= 1 + 1e-6).all()

    def value(d: Tensor) -> float:
        c = convolutional_codes(x, d, sparsity=0.1, steps=100)
        return float((synthesis(c, d) - x).square().sum() / 2 + 0.1 * c.abs().sum())

    assert value(learnt) < 0.8 * value(random)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: ista(noise(3, 4), noise(2, 5), sparsity=0.1), "patches have 4 values, atoms 5"),
        (lambda: ista(noise(3, 4), noise(2, 4), sparsity=-1.0), "sparsity is -1.0"),
        (lambda: ista(noise(3, 4), noise(2, 4), sparsity=0.1, steps=0), "steps is 0"),
        (lambda: image_patches(noise(1, 1, 4, 9), size=5, stride=1), "images are 4x9, patches 5x5; choose smaller"),
        (lambda: learn_patches(noise(1, 1, 8, 8), torch.zeros(2).long()), r"cluster has shape \(2,\)"),
        (lambda: learn_patches(torch.zeros(2, 1, 8, 8), torch.zeros(2).long()), "every image is constant"),
        (lambda: learn_patches(noise(1, 1, 8, 8), torch.zeros(1).long(), atoms=0), "atoms is 0"),
        (lambda: learn_convolutional(torch.zeros(2, 1, 8, 8)), "every image is constant"),
        (lambda: learn_convolutional(noise(2, 1, 8, 8), atoms=0), "atoms is 0"),
        (
            lambda: convolutional_codes(noise(1, 3, 8, 8), noise(2, 1, 3, 3), sparsity=0.1, steps=1),
            "images have 3 channels",
        ),
        (
            lambda: convolutional_codes(noise(1, 1, 2, 8), noise(2, 1, 3, 3), sparsity=0.1, steps=1),
            "images are 2x8, filters 3x3",
        ),
        (lambda: convolutional_codes(noise(1, 1, 8, 8), noise(2, 1, 3, 3), sparsity=-1.0, steps=1), "sparsity is -1.0"),
        (lambda: convolutional_codes(noise(1, 1, 8, 8), noise(2, 1, 3, 3), sparsity=0.1, steps=0), "steps is 0"),
    ],
)
def test_bad_input(call: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        call()
