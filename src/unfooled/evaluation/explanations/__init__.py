"""Judges of explanations: under attack, faithfulness, movement, locality, attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled.core.lazy import importer

_NAMES = {
    "Block": "locality",
    "ExplanationRobustness": "robustness",
    "ExplanationVerdict": "judge",
    "PerturbationCurves": "faithfulness",
    "Randomised": "faithfulness",
    "Rank": "locality",
    "Score": "locality",
    "Survival": "locality",
    "WorstPoints": "robustness",
    "explanation_robustness": "robustness",
    "gradient_alignment": "faithfulness",
    "judge_explanation": "judge",
    "map_scores": "movement",
    "movements": "movement",
    "parameter_randomisation": "faithfulness",
    "perturbation_curves": "faithfulness",
    "score_maps": "locality",
}

__all__ = [
    "Block",
    "ExplanationRobustness",
    "ExplanationVerdict",
    "PerturbationCurves",
    "Randomised",
    "Rank",
    "Score",
    "Survival",
    "WorstPoints",
    "explanation_robustness",
    "gradient_alignment",
    "judge_explanation",
    "map_scores",
    "movements",
    "parameter_randomisation",
    "perturbation_curves",
    "score_maps",
]


__getattr__ = importer(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from unfooled.evaluation.explanations.faithfulness import (
        PerturbationCurves,
        Randomised,
        gradient_alignment,
        parameter_randomisation,
        perturbation_curves,
    )
    from unfooled.evaluation.explanations.judge import ExplanationVerdict, judge_explanation
    from unfooled.evaluation.explanations.locality import Block, Rank, Score, Survival, score_maps
    from unfooled.evaluation.explanations.movement import map_scores, movements
    from unfooled.evaluation.explanations.robustness import ExplanationRobustness, WorstPoints, explanation_robustness
