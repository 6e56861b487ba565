"""Training losses, one file a paper."""

from unfooled.training.losses.arp import Arp, arp
from unfooled.training.losses.arp_published import ArpPublished
from unfooled.training.losses.attribution import IgNorm, IgSumNorm
from unfooled.training.losses.fast import Fast, n_fgsm
from unfooled.training.losses.free import Free
from unfooled.training.losses.group_worst import Augmented, GroupWorst
from unfooled.training.losses.igr import Igr
from unfooled.training.losses.input_gradient import InputGradient
from unfooled.training.losses.iou_rounds import iou_rounds
from unfooled.training.losses.madry import Madry
from unfooled.training.losses.r2et import R2et
from unfooled.training.losses.standard import Standard
from unfooled.training.losses.trades import Trades

__all__ = [
    "Arp",
    "ArpPublished",
    "Augmented",
    "Fast",
    "Free",
    "GroupWorst",
    "IgNorm",
    "IgSumNorm",
    "Igr",
    "InputGradient",
    "Madry",
    "R2et",
    "Standard",
    "Trades",
    "arp",
    "iou_rounds",
    "n_fgsm",
]
