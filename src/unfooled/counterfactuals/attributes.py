"""Effect of an attribute on the label: through the head alone, and in total.

    gap_f = mean(e_f | a_f = 1) - mean(e_f | a_f = 0)          the attribute's switch: the unit of its changes
    head:   t_f = min_k m_k / (gap_f |d_kf|),                  A_f = share of samples with t_f <= 1
    total:  B = least squares of e on all true attributes,     delta = B_v - B_u for a change of value u to v
            T_f = share of samples whose label changes at l + W delta

The within-class standard deviation is not used as the unit: it is large for attributes that do not determine the label
and small for those that do. The head alone misses the effect through the other attributes' logits; build an alarm on
the total effect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.counterfactuals.flips import PART
from unfooled.counterfactuals.head import AffineHead, embeddings, indices
from unfooled.counterfactuals.score import finite
from unfooled.statistics import Estimate, mean_of_shares, share
from unfooled.statistics.attributes import constant_columns, means_by_presence


def switches(e: Tensor, attributes: Tensor) -> Tensor:
    """Compute each attribute's switch, (n,) float64; NaN for attributes that are constant.

    Args:
        e: Embeddings whose entries are the attributes, (N, n).
        attributes: True attributes, 0 or 1, (N, n); NaN where unknown.

    Raises:
        BadInput: The shapes differ.
    """
    values, truth = finite(e, "e"), torch.as_tensor(attributes).detach().cpu().double().numpy()
    if values.shape != truth.shape:
        raise BadInput(f"e has shape {values.shape} and the attributes {truth.shape}; they must agree, (N, n)")
    absent, present = means_by_presence(values, truth)
    return torch.from_numpy(present - absent)


def constant_attributes(attributes: Tensor) -> tuple[int, ...]:
    """Return the attributes with a single value, whose effect cannot be estimated.

    Args:
        attributes: (N, n), 0 or 1; NaN where unknown.
    """
    return constant_columns(torch.as_tensor(attributes).detach().cpu().double().numpy())


def head_effect(head: AffineHead, e: Tensor, gap: Tensor) -> Tensor:
    """Compute t_f: how many switches of one attribute alone change the label, through the head, (B, n) float64.

    Args:
        head: Affine head on attribute logits.
        e: Embeddings, (B, n).
        gap: Switches, (n,); where one is NaN or not positive, t is NaN.
    """
    values = embeddings(head, e).numpy()
    unit = torch.as_tensor(gap).detach().cpu().double().numpy()
    if unit.shape != (head.n,):
        raise BadInput(f"there are switches of shape {unit.shape}; there must be one per attribute, ({head.n},)")
    unit = np.where(unit > 0, unit, np.nan)
    weight = head.weight.numpy()
    logits = values @ weight.T + head.bias.numpy()
    first = logits.argmax(1)
    t = np.full(values.shape, np.inf)
    for i in np.unique(first):
        rows = np.flatnonzero(first == i)
        d = np.abs(np.delete(weight, i, 0) - weight[i])
        part = max(1, PART // d.size)
        for start in range(0, len(rows), part):
            take = rows[start : start + part]
            m = logits[take, i][:, None] - np.delete(logits[take], i, 1)
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(m[:, :, None] <= 0, 0.0, m[:, :, None] / d)
            t[take] = ratio.min(1)
    return torch.from_numpy(t / unit)


@dataclass(frozen=True, eq=False)
class Effects:
    """Linear effect of all true attributes on the embedding.

    Attributes:
        matrix: B, (p, n): change of e with each of the p attributes.
        r2: Share of the embedding's variance that the attributes explain.
        constant: Attributes with a single value in the data; their rows are 0.
    """

    matrix: Tensor
    r2: float
    constant: tuple[int, ...]


def fit_effects(e: Tensor, attributes: Tensor) -> Effects:
    """Fit B by least squares with an intercept, on images that were not trained on.

    Args:
        e: Embeddings, (N, n).
        attributes: True attributes, (N, p); exclusive ones may sum to 1, only differences within such a group count.

    Raises:
        BadInput: The numbers of samples differ, or there are fewer of them than attributes.
    """
    values, truth = finite(e, "e"), finite(attributes, "attributes")
    if len(values) != len(truth):
        raise BadInput(f"there are {len(values)} embeddings and {len(truth)} rows of attributes; they must pair up")
    if len(truth) <= truth.shape[1]:
        raise BadInput(
            f"{len(truth)} samples are too few for {truth.shape[1]} attributes; more samples than attributes"
        )
    x, centred = truth - truth.mean(0), values - values.mean(0)
    solution = np.linalg.lstsq(x, centred, rcond=1e-10)[0]
    total = float((centred**2).sum())
    r2 = 1 - float(((centred - x @ solution) ** 2).sum()) / total if total > 0 else 0.0
    return Effects(torch.from_numpy(solution), r2, constant_attributes(torch.from_numpy(truth)))


def total_effect(head: AffineHead, e: Tensor, attributes: Tensor, effects: Effects, members: Sequence[int]) -> Tensor:
    """Compute for each sample the share of an attribute's other values that change the label, (B,) float64.

    Args:
        head: The affine head.
        e: Embeddings, (B, n).
        attributes: True attributes, (B, p).
        effects: B, see `fit_effects`.
        members: Indices of a group of exclusive attributes: the one that is 1 is exchanged for each other member. One
            index: the attribute is flipped.

    Returns:
        Shares; NaN for samples in which no member, or more than one, is 1. All NaN where the attribute is constant.
    """
    values = embeddings(head, e).numpy()
    truth = finite(attributes, "attributes")
    matrix = effects.matrix.numpy()
    places = list(indices(members, "members"))
    if len(truth) != len(values) or truth.shape[1] != len(matrix):
        raise BadInput(f"attributes have shape {truth.shape}; there must be {(len(values), len(matrix))}")
    if not places or not all(0 <= f < len(matrix) for f in places):
        raise BadInput(f"the members are {places}; give at least one of the {len(matrix)} attributes, from 0 on")
    weight, logits = head.weight.numpy(), values @ head.weight.numpy().T + head.bias.numpy()
    first = logits.argmax(1)
    if len(places) == 1:
        if places[0] in effects.constant:
            return torch.full((len(values),), torch.nan, dtype=torch.float64)
        step = (1 - 2 * truth[:, places])[:, :, None] * matrix[places][None]
        after = logits + step[:, 0] @ weight.T
        return torch.from_numpy((after.argmax(1) != first).astype(float))
    on = truth[:, places] > 0.5
    present, changed = on.argmax(1), np.zeros((len(values), len(places)))
    moves = matrix[places] @ weight.T  # (v, c)
    known = [row for row, f in enumerate(places) if f not in effects.constant]
    for v in known:
        after = logits + moves[v] - moves[present]
        changed[:, v] = (after.argmax(1) != first) & (present != v)
    others = np.array([sum(v != u for v in known) for u in range(len(places))])[present]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = changed.sum(1) / others
    return torch.from_numpy(np.where(on.sum(1) == 1, shares, np.nan))


def head_table(t: Tensor) -> list[Estimate]:
    """Return A_f, the share of samples with t_f <= 1, of each attribute; NaN samples are left out.

    Args:
        t: Switches, (B, n), see `head_effect`.
    """
    return [share(column[~column.isnan()] <= 1) for column in t.T]


def total_table(
    head: AffineHead, e: Tensor, attributes: Tensor, effects: Effects, factors: Mapping[str, Sequence[int]]
) -> dict[str, Estimate]:
    """Return T_f, the mean share of changes of value that change the label, of each factor.

    Args:
        head: The affine head.
        e: Embeddings, (B, n).
        attributes: True attributes, (B, p).
        effects: B, see `fit_effects`.
        factors: Name -> indices of its attributes, see `total_effect`.
    """
    shares_of = {name: total_effect(head, e, attributes, effects, places) for name, places in factors.items()}
    return {name: mean_of_shares(values[~values.isnan()]) for name, values in shares_of.items()}
