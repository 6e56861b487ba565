"""Catalog: the only table from names to functions. Nothing here imports torch until it is asked to.

A row holds the path of a function and the facts that its signature does not show. The options of a function (steps,
restarts, batch, ...), their defaults, and whether an attack is a budget or a minimal-norm attack are read off the
signature, so that a new method is one row.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

EVERY_NORM = (0.0, 1.0, 2.0, math.inf)
DEFAULT_N = 1000
"""Default number of samples."""


@dataclass(frozen=True)
class Attack:
    """An attack on the label: a `BudgetAttack`, or a `MinimalAttack`, whose fourth parameter is `norm`.

    Attributes:
        path: "module:function".
        bound: Parameters that are always given, as "module:name".
        steps: Default number of steps. None: its own default.
        unit: Unit of its steps, such as gradients or queries.
        norms: Norms that it supports.
        purifier: True: it needs the clusters of a purifier, which the model is behind.
    """

    path: str
    bound: Mapping[str, str] = field(default_factory=dict)
    steps: int | None = None
    unit: str = "steps"
    norms: tuple[float, ...] = EVERY_NORM
    purifier: bool = False


@dataclass(frozen=True)
class Effort:
    """An ensemble of attacks.

    Attributes:
        path: "module:name" of a cascade's `Effort`, or of an attack on the whole run such as `autoattack`.
        label: Name for reports of an attack on the whole run.
        nearest: Passes per sample that an audit of this effort spends on the nearest adversarial example.
        plan: Other options of the `Plan` of such an audit.
    """

    path: str
    label: str = ""
    nearest: int = 400
    plan: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """An explanation.

    Attributes:
        path: "module:function".
        legend: Meaning of the colours of its maps.
    """

    path: str
    legend: str = "red speaks for the class, blue against it"


@dataclass(frozen=True)
class Objective:
    """Objective of an attack on an explanation; it may take `k`, `w` or `mask`.

    Attributes:
        path: "module:function" that makes it.
        decides: Name of the score whose worst point is returned.
    """

    path: str
    decides: str


@dataclass(frozen=True)
class Loss:
    """A training loss: a class, or a function that makes one.

    Attributes:
        path: "module:name".
        base: Default of the loss that it is added to; empty: it is added to none.
        bases: Losses that it can be added to.
        bound: Parameters that are always given, as "module:name".
        spelled: Options whose parameter has another name.
        purify: True: the network can be trained through a purifier, which is put in front of it.
    """

    path: str
    base: str = ""
    bases: tuple[str, ...] = ("standard", "madry", "trades")
    bound: Mapping[str, str] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)
    purify: bool = False


@dataclass(frozen=True)
class Study:
    """A published experiment.

    Attributes:
        path: "module:function".
        asks: Question that it answers.
        costs: Scale -> cost, in words.
    """

    path: str
    asks: str
    costs: Mapping[str, str]


@dataclass(frozen=True)
class Piece:
    """A choice of a local surrogate: a function, or one that makes it.

    Attributes:
        path: "module:function".
        makes: True: it is called with the options written behind the name, as in slic:50, and makes the function.
    """

    path: str
    makes: bool = False


ATTACKS = {
    "apgd-ce": Attack("attacks:apgd", {"loss": "core.losses:cross_entropy"}, norms=(1.0, 2.0, math.inf)),
    "apgd-dlr": Attack("attacks:apgd", {"loss": "core.losses:dlr"}, norms=(1.0, 2.0, math.inf)),
    "apgd-margin": Attack("attacks:apgd", {"loss": "core.losses:margin"}, norms=(1.0, 2.0, math.inf)),
    "pgd": Attack("attacks:pgd", {"loss": "core.losses:cross_entropy"}, steps=40),
    "pgd-margin": Attack("attacks:pgd", {"loss": "core.losses:margin"}, steps=40),
    "memetic": Attack("attacks:memetic"),
    "attention-pgd": Attack(
        "attacks:attention_pgd",
        {"attend": "workflows.attacks:ATTEND", "distance": "distances:js"},
    ),
    "fgsm": Attack("attacks:fgsm"),
    "step-ll": Attack("attacks:step_ll"),
    "r-step-ll": Attack("attacks:r_step_ll"),
    "square": Attack("attacks:square", unit="queries", norms=(1.0, 2.0, math.inf)),
    "low-frequency": Attack("attacks:low_frequency", norms=(1.0, 2.0, math.inf)),
    "assignment": Attack("attacks:assignment", purifier=True),
    "labels-only": Attack("attacks:labels_only", unit="queries", norms=(1.0, 2.0, math.inf)),
    "alma": Attack("attacks:alma", norms=(1.0, 2.0)),
    "bisect": Attack("attacks:bisect", norms=(1.0, 2.0, math.inf)),
    "ddn": Attack("attacks:ddn", norms=(2.0,)),
    "fab": Attack("attacks:fab", norms=(1.0, 2.0, math.inf)),
    "fmn": Attack("attacks:fmn"),
    "pdpgd": Attack("attacks:pdpgd", norms=(1.0, 2.0, math.inf)),
    "sigma-zero": Attack("attacks:sigma_zero", norms=(0.0,)),
    "rays": Attack("attacks:rays", unit="queries", norms=(math.inf,)),
    "hop-skip-jump": Attack("attacks:hop_skip_jump", unit="queries", norms=(2.0, math.inf)),
    "envelope": Attack("workflows.attacks:nearest_of_all", unit="passes"),
}
EFFORTS = {
    "quick": Effort(
        "attacks.ensembles.cascade:QUICK",
        nearest=100,
        plan={
            "floor": 6000,
            "explain_n": 12,
            "gallery": 6,
            "reasons_radii": (1.0,),
            "reasons_steps": 10,
            "reasons_share": 0.1,
        },
    ),
    "normal": Effort("attacks.ensembles.cascade:NORMAL"),
    "thorough": Effort("attacks.ensembles.cascade:THOROUGH", nearest=1000),
    "autoattack": Effort("attacks.ensembles.autoattack:autoattack", label="AutoAttack-standard"),
}
PROOFS = {
    "quick": "a tenth of the audit's time at most; no further than a few samples where none of these is proven",
    "normal": "the best slopes of the relaxation for every sample",
    "thorough": "branch and bound, 30 seconds a sample at most",
    "smoothing:SIGMA": "the smoothed classifier instead, in l2, l1 or l0, beside the verdict; 1,100 passes a sample",
    "off": "nothing is certified",
}
"""Efforts of the proofs of an audit."""
EXPLANATIONS = {
    "saliency": Explanation("explanations:saliency"),
    "input-x-gradient": Explanation("explanations:input_x_gradient"),
    "integrated-gradients": Explanation("explanations:integrated_gradients"),
    "smoothgrad": Explanation("explanations:smooth_grad"),
    "expected-gradients": Explanation("explanations:expected_gradients"),
    "grad-cam": Explanation("explanations:grad_cam"),
    "lime": Explanation("explanations.lime.image:lime_map"),
    "attention": Explanation("explanations:attention_image", legend="where the evidence lies"),
}
REASONS: dict[str, Explanation | None] = {**EXPLANATIONS, "none": None}
"""Explanations that an audit may attack."""
OBJECTIVES = {
    "lens": Objective("attacks:out_of_lens", "lens"),
    "top-k": Objective("attacks:out_of_top_k", "top_k"),
    "mass-center": Objective("attacks:mass_center", "center"),
    "cosine": Objective("attacks:cosine", "lens"),
    "kendall": Objective("attacks:kendall_surrogate", "kendall"),
    "region": Objective("attacks:into", "region"),
}
CONCEPTS = ("concept", "concept-madry", "concept-ball")
"""Joint losses of labels and attributes, which terms can be added to."""
_BY_INTERVALS = {"margins": "certification:interval_margins"}
LOSSES = {
    "standard": Loss("training:Standard", purify=True),
    "madry": Loss("training:Madry", purify=True),
    "trades": Loss("training:Trades", purify=True),
    "fast": Loss("training:Fast", purify=True),
    "n-fgsm": Loss("training:n_fgsm", purify=True),
    "free": Loss("training:Free", purify=True),
    "step-ll": Loss("training:StepLl", purify=True),
    "ensemble": Loss("training:Ensemble"),
    "ibp": Loss("training:Ibp", bound={**_BY_INTERVALS, "penalised": "certification:penalised_margins"}),
    "crown-ibp": Loss("training:CrownIbp", bound={**_BY_INTERVALS, "relaxed": "certification:relaxed_margins"}),
    "sabr": Loss("training:Sabr", bound=_BY_INTERVALS),
    "mtl-ibp": Loss("training:MtlIbp", bound=_BY_INTERVALS),
    "ig-norm": Loss("training:IgNorm", base="standard"),
    "ig-sum-norm": Loss("training:IgSumNorm"),
    "igr": Loss("training:Igr", base="madry", spelled={"smooth": "beta"}),
    "r2et": Loss("training:R2et", base="standard", spelled={"smooth": "beta"}),
    "input-gradient": Loss("training:InputGradient", base="standard"),
    "arp": Loss("training:arp", base="madry", bases=("madry", "trades")),
    "group-worst": Loss("training:GroupWorst", bound={"groups": "features:groups"}),
    "latent-clusters": Loss("training:LatentClusters"),
    "concept": Loss("training:ConceptLoss", base="standard"),
    "concept-madry": Loss("training:ConceptMadry"),
    "concept-ball": Loss("training:ConceptBall"),
    "concept-margin": Loss("training:ConceptMargin", base="concept", bases=CONCEPTS),
    "concept-stability": Loss("training:ConceptStability", base="concept", bases=CONCEPTS),
}
FEATURES = {
    "robust": "features:robust_set",
    "non-robust": "features:non_robust_set",
    "d-rand": "features:d_rand",
    "d-det": "features:d_det",
}
"""A rebuilt data set: "module:function", whose first parameter is `encode`, or `model` where images are moved."""
AUGMENTATIONS = ("shifts", "corruptions")
REDUCTIONS = {"abs-sum": "abs_sum", "total": "total", "peak": "peak", "signed": "signed"}
"""Reductions of channels to one map: functions of `distances`."""
_LIME = "explanations.lime:"
SEGMENTERS = {name: Piece(_LIME + name, makes=True) for name in ("grid", "slic", "quickshift", "felzenszwalb")}
BASELINES = {
    "mean": Piece(_LIME + "segment_mean"),
    "blur": Piece(_LIME + "blur"),
    "noise": Piece(_LIME + "noise"),
    "constant": Piece(_LIME + "constant", makes=True),
}
SCORES = {
    "logit": Piece("core.losses:true_logit"),
    "log-probability": Piece("explanations.gradients:log_probability"),
    "lead": Piece("explanations.gradients:lead"),
}
MASK_SAMPLERS = {
    name: Piece(_LIME + name.replace("-", "_"))
    for name in ("paired", "bernoulli", "by-size", "balanced", "kernel-sizes", "hadamard", "every-mask")
}
TABLE_SAMPLERS = {
    "bins": Piece(_LIME + "by_bins"),
    "hidden": Piece(_LIME + "hidden", makes=True),
    "conditional": Piece(_LIME + "conditional", makes=True),
    "neighbours": Piece(_LIME + "neighbours", makes=True),
    "around": Piece(_LIME + "around", makes=True),
    "stratified-normal": Piece(_LIME + "stratified_normal", makes=True),
}
SPLITS = {name: Piece(_LIME + name) for name in ("words", "characters", "sentences")}
UNITS = {name: Piece(_LIME + name) for name in ("types", "positions")}
BINS = {
    "quartiles": Piece(_LIME + "quartiles"),
    "deciles": Piece(_LIME + "deciles"),
    "entropy": Piece(_LIME + "entropy_bins"),
}
RULES = {"stable": Piece(_LIME + "until_stable", makes=True)}
"""Rules that decide the number of samples of a local surrogate."""
LINKS = {"identity": Piece(_LIME + "identity"), "log-odds": Piece(_LIME + "log_odds")}
COVERS = {"any": Piece(_LIME + "any_cover"), "soft": Piece(_LIME + "soft_cover")}
STUDIES = {
    "broken-defences": Study(
        "studies.broken_defences:run_broken_defences",
        "Thirty-two broken defences and nine honest networks: does an audit tell them apart?",
        {
            "small": "digits, 100 images per case; about 5 minutes on 2 cores",
            "medium": "MNIST, 200 images per case; an hour on 2 cores",
            "full": "MNIST, 1000 images per case; several hours",
        },
    ),
    "attribution-robustness": Study(
        "studies.attribution_robustness:run_attribution_robustness",
        "Do the reasons survive? Networks trained for it, under attack and under noise, by scores corrected for chance",
        {
            "small": "digits; about 4 minutes on 2 cores",
            "medium": "MNIST, Fashion-MNIST, GTSRB (--data for one), 128 images; about two hours for each on 2 cores",
            "full": "MNIST, Fashion-MNIST, GTSRB at published sizes; days on a GPU",
        },
    ),
    "mnist-features": Study(
        "studies.mnist_features:run_mnist_features",
        "Are robust features a data set? Networks trained on what others see of MNIST, with controls and under attack",
        {
            "small": "digits, 1,000 images rebuilt; about 3 minutes on 2 cores",
            "medium": "MNIST, 11,200 images rebuilt from each network; two hours on 2 cores, one more per further seed",
            "full": "MNIST, all 60,000 images rebuilt; a day on 2 cores",
        },
    ),
    "robust-features": Study(
        "studies.robust_features:run_robust_features",
        "Are there features that predict and are not robust? Robust and non-robust sets, D_rand and D_det, of networks",
        {
            "small": "digits, 1,000 images of each set; about 2 minutes on 2 cores",
            "medium": "MNIST, Fashion-MNIST (--data for one), 10,000 images per set; half an hour for each on 2 cores",
            "full": "the same, 59,000 images, all test images attacked; several hours for each on 2 cores",
        },
    ),
    "lime-shift": Study(
        "studies.lime_shift:run_lime_shift",
        "Do LIME's explanations move with the label, and by more than LIME moves by itself? Can a bias hide from it?",
        {
            "small": "digits, 80 images; about 2 minutes on 2 cores",
            "medium": "MNIST, 200 images; half an hour on 2 cores",
            "full": "MNIST, 1,000 images, 1,000 masks; half a day on 2 cores",
        },
    ),
    "attackability": Study(
        "studies.attackability:run_attackability",
        "Which attributes flip a decision, can pixels do it, and what does published attackability measure?",
        {
            "small": "rendered shapes, 10 concept networks, 7 trainings; about 5 minutes on 2 cores",
            "medium": "shapes at 3 correlations, 18 trainings, CUB's table and ten classes; about an hour on one core",
            "full": "the same, wider networks, and CUB-200-2011's own folder; a day on a GPU",
        },
    ),
    "certification": Study(
        "studies.certification:run_certification",
        "How robust at least, how robust at most? Networks trained plainly, adversarially and for proofs",
        {
            "small": "digits at two radii, 9 networks, 100 images; about 5 minutes on 2 cores",
            "medium": "MNIST at .1 and .3, Fashion-MNIST (--data for one), 200 images; an hour for each on 2 cores",
            "full": "the same, 1,000 images, with branch and bound; days on 2 cores",
        },
    ),
    "purification": Study(
        "studies.purification:run_purification",
        "What does a purifier add, once it is attacked? Semantic dictionaries and others, static and adaptive",
        {
            "small": "digits, MNIST, 60 images; about 5 minutes on 2 cores",
            "medium": "MNIST, Fashion-MNIST, GTSRB, CIFAR-10 (--data for one), 500 images; MNIST two hours on 2 cores",
            "full": "CIFAR-10, 2,000 images, ResNet-18; a day on a GPU",
        },
    ),
    "attention": Study(
        "studies.attention:run_attention",
        "Is incomplete attention vulnerable, and does training that preserves it resist? --model: your own network",
        {
            "small": "rendered shapes; about 3 minutes on 2 cores; --model: a minute or two",
            "medium": "shapes, GTSRB (--data for one), six ways of training; about 45 minutes for each on 2 cores",
            "full": "more radii, data and arms, 2000 images, the strongest attacks; a day on a GPU",
        },
    ),
}


def resolve(path: str) -> Any:
    """Import "module:name" from inside the package."""
    module, name = path.split(":")
    return getattr(importlib.import_module(f"unfooled.{module}"), name)


def takes(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's parameters, or of the fields that a dataclass is made from."""
    return tuple(inspect.signature(function).parameters)


def default_of(function: Callable[..., Any], option: str) -> Any:
    """Return the default of a function's parameter."""
    return inspect.signature(function).parameters[option].default
