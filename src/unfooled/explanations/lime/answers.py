"""Answers of a model at masked inputs, in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.core.goals import checked_once
from unfooled.core.model.batching import fitting_batch, halving
from unfooled.core.types import Loss, Model
from unfooled.explanations.lime.baselines import Baseline, Expected
from unfooled.explanations.lime.checking import check_function, check_takes
from unfooled.explanations.lime.predicting import check_rows
from unfooled.explanations.lime.segments import composed, pixel_masks

Result = TypeVar("Result")
CEILING = 128  # rows a call
LEAST = 32  # largest number of rows a call on a CPU; more do not fit into its cache, and are slower
MOST_ROWS = 1 << 20  # largest number of rows whose graphs are measured together
CALL_BYTES = 1 << 23  # bytes of inputs a call on a CPU; larger ones leave the cache, and come as fresh pages each time


def seed_of(x: Tensor, seed: int) -> Tensor:
    """Return one seed a sample, (B,), for masks that are drawn for each sample separately."""
    return rng.seeds(x, seed, stage=rng.Stream.LIME_MASKS)


def rows_a_call(model: Model, x: Tensor) -> int:
    """Return the rows of a call: those that fit in memory, and on a CPU no more than fit into its cache."""
    return fast_rows(x, fitting_batch(model, x, ceiling=2 * CEILING))


def fast_rows(x: Tensor, fitting: int) -> int:
    """Return the rows of a call of which `fitting` fit in memory."""
    if x.device.type != "cpu":
        return min(fitting, CEILING)
    fitting = min(fitting, 2 * CEILING)
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
        graph: True: answers are differentiated later. Where the graphs of all rows do not fit in memory together, each
            part is computed again in the backward pass.
    """

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        ids: Tensor,
        baseline: Baseline,
        score: Loss,
        batch: int | None = None,
        *,
        graph: bool = False,
    ) -> None:
        if batch is not None:
            check_rows(batch, "rows")
        check_function(score, "score", "true_logit or log_probability")
        takes, examples = "(x, ids, *, draw)", "segment_mean or constant(0.0)"
        check_takes(baseline, "baseline", takes, examples, x, ids, draw=0)
        self.model, self.x, self.y, self.ids, self.score = checked_once(model, y.flatten()), x, y, ids, score
        self.draws = baseline.draws if isinstance(baseline, Expected) else 1
        self.hidden = [_filling(baseline(x, ids, draw=draw), x) for draw in range(self.draws)]
        self.batch, self.graph, self.tried = batch, graph, False
        self.room = batch or 0

    def prediction(self) -> tuple[Tensor, Tensor]:
        """Return the score of the inputs themselves, (B, T) float64, and their softmax probabilities, (B, K)."""

        def at(part: slice) -> tuple[Tensor, Tensor]:
            y = self.y[part]
            logits = self.model(self.x[part], y[:, 0])
            scores = self._scored(logits, y)
            return scores.to("cpu", torch.float64), logits.to(torch.float64).softmax(1).cpu()

        scores, probabilities = zip(*self._by_parts(at, len(self.x)), strict=True)
        return torch.cat(scores), torch.cat(probabilities)

    def answers(self, i: int, masks: Tensor) -> Tensor:
        """Return the scores of sample i at masks, (S, T) float64, averaged over the draws of the baseline."""
        total: Tensor | None = None
        for hidden in self.hidden:
            x, b = self.x[i], hidden[i]

            def at(rows: slice, x: Tensor = x, b: Tensor = b) -> Tensor:
                if torch.is_grad_enabled() and self.draws * len(self.x) * len(masks) > self.room:
                    self._try(x, b, masks[rows], i)
                    graph: Tensor = checkpoint(self._at, x, b, masks[rows], i, use_reentrant=False)
                    return graph
                return self._at(x, b, masks[rows], i)

            value = torch.cat(self._by_parts(at, len(masks)))
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

    def _try(self, x: Tensor, hidden: Tensor, masks: Tensor, i: int) -> None:
        """Run one forward and backward pass, the first time, so that memory runs out here, where parts are halved."""
        if not self.tried:
            x, hidden = (t.detach().requires_grad_() for t in (x, hidden))
            scores = self._at(x, hidden, masks, i)
            if scores.requires_grad:
                torch.autograd.grad(scores.sum(), (x, hidden), allow_unused=True)
            self.tried = True

    def _scores(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the score of each class, (n, T) float64 on the CPU."""
        return self._scored(self.model(z), y).to("cpu", torch.float64)

    def _scored(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the score of each class, (n, T)."""
        scores = [self.score(logits, column) for column in y.T]
        shape = getattr(scores[0], "shape", None)
        if shape != (len(logits),):
            given = type(scores[0]).__name__ if shape is None else f"shape {tuple(shape)}"
            raise BadInput(f"score returned {given} for {len(logits)} samples; return one number each, as true_logit")
        return torch.stack(scores, 1)

    def _by_parts(self, at: Callable[[slice], Result], rows: int) -> list[Result]:
        """Return the results of the rows, in parts of equal size that fit in memory."""
        if self.batch is None:
            self.room = fitting_batch(self.model, self.x, ceiling=MOST_ROWS)
            self.batch = fast_rows(self.x, self.room)
        results, self.batch = halving(at, rows, self.batch)
        return results


def _filling(values: Any, x: Tensor) -> Tensor:
    """Return the values of hidden segments; refuse another shape than that of the samples."""
    if not isinstance(values, Tensor) or values.shape != x.shape:
        given = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise BadInput(f"the baseline returned {given}; return the values of hidden segments, {tuple(x.shape)}")
    return values.to(x.dtype)
