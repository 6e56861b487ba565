"""Certification: proofs that no input of a threat changes the label, the lower end of a verdict."""

from unfooled.certification.ablation import ablate
from unfooled.certification.certificate import Certificate
from unfooled.certification.certify import Effort, bounds, certify
from unfooled.certification.graph import trace
from unfooled.certification.lipschitz import lipschitz_radius
from unfooled.certification.margins import interval_margins, penalised_margins, relaxed_margins
from unfooled.certification.milp import exact_distance, exact_margins
from unfooled.certification.smoothed import Smoothing
from unfooled.certification.smoothing import SmoothedRadius, ceiling, smooth

__all__ = [
    "Certificate",
    "Effort",
    "SmoothedRadius",
    "Smoothing",
    "ablate",
    "bounds",
    "ceiling",
    "certify",
    "exact_distance",
    "exact_margins",
    "interval_margins",
    "lipschitz_radius",
    "penalised_margins",
    "relaxed_margins",
    "smooth",
    "trace",
]
