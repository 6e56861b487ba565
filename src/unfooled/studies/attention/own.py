"""Analysis of the attention of a user's own network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from unfooled.core.checks import check_labels
from unfooled.core.errors import BadInput, option
from unfooled.core.goals import read_logits
from unfooled.core.model.calls import ModelFails
from unfooled.core.types import Model
from unfooled.data.boxes import load_boxed
from unfooled.models.load import load_model
from unfooled.runs.hashes import fingerprint, tensors_hash
from unfooled.studies.attention.analysis import AnalysisEffort, analyse
from unfooled.studies.attention.records import Analysed, Results
from unfooled.studies.attention.samples import Samples, known_samples
from unfooled.studies.common.run import StudyRun, map_jobs

FLAGS = {"image_size": "size"}
"""Fields whose option has another name."""


@dataclass(frozen=True)
class OwnNetwork:
    """A user's own network, and options for reading its images.

    Args:
        model: Network, as `load_model` reads it, or a callable.
        boxes: CSV with the boxes of the objects in a folder of images (`load_boxed`); objects of rendered data and of
            CUB are known. None: measures that need the object are left out.
        arch: Architecture, as in `load_model`.
        mean: Mean that the network expects, as in `load_model`.
        std: Standard deviation that the network expects, likewise.
        labels: Class order of the network, as in `load_dataset`.
        split: Part of the data; None: "test".
        n: Images that are looked at; None: the scale's number.
        image_size: Side, or (H, W), that images are resized to, boxes and masks with them; None: not resized.
        channels: Channels that images are converted to; None: unchanged.
        trust_pickle: Let the network's file run its code when it is read; None: no.
    """

    model: str | Model | None = None
    boxes: Path | None = None
    arch: str | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    labels: str | Path | Sequence[str] | None = None
    split: str | None = None
    n: int | None = None
    image_size: int | tuple[int, int] | None = None
    channels: int | None = None
    trust_pickle: bool | None = None

    @property
    def name(self) -> str:
        """Name of the network for the record."""
        if isinstance(self.model, str):
            return self.model
        return str(getattr(self.model, "name", "") or type(self.model).__name__)

    def load(self) -> Model:
        """Load the network.

        Raises:
            BadInput: no network, only options of one.
        """
        if self.model is None:
            given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
            names = ", ".join(option(FLAGS.get(name, name)) for name in given)
            raise BadInput(f"{names}: only for a network of your own; give a model and a folder of images with them")
        if isinstance(self.model, str) or self.mean is not None or self.std is not None:
            trust = bool(self.trust_pickle)
            return load_model(self.model, self.arch, mean=self.mean, std=self.std, trust_pickle=trust)
        return self.model

    def samples(self, source: str, n: int) -> Samples:
        """Load images, with what is known of the object."""
        split = self.split or "test"
        if self.boxes is None:
            return known_samples(
                source, n, split=split, size=self.image_size, labels=self.labels, channels=self.channels
            )
        boxed = load_boxed(
            source, self.boxes, split, n, size=self.image_size, labels=self.labels, channels=self.channels
        )
        return Samples(boxed.data.x, boxed.data.y, boxed.data.classes, boxed.masks)


def analyse_own(run: StudyRun, own: OwnNetwork, data: Sequence[str] | None, effort: AnalysisEffort) -> Results:
    """Analyse a user's own network; no network is trained.

    Args:
        run: The run; its first seed is that of the attacks.
        own: The network.
        data: The one source of images.
        effort: Effort of the analysis.

    Raises:
        BadInput: no network, no source or several, or images that the network does not take.
    """
    if own.model is not None and (data is None or len(data) != 1):
        raise BadInput(
            f"a model needs just one data source beside it, and has {len(data or ())}; give {option('data')} once"
        )
    net = own.load()
    source = (data or ("",))[0]
    effort = effort if own.n is None else replace(effort, n=own.n)
    samples = named_classes(net, own.samples(source, effort.n), source)
    settings: dict[str, Any] = {
        "model": own.name, "data": source, **{f"analysis: {k}": v for k, v in vars(effort).items()},
        "boxes": None if own.boxes is None else str(own.boxes),
        **{f"fingerprint: {k}": v for k, v in fingerprint(net, samples.x, samples.y).items()},
    }  # fmt: skip
    if own.boxes is not None and samples.mask is not None:  # hash the content: the file may change and keep its name
        settings["masks"] = tensors_hash(samples.mask)[:16]
    units = run.units(settings, n=len(samples.x))
    title = Path(source).resolve().name or source  # the last part of a path

    def compute(seed: int) -> Analysed:
        return analyse(net, samples, effort, data=title, arm=Path(own.name).name, seed=seed)

    # Seeds change only the attacks here, on the same network: one seed is enough.
    seed = run.seeds[0]
    return Results(analysed=map_jobs(units, "analysis", Analysed, {f"own-{seed}": seed}, compute))


def named_classes(net: Model, samples: Samples, source: str) -> Samples:
    """Return the samples with a name for every class of the model.

    Raises:
        BadInput: the model does not take them, or has fewer classes.
    """
    if samples.x.ndim != 4:
        raise BadInput(f"{source} has samples of shape {tuple(samples.x.shape[1:])}; attention needs images, (C, H, W)")
    try:
        with torch.no_grad():
            count = read_logits(net, samples.x[:1]).shape[1]
    except ModelFails as error:
        raise BadInput(
            f"{error}; resize the images to what it takes, {option('size')}, or choose another model"
        ) from error
    check_labels(samples.y, len(samples.x), count)
    return replace(samples, classes=[*samples.classes, *(str(k) for k in range(len(samples.classes), count))])
