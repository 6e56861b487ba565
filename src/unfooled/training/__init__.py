"""Training: one generator loop, and one file per loss."""

from unfooled.training.arp import (
    Arp,
    ArpTerms,
    adversarial_base,
    arp,
    label_hinge,
    soft_mask,
    squared_gap,
    top_mask,
    trades_base,
    two_class,
    uniform_gap,
)
from unfooled.training.arp_published import ArpPublished, PublishedTerms
from unfooled.training.attribution import IgNorm, IgSumNorm
from unfooled.training.fast import Fast, n_fgsm
from unfooled.training.free import Free
from unfooled.training.group_worst import Augmented, GroupWorst
from unfooled.training.igr import Igr
from unfooled.training.input_gradient import InputGradient
from unfooled.training.iou_rounds import Rounds, iou_rounds
from unfooled.training.loop import Batches, Epoch, train
from unfooled.training.madry import Madry
from unfooled.training.monitor import Monitor
from unfooled.training.progress import Ramp
from unfooled.training.r2et import R2et
from unfooled.training.standard import Standard
from unfooled.training.trades import Trades

__all__ = [
    "Arp",
    "ArpPublished",
    "ArpTerms",
    "Augmented",
    "Batches",
    "Epoch",
    "Fast",
    "Free",
    "GroupWorst",
    "IgNorm",
    "IgSumNorm",
    "Igr",
    "InputGradient",
    "Madry",
    "Monitor",
    "PublishedTerms",
    "R2et",
    "Ramp",
    "Rounds",
    "Standard",
    "Trades",
    "adversarial_base",
    "arp",
    "iou_rounds",
    "label_hinge",
    "n_fgsm",
    "soft_mask",
    "squared_gap",
    "top_mask",
    "trades_base",
    "train",
    "two_class",
    "uniform_gap",
]
