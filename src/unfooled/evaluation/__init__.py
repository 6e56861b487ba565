"""The only judge: verification, checks, judges of explanations, audits and their records."""

from unfooled.evaluation.accuracy import robust_accuracy
from unfooled.evaluation.audit import Plan
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.table import Finding
from unfooled.evaluation.explanations.faithfulness import (
    gradient_alignment,
    parameter_randomisation,
    perturbation_curves,
)
from unfooled.evaluation.explanations.judge import ExplanationVerdict, judge_explanation
from unfooled.evaluation.explanations.locality import Survival, score_maps
from unfooled.evaluation.explanations.robustness import ExplanationRobustness, explanation_robustness
from unfooled.evaluation.verify import Verdict, verify

__all__ = [
    "ExplanationRobustness",
    "ExplanationVerdict",
    "Finding",
    "Plan",
    "Summary",
    "Survival",
    "Verdict",
    "explanation_robustness",
    "gradient_alignment",
    "judge_explanation",
    "parameter_randomisation",
    "perturbation_curves",
    "robust_accuracy",
    "score_maps",
    "verify",
]
