"""Unit of edits of one attribute carried into pixels, beside a random attribute, CCE and targeted PGD."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unfooled.counterfactuals import (
    Edit,
    concept_counterfactual,
    flip_edit,
    measure,
    random_attributes,
    realize_edit,
    targeted_pgd,
)
from unfooled.data.made.shapes import ATTRIBUTES, FACTORS, Shapes
from unfooled.features.inversion import invert_features
from unfooled.studies.attackability.bench import JOINT, ConceptBench, Embedded, subset
from unfooled.studies.attackability.geometry import one_attribute
from unfooled.studies.attackability.records import Carried, Columns, Example
from unfooled.studies.common.records import listed

EDIT, RANDOM, PGD, STOPPED = "edit", "random attribute", "targeted PGD", "targeted PGD, stopped when valid"
CCE = "conceptual counterfactual explanation"
MEASURES = (
    "valid", "valid_8bit", "achieved", "selectivity", "side_effect", "off_target", "distance", "psnr", "ssim", "noise",
)  # fmt: skip
SIZES = {"asked": "attributes asked", "length": "switches asked, l2"}
"""Sizes of the edits before they are carried -> their columns in the table."""
LEAST = 0.01
"""Smallest weight of CCE, in switches, that counts as a change of the attribute."""
SHOWN = 3
"""Number of worst examples, and of random ones, in the pictures."""


def carry(bench: ConceptBench) -> Carried:
    """Carry the cheapest edits of one learnt attribute into pixels, and measure them and their controls."""
    joint, size = bench.embedded(), bench.size.editing
    rows = bench.right[: size.n]
    began = time.perf_counter()
    net: Any = bench.network(JOINT)
    x, e = subset(bench.tests, rows)[0], joint.test[rows]
    delta, target, _ = one_attribute(joint, e)
    edit = replace(flip_edit(joint.head, e), delta=delta, target=target)
    x, gap = x.to(bench.device), joint.unit.float().to(bench.device)
    source = torch.Generator().manual_seed(bench.seed)
    options: dict[str, Any] = {"invert": invert_features, "gap": gap, "steps": size.steps}
    done = realize_edit(net.encode, joint.head, x, edit, size.threat, kappa=size.kappa, **options)
    asked: dict[str, tuple[Edit, Tensor]] = {EDIT: (edit, done.x)}
    asked |= {f"kappa {one.kappa:g}": (edit, one.x) for one in done.curve}
    other = random_attributes(edit, gap, generator=source)
    moved = realize_edit(net.encode, joint.head, x, other, size.threat, kappa=size.kappa[:1], **options)
    asked[RANDOM] = other, moved.x
    cce = conceptual(joint, e, edit)
    moved = realize_edit(net.encode, joint.head, x, cce, size.threat, kappa=size.kappa[:1], **options)
    asked[CCE] = cce, moved.x
    for name, stop in ((PGD, False), (STOPPED, True)):
        points = targeted_pgd(
            net.encode, joint.head, x, edit, size.threat, steps=size.steps, stop=stop, generator=source
        )  # fmt: skip
        asked[name] = edit, points
    columns: Columns = {"id": listed(rows.double())}
    for how, (one, points) in asked.items():
        m = measure(net.encode, joint.head, x, points, one, gap=gap)
        columns |= {f"{how}, {name}": listed(getattr(m, name).double().cpu()) for name in MEASURES}
        steps = one.delta / joint.unit
        columns |= {f"{how}, asked": listed((steps != 0).sum(1).double()), f"{how}, length": listed(steps.norm(dim=1))}
    return Carried(
        seed=bench.seed, columns=columns, examples=examples(bench, rows, x, done.x, edit, columns),
        shape=list(x.shape[1:]), seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip


def conceptual(joint: Embedded, e: Tensor, edit: Edit) -> Edit:
    """Return the edits of CCE to the same classes, which may change all learnt attributes at once."""
    head = joint.head
    free = joint.learnt if joint.learnt.any() else torch.ones_like(joint.learnt)
    directions = torch.diag(joint.unit)[free]
    weights = concept_counterfactual(head.logits, e, edit.target, directions).weights
    delta = torch.where(weights.abs() >= LEAST, weights, 0.0) @ directions
    return replace(edit, delta=delta)


def twin_of(scenes: Shapes, row: int, place: int, up: bool, target: int) -> tuple[Tensor, str] | None:
    """Return a scene with one attribute truly added or removed, and its title; None where it cannot be.

    Args:
        scenes: The scenes.
        row: Number of the scene.
        place: Number of the attribute.
        up: True: the attribute is added; False: it is removed.
        target: Class that the edit leads to; among several twins the first of this class is taken.
    """
    factor, value = ATTRIBUTES[place].split("=")
    column, values = list(FACTORS).index(factor), FACTORS[factor]
    own = values.index(value)
    if up == (int(scenes.factors[row, column]) == own):
        return None
    options = [own] if up else [k for k in range(len(values)) if k != own]
    made = [(scenes.twin(row, factor, k), k) for k in options]
    twin, k = next((one for one in made if int(one[0].y) == target), made[0])
    return twin.x[0], f"{values[k]}: {scenes.classes[int(twin.y)]}"


def worst_and_random(columns: Columns, seed: int) -> list[tuple[str, int]]:
    """Return the worst edits, those not valid first and then by selectivity, and random ones."""
    valid, selective = (columns[f"{EDIT}, {name}"] for name in ("valid", "selectivity"))
    order = sorted(range(len(valid)), key=lambda k: (valid[k] or 0.0, selective[k] or 0.0))
    draw = torch.randperm(len(valid), generator=torch.Generator().manual_seed(seed)).tolist()
    return [("worst", k) for k in order[:SHOWN]] + [("random", k) for k in draw[:SHOWN]]


def examples(
    bench: ConceptBench, rows: Tensor, x: Tensor, moved: Tensor, edit: Edit, columns: Columns
) -> list[Example]:
    """Make the examples of the pictures: worst and random edits, not the best."""
    joint = bench.embedded()
    net: Any = bench.network(JOINT)
    unit = joint.unit
    before, after = joint.test[rows] / unit, bench.encode(JOINT, moved) / unit
    wanted, place = before + edit.delta / unit, (edit.delta / unit).abs().argmax(1)
    made = []
    for kind, k in worst_and_random(columns, bench.seed):
        z = x[k : k + 1].clone().requires_grad_()
        slope = torch.autograd.grad(net.encode(z)[0, place[k]], z)[0].abs().sum(1)[0]
        score, valid = columns[f"{EDIT}, selectivity"][k], "valid" if columns[f"{EDIT}, valid"][k] else "not valid"
        up = bool(edit.delta[k, place[k]] > 0)
        twin = twin_of(bench.tests, int(rows[k]), int(place[k]), up, int(edit.target[k]))
        made.append(
            Example(
                kind=kind, x=bytes_of(x[k]), changed=bytes_of(moved[k]), before=numbers(before[k]),
                wanted=numbers(wanted[k]), achieved=numbers(after[k]), saliency=numbers(slope.flatten()),
                title=f"{'more' if up else 'less'} {ATTRIBUTES[int(place[k])]}\n"
                f"to {bench.classes[int(edit.target[k])]}\nselectivity {score or 0:.2f}, {valid}",
                twin=tuple(bytes_of(twin[0])) if twin else (), twin_title=twin[1] if twin else "no twin",
            )
        )  # fmt: skip
    return made


def bytes_of(image: Tensor) -> list[int]:
    """Return the values of an image as whole numbers from 0 to 255."""
    return [int(v) for v in (image.cpu() * 255).round().flatten().tolist()]


def numbers(values: Tensor) -> list[float]:
    """Return values with the decimals that a picture can show."""
    return [round(float(v), 4) for v in values.cpu().tolist()]
