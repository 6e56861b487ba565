"""Every contract check catches methods that are broken on purpose, with the sentence that names the broken promise."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.attacks import ddn, fgsm, fmn, pgd
from unfooled.core.losses import margin
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import per_sample
from unfooled.core.threats import Linf, Threat
from unfooled.core.types import BudgetAttack, MinimalAttack
from unfooled.distances import l2
from unfooled.explanations import integrated_gradients, saliency
from unfooled.testing import check_attack, check_distance, check_explanation, check_loss
from unfooled.testing.subjects import interior, linear, never_fooled, points, tiny_net
from unfooled.training import Madry, Standard

Method = Callable[..., Any]
# Attacks inside a threat: each is pgd with one fault.


def attack(
    model: Any,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    generator: torch.Generator | None = None,
    batch: int | None = None,
) -> Tensor:
    return pgd(model, x, y, threat, steps=8, loss=margin, targeted=targeted, generator=generator, batch=batch)


def leaves_the_ball(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    return attack(model, x, y, threat.scaled(1.5))


def leaves_the_box(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    return x + per_sample(threat.eps, x) * threat.steepest(attack(model, x, y, threat) - x)


def returns_float32(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    return attack(model, x, y, threat).float()


def returns_a_row_too_many(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    return torch.cat([attack(model, x, y, threat), x[:1]])


def keeps_its_graph(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    return attack(model, x, y, threat).requires_grad_()


def returns_nan(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    return attack(model, x, y, threat) * torch.nan


def returns_a_list(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Any:
    return attack(model, x, y, threat).tolist()


def mutates_x(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    z = attack(model, x, y, threat)
    x.data.copy_(z)
    return z


def mutates_y(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    z = attack(model, x, y, threat)
    y.zero_()
    return z


def mutates_eps(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    z = attack(model, x, y, threat)
    if isinstance(threat.eps, Tensor):
        threat.eps.mul_(2)
    return z


def leaves_a_gradient_in_x(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    z = attack(model, x, y, threat)
    if x.requires_grad:
        with frozen(model):
            margin(model(x), y).sum().backward()
    return z


def leaves_gradients_in_parameters(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    z = attack(model, x, y, threat)
    if isinstance(model, nn.Module):
        margin(model(x.detach()), y).sum().backward()
    return z


def freezes_for_good(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    if isinstance(model, nn.Module):
        model.requires_grad_(False)
    return attack(model, x, y, threat)


def switches_to_train(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    z = attack(model, x, y, threat)
    if isinstance(model, nn.Module):
        model.train()
    return z


def moves_weights(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    if isinstance(model, nn.Module):
        next(model.parameters()).data.mul_(0.99)
    return attack(model, x, y, threat)


def leaves_a_hook(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    if isinstance(model, nn.Module):
        model.register_forward_hook(lambda module, args, output: None)
    return attack(model, x, y, threat)


def uses_torch_s_generator(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    torch.rand(1)
    return attack(model, x, y, threat)


def uses_numpy_s_generator(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    np.random.rand()  # noqa: NPY002
    return attack(model, x, y, threat)


def uses_python_s_generator(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    random.random()
    return attack(model, x, y, threat)


def returns_x_itself(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    attack(model, x, y, threat)
    return x.detach()


def advances_the_generator(
    model: Any, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
) -> Tensor:
    torch.rand(1, generator=generator or torch.Generator())
    return attack(model, x, y, threat)


COUNT = itertools.count()


def forgets_the_seed(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    return attack(model, x, y, threat, generator=torch.Generator().manual_seed(next(COUNT)))


def ignores_the_seed(
    model: Any, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
) -> Tensor:
    return attack(model, x, y, threat)


def depends_on_the_place(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    z = attack(model, x, y, threat)
    first = torch.arange(len(x)).reshape(-1, 1, 1, 1) < 2 if x.ndim == 4 else torch.zeros(len(x), 1, 1) > 0
    return torch.where(first, x, z)


def depends_on_the_chunk(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    return attack(model, x, y, threat.scaled(0.2 if len(x) < 4 else 1))


def differs_in_the_last_digits(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    return threat.project(attack(model, x, y, threat) + 1e-4 * len(x), x)


def has_a_batch_that_matters(model: Any, x: Tensor, y: Tensor, threat: Threat, *, batch: int | None = None) -> Tensor:
    return attack(model, x, y, threat if batch is None else threat.scaled(0.1))


def takes_the_first_eps(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    attack(model, x, y, threat)
    least = float(torch.as_tensor(threat.eps).min())
    return attack(model, x, y, threat.with_eps(least))


def goes_astray_where_it_fails(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    z = attack(model, x, y, threat)
    return 1 - x if model is never_fooled else z


def never_moves(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    attack(model, x, y, threat)
    return x.detach().clone()


def loses_its_start(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    z = attack(model, x, y, threat)
    with torch.no_grad():
        lucky = (model(threat.sample(x)).argmax(1) != y) & (model(x).argmax(1) == y)
    return torch.where(lucky.reshape(-1, *[1] * (x.ndim - 1)), x, z)


def ignores_targets(model: Any, x: Tensor, y: Tensor, threat: Threat, *, targeted: bool = False) -> Tensor:
    return attack(model, x, y, threat)


def leaves_the_threat_with_a_target(
    model: Any, x: Tensor, y: Tensor, threat: Threat, *, targeted: bool = False
) -> Tensor:
    return attack(model, x, y, threat.scaled(2 if targeted else 1), targeted=targeted)


def stops_half_way(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    z = attack(model, x, y, threat)
    return threat.scaled(0.9).project(z, x)


def accepts_anything(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    try:
        return attack(model, x, y, threat)
    except ValueError:
        return x


def fails_with_an_error_of_its_own(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    try:
        return attack(model, x, y, threat)
    except ValueError as error:
        raise RuntimeError("oh") from error


def crashes_on_one_sample(model: Any, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    if len(x) == 1:
        raise IndexError("too few")
    return attack(model, x, y, threat)


START = {"random_start": True}
BUDGET: list[tuple[Method, dict[str, Any], str]] = [
    (leaves_the_ball, {}, r"leaves the ball: \d of 7 points, the farthest at 0.075 \(linf:0.05\)"),
    (leaves_the_box, {}, r"leaves the box: its points lie in \[-"),
    (returns_float32, {}, "returns another dtype than x's: torch.float32 instead of torch.float64"),
    (returns_a_row_too_many, {}, r"returns another shape than x's: torch.Size\(\[8"),
    (keeps_its_graph, {}, "still require a gradient"),
    (returns_nan, {}, "returns NaN or infinite values"),
    (returns_a_list, {}, "returns a list instead of a tensor"),
    (mutates_x, {}, "changes x in place"),
    (mutates_y, {}, "changes y in place"),
    (mutates_eps, {}, "changes eps in place"),
    (leaves_a_gradient_in_x, {}, "leaves a gradient in x.grad"),
    (leaves_gradients_in_parameters, {}, "leaves gradients in the model's parameters"),
    (freezes_for_good, {}, "changes requires_grad of the model's parameters"),
    (switches_to_train, {}, r"leaves the model in another mode \(train or eval\)"),
    (moves_weights, {}, "changes the model's parameters"),
    (leaves_a_hook, {}, "leaves hooks on the model"),
    (uses_torch_s_generator, {}, "uses torch's global random generator"),
    (uses_numpy_s_generator, {}, "uses numpy's global random generator"),
    (uses_python_s_generator, {}, "uses Python's global random generator"),
    (returns_x_itself, {}, "returns the memory of x itself"),
    (advances_the_generator, {}, "advances the generator that it was handed"),
    (forgets_the_seed, {}, "gives other points for the same seed"),
    (ignores_the_seed, {"seeded": True}, "gives the same points for another seed"),
    (depends_on_the_place, {}, "depends on the order of the batch"),
    (depends_on_the_chunk, {}, "depends on the batch: chunks of 3"),
    (has_a_batch_that_matters, {}, "gives another outcome with batch=3"),
    (differs_in_the_last_digits, {}, "gives sample 0 alone another point than in a batch, by 0.0006"),
    (takes_the_first_eps, {}, "treats one eps per sample unlike each eps alone"),
    (goes_astray_where_it_fails, {}, "leaves the threat for samples that nothing fools"),
    (accepts_anything, {}, r"accepts bad input \(x outside the box\) instead of raising a ValueError"),
    (fails_with_an_error_of_its_own, {}, r"bad input \(x outside the box\) with RuntimeError instead of a ValueError"),
    (never_moves, {}, r"fools no more than chance: 0 of 40 samples, a random point [1-9]"),
    (loses_its_start, START, "loses a sample that the random point it starts from fools"),
    (ignores_targets, {}, "hits 0 of 7 targets, at least 2.8 are claimed"),
    (leaves_the_threat_with_a_target, {}, "leaves the threat when it aims at a class"),
    (stops_half_way, {"optimum": 1.05}, "fools 0.00 of the samples just above the distance of a linear model"),
    (attack, {"passes": (8, 8)}, "takes 9 forwards and 8 backwards per sample, at most 8 and 8 are claimed"),
    (crashes_on_one_sample, {}, "fails while its promise 'batch' is checked, with IndexError: too few"),
]


@pytest.mark.parametrize(("broken", "claims", "sentence"), BUDGET, ids=[row[0].__name__ for row in BUDGET])
def test_a_broken_attack_is_caught(broken: Method, claims: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence) as caught:
        check_attack(broken, norms=[math.inf], **claims)
    assert str(caught.value).startswith(broken.__name__)
    assert "\n" not in str(caught.value)


def test_the_attack_behind_the_broken_ones_is_honest() -> None:
    check_attack(attack, norms=[math.inf], optimum=1.05, seeded=True, random_start=True, passes=(9, 8))


def nearest(model: Any, x: Tensor, y: Tensor, norm: float, *, targeted: bool = False) -> Tensor:
    return fmn(model, x, y, norm, steps=30, targeted=targeted)


def never_returns_x(model: Any, x: Tensor, y: Tensor, norm: float) -> Tensor:
    return (nearest(model, x, y, norm) + 1e-3).clamp(0, 1)


def goes_too_far(model: Any, x: Tensor, y: Tensor, norm: float) -> Tensor:
    z = nearest(model, x, y, norm)
    return (x + 50 * (z - x)).clamp(0, 1)


def finds_nothing(model: Any, x: Tensor, y: Tensor, norm: float) -> Tensor:
    nearest(model, x, y, norm)
    return x.detach().clone()


def goes_a_little_too_far(model: Any, x: Tensor, y: Tensor, norm: float) -> Tensor:
    return (x + 1.1 * (nearest(model, x, y, norm) - x)).clamp(0, 1)


def misses_half_the_targets(model: Any, x: Tensor, y: Tensor, norm: float, *, targeted: bool = False) -> Tensor:
    z = nearest(model, x, y, norm, targeted=targeted)
    return torch.where(torch.arange(len(x)).reshape(-1, 1, 1, 1) % 2 > 0, x, z) if targeted else z


def knows_no_norm(model: Any, x: Tensor, y: Tensor, norm: float) -> Tensor:
    return nearest(model, x, y, norm if norm in (0, 1, 2, math.inf) else 2)


def grows_with_the_batch(model: Any, x: Tensor, y: Tensor, norm: float) -> Tensor:
    z = nearest(model, x, y, norm)
    return (x + (1 + 0.1 * len(x)) * (z - x)).clamp(0, 1)


MINIMAL: list[tuple[Method, dict[str, Any], str]] = [
    (never_returns_x, {}, "does not return x itself for samples that nothing fools"),
    (goes_too_far, {}, r"is farther than a random search for \d+ of 10 samples"),
    (finds_nothing, {}, "finds nothing for 10 of 10 samples"),
    (goes_a_little_too_far, {"optimum": 1.05}, r"misses the nearest point of a linear model of 2 classes, \(1, 6, 5\)"),
    (misses_half_the_targets, {"hit_rate": 1}, "hits 3 of 6 targets, at least 6 are claimed"),
    (knows_no_norm, {}, r"accepts bad input \(the norm 3\)"),
    (grows_with_the_batch, {}, "depends on the batch: chunks of 3 give another outcome"),
]


@pytest.mark.parametrize(("broken", "claims", "sentence"), MINIMAL, ids=[row[0].__name__ for row in MINIMAL])
def test_a_broken_minimal_attack_is_caught(broken: Method, claims: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_attack(broken, norms=[2], **claims)


def test_the_minimal_attack_behind_the_broken_ones_is_honest() -> None:
    check_attack(partial(nearest), norms=[2], optimum=1.05)


def test_the_kind_is_read_from_the_signature_or_given() -> None:
    def wrapped(*args: Any, **options: Any) -> Tensor:
        return fgsm(*args, **options)

    def unnamed(model: Any, x: Tensor, y: Tensor, within: Threat) -> Tensor:
        return fgsm(model, x, y, within)

    with pytest.raises(ValueError, match="the fourth parameter of wrapped is neither `threat` nor `norm`"):
        check_attack(wrapped)
    check_attack(wrapped, kind=BudgetAttack, norms=[2], only=["inside"])
    check_attack(unnamed, norms=[2], only=["inside"])
    check_attack(ddn, norms=[2], only=["already"])
    with pytest.raises(AssertionError, match="fails while its promise 'inside' is checked"):
        check_attack(wrapped, kind=MinimalAttack, norms=[2], only=["inside"])
    with pytest.raises(ValueError, match="kind is 'minimal'; give BudgetAttack or MinimalAttack"):
        check_attack(fgsm, kind="minimal")
    with pytest.raises(ValueError, match="there is no norm 3; there are 0, 1, 2, inf"):
        check_attack(fgsm, norms=[3])
    with pytest.raises(ValueError, match="there is no promise 'speed'; there are inside, untouched"):
        check_attack(fgsm, only=["speed"])


# Explanations: each is the gradient with one fault.


def explain(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    return saliency(model, x, y, create_graph=create_graph)


def without_graph(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return saliency(model, x, y)


def explains_in_float32(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    return explain(model, x, y, create_graph=create_graph).float()


def sums_channels(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    return explain(model, x, y, create_graph=create_graph).sum(1)


def always_has_a_graph(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    return explain(model, x, y, create_graph=True)


def never_has_a_graph(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    return explain(model, x, y)


def makes_x_a_leaf(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    found = explain(model, x, y, create_graph=create_graph)
    return found if x.is_inference() else (x.requires_grad_(), found)[1]


def explains_in_training_mode(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    found = explain(model, x, y, create_graph=create_graph)
    if isinstance(model, nn.Module):
        model.train()
    return found


def explains_with_backward(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    found = explain(model, x, y, create_graph=create_graph)
    if torch.is_grad_enabled() and not x.is_inference():
        model(x).sum().backward()
    return found


def normalises_over_the_batch(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    found = explain(model, x, y, create_graph=create_graph)
    return found / found.abs().max()


def depends_on_its_row(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    found = explain(model, x, y, create_graph=create_graph)
    return found * (1 + torch.arange(len(x), device=x.device, dtype=x.dtype)).reshape(-1, *[1] * (x.ndim - 1))


def needs_the_caller_s_gradients(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    found = explain(model, x, y, create_graph=create_graph)
    return found if torch.is_grad_enabled() else 0 * found


def switches_gradients_on(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    torch.set_grad_enabled(True)
    return explain(model, x, y, create_graph=create_graph)


def holds_a_factor_constant(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    return x.detach() * explain(model, x, y, create_graph=create_graph)


def smears(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    found = explain(model, x, y, create_graph=create_graph)
    return found + found.mean((1, 2, 3), keepdim=True)


def is_blind(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    return 0 * explain(model, x, y, create_graph=create_graph)


def explains_anything(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    try:
        return explain(model, x, y, create_graph=create_graph)
    except ValueError:
        return x


SLOPE: dict[str, Any] = {"linear": lambda w, x: w, "ignores": True}
EXPLANATIONS: list[tuple[Method, dict[str, Any], str]] = [
    (explains_in_float32, {}, "returns another dtype than x's"),
    (sums_channels, {}, "returns another shape than x's"),
    (always_has_a_graph, {}, "still requires a gradient: detach it"),
    (never_has_a_graph, {}, "returns no graph for create_graph=True"),
    (makes_x_a_leaf, {}, "changes requires_grad of x"),
    (explains_in_training_mode, {}, "leaves the model in another mode"),
    (explains_with_backward, {}, "leaves gradients in the model's parameters"),
    (normalises_over_the_batch, {}, "explains a sample alone unlike in a batch, by"),
    (depends_on_its_row, {}, "depends on the order of the batch"),
    (needs_the_caller_s_gradients, {}, r"gives another attribution under torch.no_grad\(\)"),
    (switches_gradients_on, {}, r"leaves the caller's gradient mode torch.no_grad\(\) changed"),
    (holds_a_factor_constant, {}, "has a derivative with respect to x that disagrees with finite differences, by"),
    (smears, SLOPE, "gives a coordinate that the model ignores an attribution other than 0"),
    (smears, {"linear": lambda w, x: w}, r"misses the exact answer by 0\.\d+ \(a linear model\)"),
    (is_blind, {}, r"is 0 everywhere \(torch.float32\)"),
    (explain, {"baseline": 0.0}, "is not complete: attributions miss the change of the logit by up to"),
    (partial(integrated_gradients, steps=1), {"baseline": 0.0, "completeness": 1e-6}, "is not complete"),
    (explains_anything, {}, r"accepts bad input \(a label above the last class\)"),
]


@pytest.mark.parametrize(("broken", "claims", "sentence"), EXPLANATIONS)
def test_a_broken_explanation_is_caught(broken: Method, claims: dict[str, Any], sentence: str) -> None:
    before = torch.is_grad_enabled()
    with pytest.raises(AssertionError, match=sentence):
        check_explanation(broken, **claims)
    torch.set_grad_enabled(before)


def test_the_explanation_behind_the_broken_ones_is_honest() -> None:
    check_explanation(explain, **SLOPE)
    check_explanation(without_graph, differentiable=False)


def test_a_derivative_that_leaves_the_parameters_out_is_caught() -> None:
    def fixed(model: Any, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
        with frozen(model):
            return saliency(model, x, y, create_graph=create_graph)

    with pytest.raises(AssertionError, match="derivative with respect to the parameters that disagrees"):
        check_explanation(fixed, only=["derivative"])


# Distances: each is the Euclidean one with a fault.


def average(a: Tensor, b: Tensor) -> Tensor:
    return l2(a, b).mean()


def in_float32(a: Tensor, b: Tensor) -> Tensor:
    return l2(a, b).float()


def relative_to_the_batch(a: Tensor, b: Tensor) -> Tensor:
    return l2(a, b) / a.max()


def by_place(a: Tensor, b: Tensor) -> Tensor:
    return l2(a, b) * (1 + torch.arange(len(a), dtype=a.dtype))


def in_place(a: Tensor, b: Tensor) -> Tensor:
    found = l2(a, b)
    a.sub_(b)
    return found


def with_noise(a: Tensor, b: Tensor) -> Tensor:
    return l2(a, b) + 0 * torch.rand(())


def never_zero(a: Tensor, b: Tensor) -> Tensor:
    return l2(a, b) + 0.1


def always_zero(a: Tensor, b: Tensor) -> Tensor:
    return 0 * l2(a, b)


def below_zero(a: Tensor, b: Tensor) -> Tensor:
    return -l2(a, b)


def one_sided(a: Tensor, b: Tensor) -> Tensor:
    return l2(a, b) * a.flatten(1).sum(1)


def squared(a: Tensor, b: Tensor) -> Tensor:
    return l2(a, b).square()


def of_anything(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).norm(dim=1) if a.shape == b.shape else a.flatten(1).sum(1)


SHIFT = {"invariances": [lambda a, b: (a + 1, b + 1), lambda a, b: (2 * a, b)]}
DISTANCES: list[tuple[Method, dict[str, Any], str]] = [
    (average, {}, r"returns shape \(\) instead of one number per sample, \(5,\)"),
    (in_float32, {}, r"returns dtype torch.float32 \(torch.float64\)"),
    (relative_to_the_batch, {}, "depends on the batch"),
    (by_place, {}, "depends on the order of the batch"),
    (in_place, {}, "changes a in place"),
    (with_noise, {}, "uses torch's global random generator"),
    (never_zero, {}, "is 0.1 to 0.1 for equal tensors instead of 0"),
    (always_zero, {}, "is 0 for tensors that differ"),
    (below_zero, {}, r"has values of -\d.*, outside \[0, inf\]"),
    (one_sided, {}, "is not symmetric"),
    (squared, {"metric": True}, "breaks the triangle inequality"),
    (l2, SHIFT, "changes under its declared invariance 2"),
    (of_anything, {}, r"accepts bad input \(another number of samples\)"),
]


@pytest.mark.parametrize(("broken", "claims", "sentence"), DISTANCES, ids=[row[0].__name__ for row in DISTANCES])
def test_a_broken_distance_is_caught(broken: Method, claims: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_distance(broken, **claims)


def test_a_distance_of_other_arguments_draws_its_own() -> None:
    seen: list[tuple[int, ...]] = []

    def watched(a: Tensor, b: Tensor) -> Tensor:
        seen.append(tuple(a.shape[1:]))
        return l2(a, b)

    check_distance(watched, draw=lambda n, seed: points(n, (4,), dtype=torch.float64, seed=seed), metric=True)
    assert set(seen) == {(4,)}


# Training losses: each is the cross-entropy with a fault.


class Broken:
    """Standard training, until a subclass spoils it."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y)


class PerSample(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model(x), y, reduction="none")


class Detached(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return super().__call__(model, x, y).detach()


class InEvalMode(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return super().__call__(model.eval(), x, y)


class GradientToInputs(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return super().__call__(model, x.requires_grad_(), y)


class BackwardInside(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        super().__call__(model, x, y).backward()
        return super().__call__(model, x, y)


class Thaws(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return super().__call__(model.requires_grad_(True), x, y)


class Steps(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.999)
        return super().__call__(model, x, y)


class MovesInputs(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return super().__call__(model, x.add_(0.1).clamp_(0, 1), y)


class OnlyTheHead(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        logits = model(x)
        bias = list(model.parameters())[-1]
        return F.cross_entropy(logits.detach() + bias - bias.detach(), y)


class Upwards(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return 100 - super().__call__(model, x, y)


class Constant(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        value = super().__call__(model, x, y)
        return value / value.detach()


class NotANumber(Broken):
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return super().__call__(model, x, y) * torch.nan


@dataclass(frozen=True)
class ExtraTerm(Madry):
    """Something that stays where eps is 0."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return super().__call__(model, x, y) + 0.1 * model(x).square().mean()


LOSSES: list[tuple[Any, dict[str, Any], str]] = [
    (PerSample(), {}, r"returns shape \(12,\) instead of a scalar"),
    (Detached(), {}, "returns a value without a graph"),
    (NotANumber(), {}, "is nan"),
    (InEvalMode(), {}, r"leaves the model in another mode \(train or eval\)"),
    (GradientToInputs(), {}, "changes requires_grad of x"),
    (BackwardInside(), {}, "leaves gradients in the model's parameters"),
    (Thaws(), {}, "changes requires_grad of the model's parameters"),
    (Steps(), {}, "changes the model's parameters: that is the optimiser's work"),
    (MovesInputs(), {}, "changes x in place"),
    (OnlyTheHead(), {}, "gives no finite gradient to some of the trainable parameters"),
    (Upwards(), {}, "does not train: clean cross-entropy from"),
    (Constant(), {}, "does not fall: from 1 to 1"),
    (ExtraTerm(Linf(0.05), steps=1), {}, "with eps = 0 trains other weights than standard training, by"),
    (Broken(), {"at_zero": Standard(0.3)}, "with eps = 0 trains other weights than standard training"),
]


@pytest.mark.parametrize(("broken", "claims", "sentence"), LOSSES, ids=[type(row[0]).__name__ for row in LOSSES])
def test_a_broken_loss_is_caught(broken: Any, claims: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_loss(broken, **claims)


def test_the_loss_behind_the_broken_ones_is_honest() -> None:
    check_loss(Broken())
    check_loss(Constant(), falls=None)
    check_loss(ExtraTerm(Linf(0.05), steps=1), standard_at_zero=False)


# What the checks run on


def test_the_linear_model_knows_its_distance_in_entries() -> None:
    model, x = linear(3, (6,), dtype=torch.float64), interior(9, (6,), dtype=torch.float64)
    model.bias[0] += 0.7
    y, seen = model(x).argmax(1), set()
    far = torch.full((9,), torch.inf, dtype=x.dtype)
    for size in range(6, 0, -1):  # every set of entries, at every corner
        for entries in itertools.combinations(range(6), size):
            for corner in itertools.product((0.0, 1.0), repeat=size):
                z = x.clone()
                z[:, list(entries)] = torch.tensor(corner, dtype=x.dtype)
                far[model(z).argmax(1) != y] = size
    assert torch.equal(model.distance(x, y, 0.0), far)
    for gap in (0.1, 0.4, 0.8, 1.2):
        two = linear(2, (8,), dtype=torch.float64)
        two.bias[0] += gap
        z = interior(12, (8,), dtype=torch.float64)
        seen |= set(two.distance(z, torch.zeros(12, dtype=torch.int64), 0.0).tolist())
    assert len(seen) >= 4


def test_every_class_of_the_small_network_is_predicted_somewhere() -> None:
    net, x = tiny_net(), points(200, (1, 6, 5))
    assert net(x).argmax(1).unique().numel() == 3
    assert not net.training
    assert (never_fooled(x).argmax(1) == 0).all()


def test_nothing_of_a_test_framework_is_needed() -> None:
    import unfooled.testing as package

    for file in Path(package.__file__).parent.glob("*.py"):
        assert "pytest" not in file.read_text(encoding="utf-8")
