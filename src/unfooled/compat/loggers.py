"""Figures of audits for what keeps experiments: TensorBoard, MLflow, Weights & Biases, Lightning.

None of these libraries is imported here: the object that is given is asked for the methods that it has.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Threat
from unfooled.evaluation.accuracy import robust_accuracy
from unfooled.evaluation.audit.records import Summary
from unfooled.statistics.intervals import Estimate


def figures(summary: Summary, prefix: str = "unfooled/") -> dict[str, float]:
    """Return the figures of an audit by name; robust accuracy, at most and proven, only where it can be believed.

    Args:
        summary: Record of the audit.
        prefix: Text before each name.
    """
    shown: dict[str, Estimate] = {"clean_accuracy": summary.clean_accuracy}
    if summary.trusted:
        shown["robust_accuracy"] = summary.robust_accuracy
    if summary.trusted and summary.certified_accuracy is not None:
        shown["certified_accuracy"] = summary.certified_accuracy
    found = {"trusted": float(summary.trusted), "n": float(summary.n)}
    for name, e in shown.items():
        if e.value is not None:
            found |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
    return {f"{prefix}{name}": value for name, value in found.items()}


def log(summary: Summary, to: Any, *, step: int | None = None, page: str | Path | None = None) -> None:
    """Write the figures of an audit, and its page, to a logger.

    Args:
        summary: Record of the audit.
        to: `SummaryWriter` of TensorBoard, the module `mlflow` or its client's run, a run of Weights & Biases, or a
            `LightningModule`.
        step: Step of the training. None: none.
        page: Page to keep, where the logger keeps files. None: none.

    Raises:
        BadInput: An object without any of their methods.
    """
    found = figures(summary)
    if callable(getattr(to, "add_scalar", None)):  # TensorBoard
        for name, value in found.items():
            to.add_scalar(name, value, step)
        to.add_text("unfooled/verdict", f"{summary.verdict}: {summary.because}", step)
    elif callable(getattr(to, "log_metrics", None)):  # MLflow
        to.log_metrics(found, step=step)
        if callable(getattr(to, "set_tag", None)):
            to.set_tag("unfooled.verdict", summary.verdict)
        if page is not None:
            to.log_artifact(str(page))
    elif callable(getattr(to, "log_dict", None)):  # Lightning
        to.log_dict(found)
    elif callable(getattr(to, "log", None)):  # Weights & Biases
        to.log({**found, "unfooled/verdict": summary.verdict}, step=step)
        if page is not None and callable(getattr(to, "save", None)):
            to.save(str(page))
    else:
        kinds = "a SummaryWriter, mlflow, a run of wandb or a LightningModule"
        raise BadInput(f"{type(to).__name__} takes no figures; give {kinds}")


class RobustnessCallback:
    """A callback of Lightning that logs robust accuracy on fixed samples at the end of each validation.

    It is written without Lightning, whose trainer calls a callback's methods by name; where Lightning demands its base
    class, derive from both.

    Args:
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Constraint set.
        attack: From model, inputs, labels and threat to points. None: the cascade.
        every: Number of validations from one measurement to the next.
        name: Name of the figure.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        attack: Callable[..., Tensor] | None = None,
        every: int = 1,
        name: str = "robust_accuracy",
    ) -> None:
        if every < 1:
            raise BadInput(f"every is {every}; it must be at least 1")
        self.x, self.y, self.threat, self.attack, self.every, self.name = x, y, threat, attack, every, name
        self.calls = 0

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure and log."""
        self.calls += 1
        if (self.calls - 1) % self.every or getattr(trainer, "sanity_checking", False):
            return
        import torch

        was_training = pl_module.training
        pl_module.eval()
        try:
            with torch.inference_mode(False), torch.enable_grad(), frozen(pl_module):
                e = robust_accuracy(pl_module, self.x.clone(), self.y.clone(), self.threat, attack=self.attack)
        finally:
            pl_module.train(was_training)
        loggers = getattr(trainer, "loggers", None) or []
        for logger in loggers:
            logger.log_metrics({self.name: e.value, f"{self.name}_low": e.low}, step=trainer.global_step)
