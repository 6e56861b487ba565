"""Answers of a model at masked inputs, in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unfooled.core import rng
from unfooled.core.goals import checked_once
from unfooled.core.model.batching import fitting_batch
from unfooled.core.types import Loss, Model
from unfooled.explanations.lime.baselines import Baseline, Expected
from unfooled.explanations.lime.segments import composed, pixel_masks

CEILING = 128  # rows a call
LEAST = 32  # rows a call on a CPU that half of the memory is not too much for; more leave the cache, and are slower
CALL_BYTES = 1 << 23  # bytes of inputs a call on a CPU; larger ones leave the cache, and come as fresh pages each time


def seed_of(x: Tensor, seed: int) -> Tensor:
    """Return one seed a sample, (B,), for masks that are drawn for each apart."""
    return rng.seeds(x, seed, stage=rng.Stream.LIME_MASKS)


def rows_a_call(model: Model, x: Tensor) -> int:
    """Return the rows of a call: those that fit in memory, and on a CPU no more than is fast."""
    if x.device.type != "cpu":
        return fitting_batch(model, x, ceiling=CEILING)
    fitting = fitting_batch(model, x, ceiling=2 * CEILING)
    fast = max(1, CALL_BYTES // max(1, x[:1].numel() * x.element_size()))
    return min(fitting, max(LEAST, fitting // 2), fast)


class Masked:
    """A model seen through masks of a sample's segments.

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D).
        y: Classes, (B, T).
        ids: Ids of the segments, (B, *S).
        baseline: Values of hidden segments.
        score: Function `(logits, y) -> (B,)`.
        batch: Rows a call. None: by memory.
    """

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, ids: Tensor, baseline: Baseline, score: Loss, batch: int | None = None
    ) -> None:
        self.model, self.x, self.y, self.ids, self.score = checked_once(model, y.flatten()), x, y, ids, score
        self.draws = baseline.draws if isinstance(baseline, Expected) else 1
        self.hidden = [baseline(x, ids, draw=draw).to(x.dtype) for draw in range(self.draws)]
        self.batch = batch

    def prediction(self) -> tuple[Tensor, Tensor]:
        """Return the score of the inputs themselves, (B, T) float64, and their softmax probabilities, (B, K)."""
        scores, probabilities = [], []
        for part in self._parts(len(self.x)):
            y = self.y[part]
            logits = self.model(self.x[part], y[:, 0])
            scores.append(torch.stack([self.score(logits, column) for column in y.T], 1))
            probabilities.append(logits.to(torch.float64).softmax(1))
        return torch.cat(scores).to("cpu", torch.float64), torch.cat(probabilities).cpu()

    def answers(self, i: int, masks: Tensor) -> Tensor:
        """Return the scores of sample i at masks, (S, T) float64, averaged over the draws of the baseline."""
        total: Tensor | None = None
        for hidden in self.hidden:
            x, b = self.x[i], hidden[i]
            parts = []
            for rows in self._parts(len(masks)):
                if torch.is_grad_enabled() and len(masks) > rows.stop - rows.start:
                    parts.append(checkpoint(self._at, x, b, masks[rows], i, use_reentrant=False))
                else:
                    parts.append(self._at(x, b, masks[rows], i))
            value = torch.cat(parts)
            total = value if total is None else total + value
        assert total is not None
        return total / self.draws if self.draws > 1 else total

    def spread(self, i: int, values: Tensor) -> Tensor:
        """Spread values of the segments of sample i, (1, M), over its input values, (*D)."""
        like = self.x[i : i + 1]
        return pixel_masks(values.to(like.device), self.ids[i].to(like.device), like).expand(like.shape)[0]

    def _at(self, x: Tensor, hidden: Tensor, masks: Tensor, i: int) -> Tensor:
        """Return the scores at masks, (n, T)."""
        z = composed(masks.to(x.device), self.ids[i].to(x.device), x, hidden)
        return self._scores(z, self.y[i].expand(len(masks), -1))

    def _scores(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the score of each class, (n, T) float64 on the CPU."""
        logits = self.model(z)
        return torch.stack([self.score(logits, column) for column in y.T], 1).to("cpu", torch.float64)

    def _parts(self, rows: int) -> Iterator[slice]:
        """Yield alike parts of the rows that fit in memory."""
        if self.batch is None:
            self.batch = rows_a_call(self.model, self.x)
        number = -(-rows // self.batch)
        size = -(-rows // max(1, number))
        for low in range(0, rows, max(1, size)):
            yield slice(low, min(rows, low + size))
