"""Models: any callable to logits, its outputs, its modes and its batches."""

from unfooled.core.model.batching import BatchBudget, batched, fitting_batch, free_bytes
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.modes import (
    Counted,
    Tapped,
    counted,
    evaluating,
    frozen,
    in_training,
    modules_of,
    unrecorded,
)
from unfooled.core.model.outputs import ModelFails, answered, logits_of

__all__ = [
    "BatchBudget",
    "Classifier",
    "Counted",
    "ModelFails",
    "Tapped",
    "answered",
    "batched",
    "counted",
    "evaluating",
    "fitting_batch",
    "free_bytes",
    "frozen",
    "in_training",
    "logits_of",
    "modules_of",
    "unrecorded",
]
