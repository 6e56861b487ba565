"""Units of the studies of features: sets that are stored, networks under attack, alignment of gradients."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from unfooled.attacks.ensembles.cascade import NORMAL, Effort, cascade
from unfooled.core.goals import read_logits
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.data.formats.feature_sets import FeatureSet, load_features, save_features, stored
from unfooled.evaluation.explanations.faithfulness import gradient_alignment
from unfooled.evaluation.verify import verify
from unfooled.runs.folder import discard
from unfooled.runs.store import Store, StoredFile
from unfooled.studies.common.bench import Labelled
from unfooled.studies.common.feature_records import Aligned, Attacked, Rebuilt
from unfooled.studies.common.records import listed

ALIGNMENT_IMAGES = 1000
"""Number of test images on which alignment is measured."""


def radii_survived(
    model: Model, x: Tensor, y: Tensor, threats: Sequence[Threat], *, seed: int = 0, effort: Effort = NORMAL
) -> Tensor:
    """Count the threats that each sample survives under the cascade, judged by `verify`.

    The count is found by bisection: a sample that is fooled is attacked in a smaller threat next, one that survives in
    a larger one, since a larger threat allows whatever a smaller one does.

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threats: Threats of one norm, in increasing order.
        seed: Random seed of the attacks.
        effort: Stages of the cascade.

    Returns:
        (B,) int64 from 0 to the number of threats; -1 where the sample is wrong when clean.
    """
    with torch.no_grad():
        right = read_logits(model, x, batch=500).argmax(1) == y
    low, high = torch.zeros_like(y), torch.full_like(y, len(threats))
    high[~right] = 0
    while bool((low < high).any()):
        middle = (low + high) // 2
        for k in middle[low < high].unique().tolist():
            rows = ((middle == k) & (low < high)).nonzero()[:, 0]
            z = cascade(model, x[rows], y[rows], threats[k], seed=seed, effort=effort)
            fooled = verify(model, x[rows], y[rows], z, threats[k]).success
            high[rows[fooled]] = k
            low[rows[~fooled]] = k + 1
    return torch.where(right, low, -1)


def attack(
    net: nn.Module, samples: Labelled, threats: Sequence[Threat], *, name: str, seed: int, effort: Effort
) -> Attacked:
    """Attack one network at rising radii.

    Args:
        net: Network.
        samples: Inputs and labels, on its device.
        threats: Threats of one norm, in increasing order.
        name: Name of the network, for the record.
        seed: Random seed of the attacks.
        effort: Stages of the cascade.
    """
    started = time.perf_counter()
    survived = radii_survived(net, *samples, threats, seed=seed, effort=effort)
    return Attacked(
        name=name, seed=seed, norm=f"l{threats[0].norm:g}", radii=[float(t.eps) for t in threats],
        survived=survived.tolist(), seconds=round(time.perf_counter() - started, 1),
    )  # fmt: skip


def align(net: nn.Module, test: Labelled, *, device: str, name: str, seed: int) -> Aligned:
    """Measure the alignment of gradients with the first `ALIGNMENT_IMAGES` samples. Cost: 1 F + 1 B of each.

    Args:
        net: Network.
        test: Test samples.
        device: Device of the network.
        name: Name of the network, for the record.
        seed: Random seed of the network, for the record.
    """
    started = time.perf_counter()
    x, y = (part[:ALIGNMENT_IMAGES].to(device) for part in test)
    values = gradient_alignment(net, x, y)
    return Aligned(name=name, seed=seed, values=listed(values), seconds=round(time.perf_counter() - started, 1))


def stored_set(file: StoredFile | None, encoder: nn.Module, make: Callable[[Store | None], FeatureSet]) -> FeatureSet:
    """Read a set of images, or make and store it.

    Args:
        file: File of the set; None: it is not stored.
        encoder: Network that it is made from; a file that was made from another one is refused.
        make: `store -> set`; the store holds the finished parts, None where nothing is stored.
    """
    if file is None:
        return make(None)
    if stored(file):
        return load_features(file, encoder=encoder)
    parts = file.beside(file.last.removesuffix(".npz")).parts
    made = save_features(file, make(parts))
    discard(parts)
    return made


def describe_set(origin: str, made: FeatureSet, sources: Tensor, starts: Tensor | None) -> Rebuilt:
    """Make the record of a set.

    Args:
        origin: Name of the set, or of the network that it was rebuilt from.
        made: Set of images.
        sources: Originals of its images, in their order.
        starts: Images at which the search began; None: the set is of images moved from the originals.
    """
    about = made.manifest
    return Rebuilt(
        origin=origin, n=len(made), residual=about["residual"]["stored"], reached=about["reached"],
        vanished=about.get("vanished"), gradients=about.get("gradients"),
        to_source=_median_distance(made.x, sources),
        to_start=None if starts is None else _median_distance(made.x, starts),
        seconds=round(about["seconds"], 1),
    )  # fmt: skip


def _median_distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).flatten(1).norm(dim=1).median())
