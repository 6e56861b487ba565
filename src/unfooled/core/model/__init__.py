"""Models: any callable to logits, its outputs, its modes and its batches."""

from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.batching import BatchBudget, batched, fitting_batch, free_bytes
from unfooled.core.model.binding import Bound, bind
from unfooled.core.model.calls import ModelFails, noticing, run, run_checked
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.modes import evaluating, frozen, in_training, unrecorded
from unfooled.core.model.outputs import labelled, logits_from, logits_of
from unfooled.core.model.wrappers import Counted, Tapped, counted

__all__ = [
    "BatchBudget",
    "Bound",
    "Classifier",
    "Counted",
    "ModelFails",
    "Tapped",
    "batched",
    "bind",
    "counted",
    "evaluating",
    "fitting_batch",
    "free_bytes",
    "frozen",
    "in_training",
    "labelled",
    "logits_from",
    "logits_of",
    "modules_of",
    "noticing",
    "run",
    "run_checked",
    "unrecorded",
]
