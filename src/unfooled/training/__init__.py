"""Training: one generator loop, and one file per loss."""

from unfooled.training.attribution import IgNorm, IgSumNorm
from unfooled.training.fast import Fast, n_fgsm
from unfooled.training.free import Free
from unfooled.training.igr import Igr
from unfooled.training.input_gradient import InputGradient
from unfooled.training.loop import Batches, Epoch, train
from unfooled.training.madry import Madry
from unfooled.training.monitor import Monitor
from unfooled.training.progress import Ramp
from unfooled.training.r2et import R2et
from unfooled.training.standard import Standard
from unfooled.training.trades import Trades

__all__ = [
    "Batches",
    "Epoch",
    "Fast",
    "Free",
    "IgNorm",
    "IgSumNorm",
    "Igr",
    "InputGradient",
    "Madry",
    "Monitor",
    "R2et",
    "Ramp",
    "Standard",
    "Trades",
    "n_fgsm",
    "train",
]
