"""Judges of explanations: under attack, faithfulness, movement, locality, attention."""

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
