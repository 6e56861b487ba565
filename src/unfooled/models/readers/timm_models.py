"""Models of the timm library (optional): `timm:NAME`, with its published weights or with your own checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unfooled.core.errors import BadInput, nearest, option
from unfooled.models.readers.loaded import Loaded


def _timm() -> Any:
    """Import timm, or raise an error that names the package to install."""
    try:
        import timm
    except (ImportError, RuntimeError, OSError) as error:  # torchvision of another build fails in all three ways
        raise BadInput(
            "timm: models need the timm extra (pip install -e '.[timm]') and the torchvision that belongs to your "
            f"torch; importing timm failed: {error}"
        ) from error
    return timm


def from_timm(name: str, state: Mapping[str, Tensor] | None = None, *, num_classes: int | None = None) -> Loaded:
    """Build a timm model with its pretrained weights or, if `state` is given, with its sizes and untrained weights.

    Args:
        name: Name of the model, as in `timm.list_models()`, tag included.
        state: Weights that are loaded later, which give the number of classes; nothing is downloaded then. None: the
            published weights.
        num_classes: Number of classes of `state`. None: inferred from its weights.

    Raises:
        BadInput: timm is not installed, has no such model, or its weights are neither stored locally nor can be
            downloaded.
    """
    timm = _timm()
    options: dict[str, Any] = {"pretrained": state is None}
    try:
        if state is not None and num_classes is None:
            head = timm.models.get_pretrained_cfg_value(name, "classifier") or ()
            heads = (head,) if isinstance(head, str) else head
            ends = tuple(f"{h}.weight" for h in heads)
            rows = [
                value.shape[0]
                for key, value in state.items()
                if key in ends or key.endswith(tuple(f".{e}" for e in ends))
            ]
            num_classes = rows[0] if rows else None
        if num_classes is not None:
            options["num_classes"] = num_classes
        module = timm.create_model(name, **options)
    except Exception as error:  # unknown names, no network, a truncated cache: timm has no common base class of errors
        if name.split(".")[0] not in timm.list_models():
            raise BadInput(f"timm has no model {name!r}{nearest(name, timm.list_models())}") from error
        raise BadInput(
            f"timm:{name} could not be built ({type(error).__name__}: {str(error)[:200]}); where its weights cannot be "
            f"fetched, give a checkpoint as the source and {option('arch', f'timm:{name}')}"
        ) from error
    facts = module.pretrained_cfg
    return Loaded(module, name, facts.get("mean"), facts.get("std"), input_shape=facts.get("input_size"))
