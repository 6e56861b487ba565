"""Units of geometry: flip costs, cheapest and impossible edits, and effects of factors beside their twins."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import torch
from torch import Tensor

from unfooled.counterfactuals import (
    AffineHead,
    Cost,
    attribute_interval,
    fit_effects,
    flip_distance,
    flip_edit,
    head_effect,
    nearest_in,
    pair_radii,
    radius,
    targeted_edit,
    total_effect,
)
from unfooled.data.made.shapes import ATTRIBUTES, FACTORS
from unfooled.studies.attackability.bench import JOINT, PLACES, RELEVANT, ConceptBench, Embedded
from unfooled.studies.attackability.records import Columns, Geometry
from unfooled.studies.common.records import Table, listed

SHOWN = 8
"""Number of the commonest cheapest edits in the table."""
BARRED_SCENES = 40
"""Number of scenes whose edits under immutable attributes are computed."""


def geometry(bench: ConceptBench) -> Geometry:
    """Train the joint network, or read it, and measure its head, attributes and twins."""
    embedded, truth = bench.embedded(), bench.tests
    began = time.perf_counter()
    head, e = embedded.head, embedded.test
    t = head_effect(head, e, embedded.gap)
    first = head.logits(e).argmax(1)
    costs = torch.full((head.n, head.c), torch.nan, dtype=torch.float64)
    for k in first.unique().tolist():
        costs[:, k] = t[first == k].quantile(0.5, dim=0)
    pairs, _ = pair_radii(head, e, embedded.covariance)
    return Geometry(
        rho=bench.rho, seed=bench.seed, accuracy=float((first == truth.y).double().mean()),
        auc=listed(embedded.auc), costs=[listed(row) for row in costs],
        pairs=[listed(row) for row in pairs], cheapest=cheapest(embedded), barred=barred(embedded),
        columns=crossings(embedded), twins=twins(bench, t),
        seconds=round(time.perf_counter() - began + bench.seconds[JOINT], 1),
    )  # fmt: skip


def crossings(embedded: Embedded) -> Columns:
    """Measure distances, and check that labels change just beyond them and not before."""
    head, e = embedded.head, embedded.test
    first, flips = head.logits(e).argmax(1), flip_distance(head, e).amin(1)
    edit = flip_edit(head, e, overshoot=0.0)
    moved = {name: (head.logits(e + k * edit.delta).argmax(1) != first) for name, k in SIDES.items()}
    values = {"flip": flips, "radius": radius(head, e, embedded.covariance), **moved}
    return {name: listed(value.double()) for name, value in values.items()}


SIDES = {"below": 0.999, "above": 1.001}
"""Multiples of the exact distance just before and just beyond the boundary."""


def one_attribute(embedded: Embedded, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the edits of the one learnt attribute that flips the label with fewest switches.

    Returns:
        Changes of the embedding, (B, n), classes that they lead to, (B,), and the switches that they take, (B,).
    """
    unit = embedded.unit
    scaled = AffineHead(embedded.head.weight * unit, embedded.head.bias)
    free = embedded.learnt if embedded.learnt.any() else torch.ones_like(embedded.learnt)
    edit = flip_edit(scaled, e / unit, norm=1, cost=Cost(immutable=~free))
    return edit.delta * unit, edit.target, edit.cost


def cheapest(embedded: Embedded) -> Table:
    """List the commonest cheapest edits of one learnt attribute."""
    head, e = embedded.head, embedded.test
    delta, target, switch = one_attribute(embedded, e)
    first, place = head.logits(e).argmax(1), (delta / embedded.unit).abs().argmax(1)
    sign = delta.gather(1, place[:, None])[:, 0] > 0
    kinds = list(zip(first.tolist(), target.tolist(), place.tolist(), sign.tolist(), strict=True))
    rows: Table = []
    for (i, j, f, up), count in Counter(kinds).most_common(SHOWN):
        own = torch.tensor([kind == (i, j, f, up) for kind in kinds])
        rows.append({
            "from": head.classes[i], "to": head.classes[j], "attribute": f"{'more' if up else 'less'} {ATTRIBUTES[f]}",
            "share of the class": round(count / int((first == i).sum()), 3),
            "switches, median": round(float(switch[own].median()), 3),
        })  # fmt: skip
    return rows


def barred(embedded: Embedded) -> Table:
    """List kinds of edits with the share that is impossible, and the reason."""
    head = embedded.head
    e = embedded.test[:BARRED_SCENES]
    first = head.logits(e).argmax(1)
    empty, far, edits = 0, 0, 0
    infeasible, lacks = [], []
    least, most = embedded.held_out.amin(0), embedded.held_out.amax(0)
    inside = ((e >= least) & (e <= most)).all(1)
    fixed = [f for name in RELEVANT for f in PLACES[name]]
    for j in range(head.c):
        rows = first != j
        if not rows.any():
            continue
        low, high = attribute_interval(head, e[rows], j)
        near = nearest_in(low, high)[:, embedded.learnt]
        edits += near.numel()
        empty += int(near.isnan().sum())
        far += int((near.abs() > embedded.gap[embedded.learnt]).sum())
        if (rows & inside).any():
            edit = targeted_edit(head, e[rows & inside], j, cost=Cost(immutable=fixed, low=least, high=most))
            infeasible += (~edit.feasible).tolist()
            lacks += edit.shortfall[~edit.feasible].tolist()
    return [
        {
            "edit": "one learnt attribute, to a given class",
            "reason": "another class is in front over the whole range",
            "share": _share(empty, edits), "n": edits, "lacks, logits": None,
        },
        {
            "edit": "one learnt attribute, to a given class", "reason": "it takes more than one switch",
            "share": _share(far, edits), "n": edits, "lacks, logits": None,
        },
        {
            "edit": "all but shape and colour, to a given class",
            "reason": "within the values that held-out scenes take, the class stays behind",
            "share": _share(sum(infeasible), len(infeasible)), "n": len(infeasible),
            "lacks, logits": round(float(np.median(lacks)), 3) if lacks else None,
        },
    ]  # fmt: skip


def _share(count: int, n: int) -> float | None:
    return round(count / n, 4) if n else None


def twins(bench: ConceptBench, t: Tensor) -> Columns:
    """Measure, factor by factor, the effect through the head, in total, and of a true change of the scene.

    Args:
        bench: The bench.
        t: Switches of each attribute alone that flip the label, (N, n).
    """
    embedded, scenes = bench.embedded(), bench.tests
    rows = torch.arange(min(bench.size.twins, len(scenes)))
    head, e = embedded.head, embedded.test[rows]
    first = head.logits(e).argmax(1)
    effects = fit_effects(embedded.held_out, bench.held_out.attributes)
    draw = np.random.default_rng(bench.seed)
    columns: Columns = {}
    for column, (name, values) in enumerate(FACTORS.items()):
        places = PLACES[name]
        now = scenes.factors[rows, column]
        new = (now + torch.from_numpy(draw.integers(1, len(values), len(rows)))) % len(values)
        after = bench.encode(JOINT, scenes.twin(rows, name, new).x)
        moved, asked = after - e, effects.matrix[places][new] - effects.matrix[places][now]
        columns |= {
            f"{name}, head": listed((t[rows][:, places] <= 1).double().mean(1)),
            f"{name}, total": listed(total_effect(head, e, scenes.attributes[rows], effects, places)),
            f"{name}, twin": listed((head.logits(after).argmax(1) != first).double()),
            f"{name}, cosine": listed(torch.cosine_similarity(moved, asked, dim=1)),
        }
    return columns
