"""The only table from names to functions, and from text to values. Nothing here imports torch until it is asked."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from unfooled.cli.errors import Refused

if TYPE_CHECKING:
    from unfooled.core.threats import Threat

ATTACKS = {
    "apgd-ce": ("attacks.apgd:apgd", {"loss": "cross_entropy"}),
    "apgd-dlr": ("attacks.apgd:apgd", {"loss": "dlr"}),
    "apgd-margin": ("attacks.apgd:apgd", {"loss": "margin"}),
    "pgd": ("attacks.pgd:pgd", {"loss": "cross_entropy"}),
    "pgd-margin": ("attacks.pgd:pgd", {"loss": "margin"}),
    "fgsm": ("attacks.fgsm:fgsm", {}),
    "square": ("attacks.square:square", {}),
    "labels-only": ("attacks.labels_only:labels_only", {}),
}
STEPS = {"apgd": 100, "square": 5000, "labels": 1000}
"""Of attacks, by how their name begins; 40 of the others."""
EFFORTS = {
    "quick": "attacks.ensembles.cascade:QUICK",
    "normal": "attacks.ensembles.cascade:NORMAL",
    "thorough": "attacks.ensembles.cascade:THOROUGH",
    "autoattack": "attacks.ensembles.autoattack:autoattack",
}
EXPLANATIONS = {
    "saliency": "explanations.gradients:saliency",
    "input-x-gradient": "explanations.gradients:input_x_gradient",
    "integrated-gradients": "explanations.paths:integrated_gradients",
    "smoothgrad": "explanations.smoothing:smooth_grad",
    "grad-cam": "explanations.cams:grad_cam",
    "attention": "explanations.attention:attention_image",
}
REASONS = {**EXPLANATIONS, "none": ""}
"""What an audit may attack the explanation of."""
OBJECTIVES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lens": ("attacks:out_of_lens", ("k", "w")),
    "top-k": ("attacks:out_of_top_k", ("k",)),
    "mass-center": ("attacks:mass_center", ()),
    "cosine": ("attacks:cosine", ()),
    "kendall": ("attacks:kendall_surrogate", ()),
    "region": ("attacks:into", ("mask",)),
}
"""What an attack on an explanation maximises, and which of k, w and mask it takes."""
TRAINING = {
    "standard": "training.losses.standard:Standard",
    "madry": "training.losses.madry:Madry",
    "trades": "training.losses.trades:Trades",
    "fast": "training.losses.fast:Fast",
    "n-fgsm": "training.losses.fast:n_fgsm",
    "free": "training.losses.free:Free",
    "ig-norm": "training.losses.attribution:IgNorm",
    "ig-sum-norm": "training.losses.attribution:IgSumNorm",
    "igr": "training.losses.igr:Igr",
    "r2et": "training.losses.r2et:R2et",
    "input-gradient": "training.losses.input_gradient:InputGradient",
    "arp": "training.losses.arp:arp",
    "group-worst": "training.losses.group_worst:GroupWorst",
}
FEATURES = {
    "robust": "features.datasets:robust_set",
    "non-robust": "features.datasets:non_robust_set",
    "d-rand": "features.datasets:d_rand",
    "d-det": "features.datasets:d_det",
}
STUDIES: dict[str, tuple[str, str, dict[str, str]]] = {
    "broken-defences": (
        "studies.broken_defences:run_broken_defences",
        "Thirty-two broken defences and nine honest networks: does an audit tell them apart?",
        {
            "small": "digits, 100 images a case; some 5 minutes on 2 cores",
            "medium": "MNIST, 200 images a case; an hour on 2 cores",
            "full": "MNIST, 1000 images a case; some hours",
        },
    ),
    "attribution-robustness": (
        "studies.attribution_robustness:run_attribution_robustness",
        "Do the reasons survive? Networks trained for it, under attack and under noise, by scores corrected for chance",
        {
            "small": "digits; some 4 minutes on 2 cores",
            "medium": "MNIST, Fashion-MNIST, GTSRB (--data for one), 128 images; some two hours for each on 2 cores",
            "full": "MNIST, Fashion-MNIST, GTSRB at published sizes; days on a GPU",
        },
    ),
    "mnist-features": (
        "studies.mnist_features:run_mnist_features",
        "Are robust features a data set? Networks trained on what others see of MNIST, with controls and under attack",
        {
            "small": "digits, 1,000 images rebuilt; some 3 minutes on 2 cores",
            "medium": "MNIST, 11,200 images rebuilt from each network; two hours on 2 cores, one more a further seed",
            "full": "MNIST, all 60,000 images rebuilt; a day on 2 cores",
        },
    ),
    "robust-features": (
        "studies.robust_features:run_robust_features",
        "Are there features that predict and are not robust? Robust and non-robust sets, D_rand and D_det, of networks",
        {
            "small": "digits, 1,000 images of each set; some 2 minutes on 2 cores",
            "medium": "MNIST, Fashion-MNIST (--data for one), 10,000 images a set; half an hour for each on 2 cores",
            "full": "the same, 59,000 images, all test images attacked; some hours for each on 2 cores",
        },
    ),
    "attention": (
        "studies.attention:run_attention",
        "Is incomplete attention vulnerable, and does training that holds it resist? With --model, of your own network",
        {
            "small": "rendered shapes; some 3 minutes on 2 cores; --model: a minute or two",
            "medium": "shapes, GTSRB (--data for one), six ways of training; some 45 minutes for each on 2 cores",
            "full": "more radii, data and arms, 2000 images, the strongest attacks; a day on a GPU",
        },
    ),
}
"""Name -> function, what it asks, and what each scale costs."""
THREATS = {"linf": "Linf", "l2": "L2", "l1": "L1", "l0": "L0", "l0-pixel": "L0"}


def choose(table: Mapping[str, Any], name: str, kind: str) -> Any:
    """Look a name up.

    Raises:
        Refused: it is not there; the nearest names are given.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, list(table), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise Refused(f"there is no {kind} {name!r}; {hint}there are {', '.join(table)}")


def resolve(path: str) -> Any:
    """Import "module:name" from inside the package."""
    module, name = path.split(":")
    return getattr(importlib.import_module(f"unfooled.{module}"), name)


def attack(name: str, *, steps: int | None, restarts: int, batch: int | None = None) -> tuple[Any, str]:
    """An attack with its options bound, and what the report calls it."""
    path, options = choose(ATTACKS, name, "attack")
    bound = {k: getattr(importlib.import_module("unfooled.core.losses"), v) for k, v in options.items()}
    if name == "fgsm":
        return partial(resolve(path), **bound), "FGSM"
    steps = STEPS.get(name.partition("-")[0], 40) if steps is None else steps
    if steps < 1 or restarts < 1:
        raise Refused(f"--steps is {steps} and --restarts is {restarts}; both must be at least 1")
    if not bound:  # no gradients, no restarts
        if restarts > 1:
            raise Refused(f"{name} has no --restarts; give it more --steps, which are its queries")
        chunk = {"batch": batch} if name == "labels-only" else {}
        return partial(resolve(path), steps=steps, **chunk), f"{name.upper()}, {steps} queries"
    said = f"{name.upper()}, {steps} steps" + (f", {restarts} restarts" if restarts > 1 else "")
    return partial(resolve(path), steps=steps, restarts=restarts, batch=batch, **bound), said


def number(text: str, what: str) -> float:
    """Read "0.3" or "8/255".

    Raises:
        Refused: it is no number.
    """
    try:
        above, _, below = text.partition("/")
        return float(above) / float(below) if below else float(above)
    except (ValueError, ZeroDivisionError):
        raise Refused(f"{what} is {text!r}; write a number such as 0.3 or 8/255") from None


def numbers(text: str | None, what: str) -> list[float] | None:
    """Read "0.49,0.48,0.45"."""
    return None if text is None else [number(part, what) for part in text.split(",")]


def threat(text: str) -> Threat:
    """Read "linf:8/255", "l2:0.5", "l1:12", "l0:10" (entries) or "l0-pixel:10".

    Raises:
        Refused: another norm, no number, or a negative one.
    """
    name, colon, eps = text.lower().partition(":")
    if not colon:
        raise Refused(f"--threat is {text!r}; write a norm and a radius, such as linf:8/255 or l2:0.5")
    kind = choose(THREATS, name, "norm")
    value = number(eps, "the radius in --threat")
    if name == "linf" and value > 1:
        raise Refused(
            f"--threat {text}: inputs lie in [0, 1], so a radius of {value:g} allows anything; for pixels out of 255 "
            f"write linf:{eps}/255"
        )
    threats = importlib.import_module("unfooled.core.threats")
    try:
        return getattr(threats, kind)(value, **({"per": "pixel"} if name == "l0-pixel" else {}))
    except ValueError as e:
        raise Refused(f"--threat {text}: {e}") from None


def size(text: str | None) -> tuple[int, int] | None:
    """Read "32" or "32x48" (height x width)."""
    if text is None:
        return None
    try:
        h, _, w = text.lower().partition("x")
        found = int(h), int(w or h)
    except ValueError:
        found = (0, 0)
    if min(found) < 1:
        raise Refused(f"--size is {text!r}; write 32 or 32x48 (height x width)")
    return found
