"""Training: one generator loop, and one file per loss."""

from unfooled.explanations.masks import soft_mask, top_mask
from unfooled.training.batches import Batches, BatchSource
from unfooled.training.checkpoint import Checkpoint
from unfooled.training.concepts import FittedHead, Leakage, fit_head, independent_head, leakage
from unfooled.training.initial import initialise_for_intervals
from unfooled.training.loop import Epoch, Stepping, train
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
from unfooled.training.losses.ensemble import Ensemble
from unfooled.training.losses.fast import Fast, n_fgsm
from unfooled.training.losses.free import Free
from unfooled.training.losses.group_worst import Augmented, GroupWorst
from unfooled.training.losses.igr import Igr
from unfooled.training.losses.input_gradient import InputGradient
from unfooled.training.losses.iou_rounds import Rounds, iou_rounds
from unfooled.training.losses.latent import LatentClusters
from unfooled.training.losses.madry import Madry
from unfooled.training.losses.r2et import R2et
from unfooled.training.losses.standard import Standard
from unfooled.training.losses.step_ll import StepLl
from unfooled.training.losses.through import Through
from unfooled.training.losses.trades import Trades
from unfooled.training.monitor import Monitor
from unfooled.training.progress import Ramp

__all__ = [
    "Arp",
    "ArpPublished",
    "ArpTerms",
    "Augmented",
    "BatchSource",
    "Batches",
    "Checkpoint",
    "ConceptBall",
    "ConceptLoss",
    "ConceptMadry",
    "ConceptMargin",
    "ConceptStability",
    "CrownIbp",
    "Ensemble",
    "Epoch",
    "Fast",
    "FittedHead",
    "Free",
    "GroupWorst",
    "Ibp",
    "IgNorm",
    "IgSumNorm",
    "Igr",
    "InputGradient",
    "LatentClusters",
    "Leakage",
    "Madry",
    "Monitor",
    "MtlIbp",
    "PublishedTerms",
    "R2et",
    "Ramp",
    "Rounds",
    "Sabr",
    "Standard",
    "StepLl",
    "Stepping",
    "Through",
    "Trades",
    "adversarial_base",
    "arp",
    "fit_head",
    "independent_head",
    "initialise_for_intervals",
    "iou_rounds",
    "label_hinge",
    "leakage",
    "n_fgsm",
    "soft_mask",
    "squared_gap",
    "top_mask",
    "trades_base",
    "train",
    "two_class",
    "uniform_gap",
]
