"""Contract checks of attacks on the label: attacks inside a threat, and minimal-norm attacks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor

from unfooled.core.ascent.nearest import NORMS
from unfooled.core.types import BudgetAttack, MinimalAttack
from unfooled.testing import manners, strength
from unfooled.testing.case import Case, Claims, has_parameter
from unfooled.testing.promises import name_of, run_checks

PROMISES: dict[str, Callable[[Case], None]] = {
    "inside": manners.inside,
    "untouched": manners.untouched,
    "seed": manners.seed,
    "batch": manners.batch,
    "alone": manners.alone,
    "radii": manners.radii,
    "already": manners.already,
    "refusals": manners.refusals,
    "random": strength.random,
    "targeted": strength.targeted,
    "optimum": strength.optimum,
    "passes": strength.passes,
}
"""Name of the promise -> check."""


def check_attack(
    attack: Callable[..., Tensor],
    *,
    kind: object = None,
    norms: Iterable[float] = (math.inf, 2.0, 1.0),
    only: Iterable[str] | None = None,
    targeted: bool | None = None,
    hit_rate: float = 0.4,
    seeded: bool = False,
    random_start: bool = False,
    optimum: float | None = None,
    fewest_classes: int = 2,
    passes: tuple[int, int] | None = None,
    device: str = "cpu",
) -> None:
    """Check that an attack on the label meets the contract of its family.

    Always checked, in each norm: the points lie inside the ball and the box, with x's shape, dtype and device
    ("inside"); x, y, eps, the model's mode, parameters and gradients, and every global random generator are left
    unchanged ("untouched"); the same seed gives the same bits ("seed"); the fooled samples depend neither on the order
    nor on the size of the batch ("batch"), and a sample gets the same point alone as in a batch ("alone"); a call with
    one eps per sample gives the same points as separate calls ("radii"); for a sample that cannot be fooled, or is
    misclassified when clean, the point is inside, or x itself for a minimal-norm attack ("already"); it fools more
    samples than a random point of the threat, or, if minimal-norm, its points are no farther than those of a random
    search ("random"); bad
    input raises ValueError ("refusals"). Checked where claimed: "targeted", "optimum", "passes".

    Args:
        attack: Attack with its options bound (`functools.partial`); see `core.types.BudgetAttack` and
            `core.types.MinimalAttack`. Options that it lacks, such as `targeted` or `generator`, are never passed.
        kind: `BudgetAttack` or `MinimalAttack`. None: read from the fourth parameter (`threat` or `norm`).
        norms: Norms to check: `math.inf`, 2, 1, 0.
        only: Names of the promises to check, those in quotes above. None: all.
        targeted: Claim that the attack can be targeted. None: claimed if it has a parameter `targeted`.
        hit_rate: Least success rate of the targeted attack; targets are near, and single steps often overshoot.
        seeded: Claim that another seed gives other points (the attack is random).
        random_start: Claim that the attack starts from `threat.sample(x, generator)` and never ends worse, so that it
            fools every sample that this point fools.
        optimum: Claim to reach a linear model's nearest boundary, as a factor like 1.05: all samples are fooled at an
            eps of factor times the distance (minimal-norm: no point is farther than that). None: not claimed.
        fewest_classes: Least number of classes that the attack needs (3 for losses such as DLR).
        passes: Claimed largest numbers of (forwards, backwards) per sample that is not fooled. None: not claimed.
        device: Device to run on.

    Raises:
        AssertionError: One sentence that names the broken promise and the setting.
        ValueError: The kind cannot be read from the signature, or there is no such norm or promise.

    Example:
        >>> from unfooled.attacks import fgsm
        >>> check_attack(fgsm, norms=[math.inf], only=["inside", "seed"])
    """
    minimal = _is_minimal(attack, kind)
    can_target = has_parameter(attack, "targeted") if targeted is None else targeted
    claims = Claims(minimal, can_target, hit_rate, seeded, random_start, optimum, fewest_classes, passes, device)
    for norm in norms:
        if norm not in NORMS:
            raise ValueError(f"there is no norm {norm!r}; there are {', '.join(f'{p:g}' for p in NORMS)}")
        case = Case(attack, float(norm), claims)
        run_checks({name: partial(check, case) for name, check in PROMISES.items()}, only, attack)


def _is_minimal(attack: Callable[..., Tensor], kind: object) -> bool:
    """Tell a minimal-norm attack from one inside a threat, by its declared kind or its fourth parameter."""
    if kind is not None:
        if kind not in (BudgetAttack, MinimalAttack):
            raise ValueError(f"kind is {kind!r}; give BudgetAttack or MinimalAttack of unfooled.core.types")
        return kind is MinimalAttack
    fourth = [*inspect.signature(attack).parameters.values(), *[None] * 4][3]
    if fourth is not None and (fourth.name == "threat" or "Threat" in str(fourth.annotation)):
        return False
    if fourth is not None and (fourth.name == "norm" or fourth.annotation in (float, "float")):
        return True
    raise ValueError(
        f"the fourth parameter of {name_of(attack)} is neither `threat` nor `norm`; "
        "say kind=BudgetAttack or kind=MinimalAttack"
    )
