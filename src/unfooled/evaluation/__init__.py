"""The only judge: verification, checks, judges of explanations, audits and their records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled.core.lazy import importer

_NAMES = {
    "ExplanationRobustness": "explanations.robustness",
    "ExplanationVerdict": "explanations.judge",
    "Finding": "checks.table",
    "Plan": "audit.plan",
    "Summary": "audit.records",
    "Survival": "explanations.locality",
    "Verdict": "verify",
    "explanation_robustness": "explanations.robustness",
    "gradient_alignment": "explanations.faithfulness",
    "judge_explanation": "explanations.judge",
    "parameter_randomisation": "explanations.faithfulness",
    "perturbation_curves": "explanations.faithfulness",
    "robust_accuracy": "accuracy",
    "score_maps": "explanations.locality",
    "verify": "verify",
}

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


__getattr__ = importer(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from unfooled.evaluation.accuracy import robust_accuracy
    from unfooled.evaluation.audit.plan import Plan
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
