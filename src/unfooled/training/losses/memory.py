"""Stores of perturbations between training steps: by sample (`Starts`), or by position in the batch (`Carried`)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.threats import Threat


class Starts:
    """A store of each sample's last perturbation, by the hash of its bytes; float16, on the CPU."""

    by_sample = True

    def __init__(self) -> None:
        self.rows: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def start(self, x: Tensor, otherwise: Tensor, threat: Threat) -> Tensor:
        """Return the last perturbed point of each sample, projected onto the threat; `otherwise` for new samples."""
        known = [self.rows.get(key) for key in rng.sample_keys(x).tolist()]
        at = [i for i, row in enumerate(known) if row is not None]
        if not at:
            return otherwise
        rows = torch.tensor(at, device=x.device)
        delta = torch.stack([row for row in known if row is not None]).to(x)
        start = otherwise.clone()
        start[rows] = threat.take(rows).project(x[rows] + delta, x[rows])
        return start

    def store(self, x: Tensor, z: Tensor) -> None:
        """Store z - x."""
        delta = (z - x).to("cpu", torch.float16)
        # Each row is cloned: a view would keep its whole batch alive.
        self.rows.update({key: row.clone() for key, row in zip(rng.sample_keys(x).tolist(), delta, strict=True)})

    def state(self) -> dict[str, Tensor]:
        """Return keys, (N,) int64, and perturbations, (N, *D) float16."""
        if not self.rows:
            return {}
        return {"keys": torch.tensor(list(self.rows)), "delta": torch.stack(list(self.rows.values()))}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.rows = {}
        if state:
            keys, delta = state["keys"].tolist(), state["delta"].to("cpu")
            self.rows = {key: row.clone() for key, row in zip(keys, delta, strict=True)}


class Carried:
    """A store of the perturbation that the next step starts from, by position in the batch, not by sample."""

    by_sample = False

    def __init__(self) -> None:
        self.delta: Tensor | None = None

    def start(self, x: Tensor, threat: Threat) -> Tensor:
        """Return the starting points; x itself where no perturbation is stored yet."""
        z = x.detach().clone()
        if self.delta is not None:
            n = min(len(x), len(self.delta))
            z[:n] += self.delta[:n].to(x)
        return threat.project(z, x)

    def store(self, delta: Tensor) -> None:
        """Store the perturbations of a batch; a shorter batch leaves the remaining positions unchanged."""
        old = self.delta
        self.delta = delta if old is None or len(old) <= len(delta) else torch.cat([delta, old[len(delta) :]])

    def state(self) -> dict[str, Tensor]:
        """Return the perturbation, (B, *D)."""
        return {} if self.delta is None else {"delta": self.delta}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.delta = state.get("delta")
