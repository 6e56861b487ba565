"""Training: one generator loop, and one file per loss."""

from unfooled.training.fast import Fast, n_fgsm
from unfooled.training.free import Free
from unfooled.training.group_worst import Augmented, GroupWorst
from unfooled.training.loop import Batches, Epoch, train
from unfooled.training.madry import Madry
from unfooled.training.monitor import Monitor
from unfooled.training.progress import Ramp
from unfooled.training.standard import Standard
from unfooled.training.trades import Trades

__all__ = [
    "Augmented",
    "Batches",
    "Epoch",
    "Fast",
    "Free",
    "GroupWorst",
    "Madry",
    "Monitor",
    "Ramp",
    "Standard",
    "Trades",
    "n_fgsm",
    "train",
]
