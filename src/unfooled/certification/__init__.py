"""Certification: proofs that no input of a threat changes the label, the lower end of a verdict."""

from unfooled.certification.certificate import Certificate
from unfooled.certification.certify import EFFORTS, Effort, bounds, certify
from unfooled.certification.graph import trace

__all__ = ["EFFORTS", "Certificate", "Effort", "bounds", "certify", "trace"]
