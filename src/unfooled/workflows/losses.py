"""Training losses by name and options.

The signature of a loss decides where its options go:

    attack_steps   to the parameter `steps`; without one, to the base loss that the loss is added to
    path           to `path` (and half of it to `inner_path`); without these, to the explanation that the loss compares
    purify         to the clusters that the loss compares with, or in front of the network
    inner          "pgd" replaces the loss's own ascent by PGD, if it has both parameters, `inner` and `steps`
    all others     to the parameter of the same name, or the one named in the catalog
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unfooled.attacks.pgd import pgd
from unfooled.core.threats import Threat
from unfooled.models.load import load_model
from unfooled.training.progress import Ramp
from unfooled.workflows import catalog
from unfooled.workflows.errors import BadOption
from unfooled.workflows.guarding import Purifier
from unfooled.workflows.purified_losses import clusters_of, through
from unfooled.workflows.words import at_least, check_choice, choose, threat_of

INNER_SEARCHES = ("ascent", "pgd")
DEFAULT_STEPS, DEFAULT_NODES = 7, 8  # defaults: steps of an inner attack, nodes of the path integral of `igr`


@dataclass(frozen=True)
class LossOptions:
    """Options of training losses; None: the loss's own default.

    Args:
        attack_steps: Steps of the inner attack.
        beta: TRADES trade-off weight; None: 6.
        ramp: Epochs over which eps grows from 0 to its value; None: a fifth of all epochs; 0: none.
        start: Start of the inner attack, "random" or "warm".
        remove: Margin in logits beyond which a fooled sample leaves the inner attack.
        replays: Steps on each batch.
        align: Weight of GradAlign.
        weight: Weight of the regulariser.
        base: Name of the loss that the regulariser is added to.
        path: Nodes of the path integral.
        inner: Inner search of a regulariser, "ascent" or "pgd".
        explain: Name of the explanation that the loss keeps stable.
        smooth: Sharpness of softplus in place of ReLU in explanations.
        k: Number of top pixels whose rank the loss r2et preserves.
        rectify: Weight of the loss's rectification term.
        preserve: Weight of the loss's preservation term.
        label: Weight of the label's loss in a concept loss.
        attribute: Weight of the attributes' loss in a concept loss.
        sparse: Weight of the sum of the absolute weights of the head.
        rho: Radius of the ball of attribute logits.
        attributes: Table of the images' attributes, a CSV; None: those of the data, which shapes have.
        purify: Purifier that is put in front of the network in training, or whose clusters a loss takes: a folder,
            "file.py:name", or a function x -> x.
        sources: Fixed networks whose adversarial examples are trained on too: files that `load_model` reads, or models.
    """

    attack_steps: int | None = None
    beta: float | None = None
    ramp: float | None = None
    start: str | None = None
    remove: float | None = None
    replays: int | None = None
    align: float | None = None
    weight: float | None = None
    base: str | None = None
    path: int | None = None
    inner: str | None = None
    explain: str | None = None
    smooth: float | None = None
    k: int | None = None
    rectify: float | None = None
    preserve: float | None = None
    label: float | None = None
    attribute: float | None = None
    sparse: float | None = None
    rho: float | None = None
    attributes: str | Path | None = None
    purify: Purifier | None = None
    sources: Sequence[str | Path | nn.Module] | None = None

    def set_options(self) -> dict[str, Any]:
        """Return the options in `OPTIONS` that are not None."""
        return {name: getattr(self, name) for name in OPTIONS if getattr(self, name) not in (None, (), [])}


OPTIONS = tuple(f.name for f in fields(LossOptions) if f.name != "ramp")
DEFAULT_BETA = 6.0
INDIRECT_OPTIONS = ("beta", "attack_steps", "path", "inner", "base", "explain", "attributes", "purify", "sources")
"""Options that do not go straight to the parameter of their name."""
JOINT = ("label", "attribute", "sparse", "rho", "attributes")
"""Options of a concept loss, which it also gets as the base of another loss."""


def options_of(name: str) -> tuple[str, ...]:
    """Return the names in `OPTIONS` that a loss takes."""
    row = catalog.LOSSES[name]
    parameters = set(catalog.takes(catalog.resolve(row.path))) - set(row.bound)

    def takes(option: str) -> bool:
        match option:
            case "attack_steps":
                return bool({"steps", "base"} & parameters)
            case "path":
                return bool({"path", "explain"} & parameters)
            case "inner":
                return {"inner", "steps"} <= parameters
            case "base":
                return "base" in parameters and bool(row.base)
            case "purify":
                return row.purify or "assign" in parameters
            case "beta":
                return _own_beta(row, parameters) or (bool(row.base) and "trades" in row.bases)
        inside = option in JOINT and row.bases == catalog.CONCEPTS
        return inside or row.spelled.get(option, option) in parameters

    return tuple(option for option in OPTIONS if takes(option))


def make_loss(
    name: str,
    threat: str | Threat | None = None,
    options: LossOptions = LossOptions(),
) -> Any:
    """Make a training loss from its name and options.

    Args:
        name: Name in `catalog.LOSSES`.
        threat: Threat model of the adversary. None: the loss trains against none.
        options: Options that the loss takes.

    Raises:
        BadOption: no such loss, an option that it does not take, or a value that cannot be used.

    Example:
        >>> str(make_loss("free", "linf:0.1", LossOptions(replays=2)))
        'Free(threat=Linf(eps=0.1, box=Box(low=0.0, high=1.0)), replays=2, step=1.0)'
    """
    row = choose(catalog.LOSSES, name, "loss")
    _check_options(name, options)
    base = options.base or row.base
    if base:
        check_choice(row.bases, base, "base")
    adversary = _has_threat(name) or (bool(base) and _has_threat(base))
    _check_adversary(name, base, threat, options, needed=adversary)
    _check_numbers(name, base, options)
    allowed = threat_of(threat) if threat is not None else None
    try:
        loss = _build(name, allowed, base, options)
    except BadOption:
        raise
    except ValueError as e:
        raise BadOption("{loss:{0}}: {1}", name, e) from None
    if row.purify and options.purify is not None:
        loss = through(loss, options.purify)
    return Ramp(loss, options.ramp) if options.ramp and adversary else loss


def _check_options(name: str, options: LossOptions) -> None:
    takes = options_of(name)
    for option in options.set_options():
        if option not in takes:
            others = ", ".join(loss for loss in catalog.LOSSES if option in options_of(loss))
            sentence = "{loss:{0}} takes no {" + option + "}; leave it out, or choose {1}"
            raise BadOption(sentence, name, others)


def _own_beta(row: catalog.Loss, parameters: Iterable[str]) -> bool:
    """Return whether a loss itself takes TRADES' weight beta, not only through its base loss."""
    return "beta" in parameters and "beta" not in row.spelled.values()


def _check_numbers(name: str, base: str, options: LossOptions) -> None:
    """Refuse numbers that no loss can use."""
    for option in ("attack_steps", "replays", "path", "k"):
        at_least(option, getattr(options, option), 1)
    for option in ("beta", "ramp", "remove", "align", "weight", "rectify", "preserve", *JOINT[:-1]):
        at_least(option, getattr(options, option), 0)
    at_least("smooth", options.smooth, 0, above=True)
    if options.beta is not None and base and base != "trades" and name != "trades":
        raise BadOption(
            "{beta} weights TRADES, but {loss:{0}} is added to {1}; leave it out, or give {base:trades}", name, base
        )


def _has_threat(name: str) -> bool:
    """Return whether a loss has a parameter `threat`, that is, trains against an adversary."""
    return "threat" in catalog.takes(catalog.resolve(catalog.LOSSES[name].path))


def _check_adversary(name: str, base: str, threat: str | Threat | None, options: LossOptions, *, needed: bool) -> None:
    if needed and threat is None:
        raise BadOption("{loss:{0}} needs an adversary to train against, such as {threat:linf:0.1}", name)
    if needed:
        return
    what, other = "{loss:{0}}", "madry or trades"
    if base and catalog.LOSSES[name].bases == catalog.CONCEPTS:
        what, other = "{loss:{0}} with {base:{1}}", "{base:concept-madry}"
    elif base:
        what, other = "{loss:{0}} with {base:{1}}", "{base:madry} or trades"
    for option, value in (("threat", threat), ("attack_steps", options.attack_steps)):
        if value is not None:
            sentence = what + " trains against no adversary; leave {" + option + "} out, or choose " + other
            raise BadOption(sentence, name, base)


def _build(name: str, threat: Threat | None, base: str, options: LossOptions) -> Any:
    """Return the loss, without a ramp."""
    row = catalog.LOSSES[name]
    function = catalog.resolve(row.path)
    parameters = catalog.takes(function)
    arguments: dict[str, Any] = {parameter: catalog.resolve(path) for parameter, path in row.bound.items()}
    if "threat" in parameters:
        arguments["threat"] = threat
    if _own_beta(row, parameters):
        arguments["beta"] = DEFAULT_BETA if options.beta is None else options.beta
    for option, value in options.set_options().items():
        if option not in INDIRECT_OPTIONS and row.spelled.get(option, option) in parameters:
            arguments[row.spelled.get(option, option)] = value
    if "attributes" in parameters:  # those of the data are looked up when these are loaded
        arguments |= {"labels": torch.zeros(0, dtype=torch.int64), "attributes": torch.zeros(0, 1)}
    if "assign" in parameters:
        arguments |= clusters_of(options.purify)
    if "sources" in parameters:
        arguments["sources"] = _sources(options)
    arguments |= _inner(parameters, base, options)
    if base:
        by_name = isinstance(catalog.default_of(function, "base"), str)
        # The inner attack is the base's, unless the loss has one of its own.
        steps = None if {"steps", "inner"} & set(arguments) else options.attack_steps
        inside = LossOptions(steps, options.beta, **_joint(base, options))
        arguments["base"] = base if by_name else _build(base, threat, catalog.LOSSES[base].base, inside)
    return function(**arguments | _path(parameters, options))


def _sources(options: LossOptions) -> list[nn.Module]:
    """Return the fixed networks of an ensemble, loaded; refuse none."""
    if not options.sources:
        raise BadOption(
            "{loss:ensemble} trains on the examples of other networks too; give {sources}, a file or several"
        )
    return [part if isinstance(part, nn.Module) else load_model(str(part)) for part in options.sources]


def _joint(base: str, options: LossOptions) -> dict[str, Any]:
    """Return the options of a concept loss; refuse those that the base does not take."""
    row = catalog.LOSSES[base]
    given = {name: value for name, value in options.set_options().items() if name in JOINT[:-1]}
    if base not in catalog.CONCEPTS:
        return {}
    for name in given:
        if name not in catalog.takes(catalog.resolve(row.path)):
            raise BadOption("{base:{0}} takes no {" + name + "}; leave it out, or choose another base", base)
    return given


def _inner(parameters: tuple[str, ...], base: str, options: LossOptions) -> dict[str, Any]:
    """Return the arguments for the inner search of a loss, and its steps."""
    steps = options.attack_steps
    if "steps" in parameters:
        check_choice(INNER_SEARCHES, options.inner or INNER_SEARCHES[0], "inner")
        if options.inner == "pgd":  # in place of the ascent
            return {"inner": partial(pgd, steps=steps or DEFAULT_STEPS, stop=False)}
        return {} if steps is None else {"steps": steps}
    if steps is not None and "inner" in parameters and not _has_threat(base):  # the base has no attack
        return {"inner": partial(pgd, steps=steps, stop=False)}
    return {}


def _path(parameters: tuple[str, ...], options: LossOptions) -> dict[str, Any]:
    """Return the arguments for the path integral of a loss, or for the explanation that it compares."""
    if "explain" in parameters:
        return {"explain": _explanation(options.explain or "integrated-gradients", options.path)}
    if options.path is None:
        return {}
    half = {"inner_path": max(1, options.path // 2)} if "inner_path" in parameters else {}
    return {"path": options.path, **half}


def _explanation(name: str, path: int | None) -> Any:
    """Return the explanation; one with a path gets few nodes, all in one autograd graph."""
    function = catalog.resolve(choose(catalog.EXPLANATIONS, name, "explanation").path)
    if "one_graph" in catalog.takes(function):
        return partial(function, steps=DEFAULT_NODES if path is None else path, one_graph=True)
    if path is not None:
        raise BadOption("{explain:{0}} has no path; leave {path} out, or choose integrated-gradients", name)
    return function
