"""Simulated birds: attributes drawn from the percentages of a class, where attributes of real images are missing.

    a_f ~ Bernoulli(percent[y, f] / 100), independently

Independence probably makes the classes easier to tell apart than real birds: with the true percentages, naive Bayes
classifies about 96 % of the birds of CUB's 200 classes correctly. Figures on such data are marked as simulated wherever
they are shown.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unfooled.core.checks import check_labels
from unfooled.core.errors import BadInput


def simulate_birds(class_attr: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """Draw the attributes of one bird for each label.

    Args:
        class_attr: Percentages of presence in each class, (K, n), in [0, 100].
        labels: Classes, (N,) int64.
        seed: Random seed; the first birds do not depend on how many are drawn.

    Returns:
        Attributes, (N, n) float32, 0 or 1.

    Raises:
        BadInput: Values are no percentages, or a label is no class.

    Example:
        >>> simulate_birds(torch.tensor([[100.0, 0.0], [0.0, 100.0]]), torch.tensor([1, 0])).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    if class_attr.ndim != 2:
        raise BadInput(f"class_attr has shape {tuple(class_attr.shape)}; it must be (K, n), percentages in [0, 100]")
    if not bool(((class_attr >= 0) & (class_attr <= 100)).all()):
        low, high = float(class_attr.min()), float(class_attr.max())
        raise BadInput(f"class_attr lies in [{low:g}, {high:g}]; it must hold percentages in [0, 100]")
    check_labels(labels, len(labels), len(class_attr))
    u = np.random.default_rng([seed, 200]).random((len(labels), class_attr.shape[1]))
    return torch.from_numpy((100 * u < class_attr[labels].double().numpy()).astype(np.float32))
