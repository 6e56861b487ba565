"""The sections of the report page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled.core.lazy import importer

_NAMES = {
    "AttentionSection": "attention",
    "Case": "counterfactual",
    "Confusion": "confusion",
    "CurveGroup": "curves",
    "EffortSection": "effort",
    "Gallery": "gallery",
    "GuardSection": "guards",
    "Line": "compare",
    "NearestSection": "nearness",
    "ReasonGallery": "gallery",
    "ReasonsSection": "reasons",
    "attention_sections": "attention",
    "class_name": "confusion",
    "compare": "compare",
    "compose_counterfactual": "counterfactual",
    "confusion": "confusion",
    "curve_groups": "curves",
    "different_settings": "compare",
    "effort_section": "effort",
    "galleries": "gallery",
    "guard_sections": "guards",
    "lines_of": "counterfactual",
    "nearest_section": "nearness",
    "reason_galleries": "gallery",
    "reasons_section": "reasons",
}

__all__ = [
    "AttentionSection",
    "Case",
    "Confusion",
    "CurveGroup",
    "EffortSection",
    "Gallery",
    "GuardSection",
    "Line",
    "NearestSection",
    "ReasonGallery",
    "ReasonsSection",
    "attention_sections",
    "class_name",
    "compare",
    "compose_counterfactual",
    "confusion",
    "curve_groups",
    "different_settings",
    "effort_section",
    "galleries",
    "guard_sections",
    "lines_of",
    "nearest_section",
    "reason_galleries",
    "reasons_section",
]


__getattr__ = importer(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from unfooled.report.sections.attention import AttentionSection, attention_sections
    from unfooled.report.sections.compare import Line, compare, different_settings
    from unfooled.report.sections.confusion import Confusion, class_name, confusion
    from unfooled.report.sections.counterfactual import Case, compose_counterfactual, lines_of
    from unfooled.report.sections.curves import CurveGroup, curve_groups
    from unfooled.report.sections.effort import EffortSection, effort_section
    from unfooled.report.sections.gallery import Gallery, ReasonGallery, galleries, reason_galleries
    from unfooled.report.sections.guards import GuardSection, guard_sections
    from unfooled.report.sections.nearness import NearestSection, nearest_section
    from unfooled.report.sections.reasons import ReasonsSection, reasons_section
