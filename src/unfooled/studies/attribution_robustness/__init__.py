"""Attribution robustness: do explanations survive an attack?"""

from unfooled.studies.attribution_robustness.scale import AttributionScale, MapTask
from unfooled.studies.attribution_robustness.study import run_attribution_robustness

__all__ = ["AttributionScale", "MapTask", "run_attribution_robustness"]
