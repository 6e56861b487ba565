"""Finding of a model without gradients that says so: see `models.black_boxes`."""

from __future__ import annotations

from unfooled.core.access import Access
from unfooled.core.types import Model
from unfooled.evaluation.checks.table import NEED_GRADIENTS, Finding, Kind, finding
from unfooled.models.black_boxes.box import access_of, black_box_of

NOT_TRIED = "not tried: no gradient is to be had of a black box"
NO_GRADIENTS = (
    "No gradients were to be had of this model: it was attacked through a network that was trained on its answers, by "
    "search and by its labels alone. An adversary who has its gradients may fool more."
)
TWIN_EXPLAINED = (
    "Explanations are those of the network that was trained on the model's answers, not of the model itself."
)


def no_gradients(model: Model) -> list[Finding]:
    """Return finding D8 of a black box, and those of the checks that are left out; none for any other model."""
    box = black_box_of(model)
    if box is None:
        return []
    what = "labels only" if access_of(model) is Access.LABELS else "scores without gradients"
    detail = f"the model is a black box ({box.name}), which answers with {what}"
    absent = finding("D8", True, detail, "a twin, search and label-only attacks are used", kind=Kind.ABSENT)
    return [absent, *(finding(key, False, NOT_TRIED) for key in NEED_GRADIENTS)]
