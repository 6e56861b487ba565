"""The sections of the report page."""

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
