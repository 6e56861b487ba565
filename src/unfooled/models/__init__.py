"""Loading of models from common formats, and the small reference networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled.core.lazy import importer

_NAMES = {
    "ARCHITECTURES": "architectures",
    "Access": "black_boxes",
    "BlackBox": "black_boxes",
    "CifarResnet": "nets",
    "ConceptCnn": "nets",
    "Endpoint": "black_boxes",
    "Lenet5": "nets",
    "MnistCnn": "nets",
    "ResNet18": "nets",
    "SmallCnn": "nets",
    "StridedCnn": "nets",
    "TradesSmallCnn": "nets",
    "load_model": "load",
}

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


__getattr__ = importer(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
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
