"""Models without gradients: functions from arrays, scikit-learn estimators, services that answer over HTTP."""

from unfooled.core.access import Access
from unfooled.models.black_boxes.box import BlackBox, access_of, black_box_of
from unfooled.models.black_boxes.endpoint import Endpoint
from unfooled.models.black_boxes.estimators import from_estimator, is_estimator
from unfooled.models.black_boxes.given import as_model, function_on_arrays

__all__ = [
    "Access",
    "BlackBox",
    "Endpoint",
    "access_of",
    "as_model",
    "black_box_of",
    "from_estimator",
    "function_on_arrays",
    "is_estimator",
]
