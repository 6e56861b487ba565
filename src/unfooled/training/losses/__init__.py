"""Training losses, one file per paper; each is a frozen dataclass with `(model, x, y) -> scalar`."""

from unfooled.training.losses.arp import (
    Arp,
    ArpTerms,
    adversarial_base,
    arp,
    label_hinge,
    squared_gap,
    trades_base,
    two_class,
    uniform_gap,
)
from unfooled.training.losses.arp_published import ArpPublished, PublishedTerms
from unfooled.training.losses.attribution import IgNorm, IgSumNorm
from unfooled.training.losses.certified import CrownIbp, Ibp, MtlIbp, Sabr
from unfooled.training.losses.concept_margin import ConceptMargin, ConceptStability
from unfooled.training.losses.concepts import ConceptBall, ConceptLoss, ConceptMadry
from unfooled.training.losses.fast import Fast, n_fgsm
from unfooled.training.losses.free import Free
from unfooled.training.losses.group_worst import Augmented, GroupWorst
from unfooled.training.losses.igr import Igr
from unfooled.training.losses.input_gradient import InputGradient
from unfooled.training.losses.iou_rounds import Rounds, iou_rounds
from unfooled.training.losses.madry import Madry
from unfooled.training.losses.r2et import R2et
from unfooled.training.losses.standard import Standard
from unfooled.training.losses.trades import Trades

__all__ = [
    "Arp",
    "ArpPublished",
    "ArpTerms",
    "Augmented",
    "ConceptBall",
    "ConceptLoss",
    "ConceptMadry",
    "ConceptMargin",
    "ConceptStability",
    "CrownIbp",
    "Fast",
    "Free",
    "GroupWorst",
    "Ibp",
    "IgNorm",
    "IgSumNorm",
    "Igr",
    "InputGradient",
    "Madry",
    "MtlIbp",
    "PublishedTerms",
    "R2et",
    "Rounds",
    "Sabr",
    "Standard",
    "Trades",
    "adversarial_base",
    "arp",
    "iou_rounds",
    "label_hinge",
    "n_fgsm",
    "squared_gap",
    "trades_base",
    "two_class",
    "uniform_gap",
]
