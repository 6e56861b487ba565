"""Loading of models from common formats, and the small reference networks."""

from unfooled.models.architectures import ARCHITECTURES
from unfooled.models.black_boxes import Access, BlackBox, Endpoint
from unfooled.models.load import load_model
from unfooled.models.nets import (
    CifarResnet,
    ConceptCnn,
    Lenet5,
    MnistCnn,
    ResNet18,
    SmallCnn,
    StridedCnn,
    TradesSmallCnn,
)

__all__ = [
    "ARCHITECTURES",
    "Access",
    "BlackBox",
    "CifarResnet",
    "ConceptCnn",
    "Endpoint",
    "Lenet5",
    "MnistCnn",
    "ResNet18",
    "SmallCnn",
    "StridedCnn",
    "TradesSmallCnn",
    "load_model",
]
