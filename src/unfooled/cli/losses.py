"""From the words of `unfooled train` to a training loss."""

from __future__ import annotations

from functools import partial
from typing import Any

from unfooled.cli import catalog
from unfooled.cli.errors import Refused

BASES = ("standard", "madry", "trades")
"""What a regulariser can be added to."""
REGULARISERS = {"ig-norm": "standard", "igr": "madry", "r2et": "standard", "input-gradient": "standard", "arp": "madry"}
"""Name -> its base unless told otherwise."""
TAKES = {
    "madry": ("steps", "start", "remove"),
    "trades": ("steps", "start", "remove"),
    "fast": ("align",),
    "n-fgsm": ("align",),
    "free": ("replays",),
    "ig-norm": ("steps", "weight", "base", "path", "inner"),
    "ig-sum-norm": ("steps", "weight", "path", "inner"),
    "igr": ("steps", "weight", "base", "path", "explain", "smooth"),
    "r2et": ("steps", "weight", "base", "smooth", "k"),
    "input-gradient": ("steps", "weight", "base"),
    "arp": ("steps", "base", "rectify", "preserve"),
}
"""Name -> the options it takes, beside --threat, --beta and --ramp."""


def make_loss(
    name: str, threat: str | None, steps: int | None, beta: float, *, ramp: float = 0.0, **options: Any
) -> Any:
    """A training loss from its name and the options that it takes; those that are None keep their defaults."""
    kind = catalog.choose(catalog.TRAINING, name, "loss")
    given = {option: value for option, value in {"steps": steps, **options}.items() if value is not None}
    takes = TAKES.get(name, ())
    for option in given:
        if option not in takes:
            spelled = "--attack-steps" if option == "steps" else f"--{option}"
            others = ", ".join(loss for loss, known in TAKES.items() if option in known)
            raise Refused(f"--loss {name} takes no {spelled}; leave it out, or choose {others}")
    base = given.pop("base", REGULARISERS.get(name))
    if base is not None:
        known = BASES[1:] if name == "arp" else BASES
        catalog.choose(dict.fromkeys(known), base, "choice for --base")
    adversary = name not in ("standard", "group-worst", "r2et", "input-gradient") or base in ("madry", "trades")
    if not adversary:
        said = f"--loss {name}" + (f" with --base {base}" if base else "")
        choose = "--base madry or trades" if base else "madry or trades"
        for option, value in (("--threat", threat), ("--attack-steps", steps)):
            if value is not None:
                raise Refused(f"{said} trains against no adversary; leave {option} out, or choose {choose}")
    elif threat is None:
        raise Refused(f"--loss {name} needs an adversary to train against, such as --threat linf:0.1")
    if given.get("steps", 1) < 1:
        raise Refused(f"--attack-steps is {given['steps']}; it must be at least 1")
    if ramp < 0:
        raise Refused(f"--ramp is {ramp:g}; it must be at least 0")
    try:
        objective = _built(name, kind, catalog.threat(threat) if threat else None, base, beta, given)
    except ValueError as e:
        raise Refused(f"--loss {name}: {e}") from None
    return catalog.resolve("training.progress:Ramp")(objective, ramp) if ramp and adversary else objective


def _built(name: str, kind: str, threat: Any, base: str | None, beta: float, given: dict[str, Any]) -> Any:
    """The loss, without a ramp; takes what it uses out of `given`."""
    first = (threat,) if threat is not None and name not in ("r2et", "input-gradient") else ()
    if name == "group-worst":  # five corruptions of each image, the same in every epoch
        return catalog.resolve(kind)(catalog.resolve("features.corruptions:groups"))
    if name == "arp":  # builds on its base's points, not on the base loss
        return catalog.resolve(kind)(threat, base=base, beta=beta, **given)
    if name == "trades":
        given["beta"] = beta
    if "smooth" in given:
        given["beta"] = given.pop("smooth")
    if name in ("ig-norm", "ig-sum-norm"):
        _set_path(given)
    elif base is not None and "steps" in given:
        # The inner attack is the base's; on clean samples igr looks for its own points.
        steps = given.pop("steps")
        if base == "standard":
            given["inner"] = partial(catalog.resolve("attacks.pgd:pgd"), steps=steps, stop=False)
        else:
            given["base"] = _base(base, threat, beta, steps=steps)
    if base is not None and "base" not in given:
        given["base"] = _base(base, threat, beta)
    if name == "igr":
        given["explain"] = _explanation(given.pop("explain", "integrated-gradients"), given.pop("path", None))
    return catalog.resolve(kind)(*first, **given)


def _base(name: str, threat: Any, beta: float, **options: Any) -> Any:
    """The loss that a regulariser is added to."""
    made = catalog.resolve(catalog.TRAINING[name])
    return made() if name == "standard" else made(threat, **options, **({"beta": beta} if name == "trades" else {}))


def _set_path(given: dict[str, Any]) -> None:
    """The inner path has half the nodes; an attack on the loss in place of the ascent."""
    if "path" in given:
        given["inner_path"] = max(1, given["path"] // 2)
    how = given.pop("inner", "ascent")
    catalog.choose({"ascent": 0, "pgd": 0}, how, "choice for --inner")
    if how == "pgd":
        given["inner"] = partial(catalog.resolve("attacks.pgd:pgd"), steps=given.pop("steps", 7), stop=False)


def _explanation(name: str, path: int | None) -> Any:
    """What `igr` compares; a path of few nodes, in one graph, since samples go through in small groups."""
    function = catalog.resolve(catalog.choose(catalog.EXPLANATIONS, name, "explanation"))
    if name == "integrated-gradients":
        return partial(function, steps=8 if path is None else path, one_graph=True)
    if path is not None:
        raise Refused(f"--explain {name} has no path; leave --path out, or choose integrated-gradients")
    return function
