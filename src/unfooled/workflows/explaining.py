"""Explain a model: maps as arrays and as a picture, clean and under an attack that keeps the label."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.checks import check_mode
from unfooled.core.errors import BadInput, printable
from unfooled.core.goals import answered, read_logits
from unfooled.core.shapes import flat
from unfooled.core.types import Explain
from unfooled.core.unanswered import check_answered
from unfooled.evaluation.explanations.judge import attributions_of
from unfooled.evaluation.explanations.robustness import ExplanationRobustness
from unfooled.report.sections.explained import Explained, compose_explained
from unfooled.runs.chunks import Progress, Rows, Run
from unfooled.runs.hashes import network_hash, tensors_hash
from unfooled.runs.opening import Place
from unfooled.runs.settings import Settings
from unfooled.runs.spelling import spelled
from unfooled.runs.stage_names import StageName
from unfooled.runs.store import Store
from unfooled.workflows import catalog
from unfooled.workflows.backgrounds import with_background
from unfooled.workflows.blocks import shared_run
from unfooled.workflows.choices import with_options
from unfooled.workflows.inputs import Inputs, Loaded
from unfooled.workflows.machine import Machine
from unfooled.workflows.map_attack import AttackedMaps, MapAttack, MapAttackRecord, MapSearch, attack_maps
from unfooled.workflows.places import open_out
from unfooled.workflows.records import Partial
from unfooled.workflows.words import check_choice, choose

SAMPLES_AT_ONCE = 32
CLASSES = ("label", "prediction")
MAX_DRAWN = 16  # samples at most
NO_CLASS = -1
"""Predicted class of a sample without an answer, in maps.npz."""


class ExplanationRecord(Partial):
    """Result of an explanation.

    Attributes:
        model: Name of the model.
        data: Name of the data.
        n: Number of samples.
        method: The explanation.
        of: Class that was explained, "label" or "prediction".
        undefined: Samples whose map holds NaN or infinite values.
        files: Files that were written.
        attack: Result of the attack on the maps, where there was one.
    """

    model: str
    data: str
    n: int
    method: str
    of: str
    undefined: int = 0
    files: list[str]
    attack: MapAttackRecord | None = None


def explain(
    inputs: Inputs,
    *,
    method: str | Explain = "integrated-gradients",
    of: str = "label",
    attack: MapAttack | None = None,
    out: Place = "explanations",
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> ExplanationRecord:
    """Explain a model's decision on each sample, and write maps.npz, report.html and, for images, maps.png.

    Args:
        inputs: Model and data. The data may be one image, or a folder of images without labels; then
            predictions are explained.
        method: Name in `catalog.EXPLANATIONS`, with options as in "lime:samples=1000,ridge=0.01", or an `Explain`.
        of: Class that is explained, "label" or "prediction".
        attack: Attack on the maps; None: none.
        out: Folder, URL or open store.
        seed: Random seed.
        machine: The device, and the processes that share the maps and the attack on them. Its `batch` is not used.
        progress: Called as `(stage, samples done, samples in all)`.

    Returns:
        An `ExplanationRecord`.

    Raises:
        BadInput: options, model or data that cannot be used.
    """
    row = choose(catalog.EXPLANATIONS, method.partition(":")[0], "explanation") if isinstance(method, str) else None
    function: Any = method
    if row is not None and isinstance(method, str):
        function = with_options(catalog.resolve(row.path), method, "method")
    name = method if isinstance(method, str) else spelled(method)
    check_choice(CLASSES, of, "of")
    if attack is not None:
        attack = attack.checked()
    inputs.check()
    store = open_out(out)
    assert store is not None
    device = machine.prepare(seed, shares=True)
    task = _Task(inputs, function, name, of, attack, seed, machine.alone(device))
    work = task.work()
    of, loaded, target, search = work.of, work.loaded, work.target, work.search
    with shared_run(task, work.settings(), machine, SAMPLES_AT_ONCE, store, progress) as (run, _):
        maps, found = work.compute(run)
        undefined = _undefined(maps, name)
        drawing = _Drawing(loaded, maps, target, work.prediction, name, row)
        moved = attack_maps(search, found, seed=seed) if search is not None and found is not None else None
        record = ExplanationRecord(
            model=inputs.model_name, data=inputs.data_name, n=len(loaded.x), method=name, of=of, undefined=undefined,
            files=_written(store, drawing, moved),
            **({} if moved is None else {"attack": moved.record}),
        )  # fmt: skip
        page = _page(store, record, drawing, work.probability, moved, labelled=work.labelled)
    return record.model_copy(update={"files": [*record.files, page]})


@dataclass(frozen=True, eq=False)
class _Work:
    """Samples to be explained, and the classes that are explained."""

    loaded: Loaded
    function: Any
    name: str
    of: str
    labelled: bool
    probability: Tensor
    prediction: Tensor
    target: Tensor
    search: MapSearch | None
    seed: int

    def settings(self) -> dict[str, Any]:
        """Return what identifies the work."""
        model, x = self.loaded.model, self.loaded.x
        answers = tensors_hash(self.probability)
        return {
            "model": network_hash(model) or answers, "data": tensors_hash(x, self.target), "method": self.name,
            "attack": None if self.search is None else {"seed": self.seed, **self.search.settings()},
        }  # fmt: skip

    def compute(self, run: Run) -> tuple[Tensor, ExplanationRobustness | None]:
        """Compute the maps, and what an attack makes of them; None where there is no attack."""
        maps = self.maps(run)
        _undefined(maps, self.name)
        return maps, None if self.search is None else self.search.found(run, self.seed)

    def maps(self, run: Run) -> Tensor:
        """Compute the maps, (B, *D), of the samples that the model answers; NaN for the others."""
        known = ~self.probability.isnan().any(1)
        rows, model = known.nonzero()[:, 0], self.loaded.model

        def work(part: Tensor) -> Rows:
            at = rows[part.to(rows.device)]
            return {"maps": attributions_of(model, self.loaded.x[at], self.target[at], self.function, None)}

        maps = run.map(StageName("maps", self.name), work, len(rows))["maps"].to(self.loaded.x.device)
        if len(rows) == len(known):
            return maps
        every = maps.new_full((len(known), *maps.shape[1:]), torch.nan)
        every[known] = maps
        return every


@dataclass(frozen=True)
class _Task:
    """Explanations to be computed, so that helpers can load what they are of."""

    inputs: Inputs
    function: Any
    name: str
    of: str
    attack: MapAttack | None
    seed: int
    machine: Machine

    def work(self) -> _Work:
        """Load model and data."""
        inputs, device = self.inputs, self.machine.device
        unlabelled = inputs.load_unlabelled(device)
        of = "prediction" if unlabelled is not None else self.of
        loaded = unlabelled or inputs.load(device, seed=self.seed)
        check_mode(loaded.model)
        probability = _probability(loaded)
        known = ~probability.isnan().any(1)
        prediction = probability.argmax(1).where(known, NO_CLASS)
        target = prediction.clamp(min=0) if of == "prediction" else loaded.y
        function = with_background(self.function, loaded.x)
        search = None if self.attack is None else MapSearch.of(loaded, target, function, self.attack)
        return _Work(
            loaded, function, self.name, of, unlabelled is None, probability, prediction, target, search, self.seed
        )

    def loaded(self) -> tuple[Settings, Callable[[Run], object]]:
        """Load model and data in another process."""
        self.machine.prepare(self.seed)
        work = self.work()
        return work.settings(), work.compute


def _probability(loaded: Loaded) -> Tensor:
    """Return the probabilities of the classes, (B, K), NaN without an answer; refuse a model that never answers."""
    with torch.no_grad():
        logits = read_logits(loaded.model, loaded.x, batch=256)
    known = answered(logits)
    if not bool(known.any()):
        check_answered(logits)
    return logits.softmax(1).masked_fill(~known[:, None], torch.nan)


def _page(
    out: Store,
    record: ExplanationRecord,
    drawing: _Drawing,
    probability: Tensor,
    moved: AttackedMaps | None,
    *,
    labelled: bool,
) -> str:
    """Write the page, and return its place: the samples, the answers with their probabilities, and the maps."""

    def plain(value: Tensor) -> Any:
        return value.detach().float().cpu().numpy()

    attacked = None
    if moved is not None:
        says = [sample.status for sample in moved.record.samples]
        attacked = (plain(moved.x_adv), plain(moved.attribution), says)
    found = Explained(
        plain(drawing.loaded.x),
        plain(drawing.loaded.y) if labelled else None,
        plain(probability),
        plain(drawing.target),
        plain(drawing.attribution),
        attacked,
    )
    text = compose_explained(record.model_dump(mode="json"), found, drawing.loaded.classes)
    out.write_whole("report.html", text.encode("utf-8", "replace"))
    return out.place("report.html")


def _undefined(maps: Tensor, name: str) -> int:
    """Return the number of maps that are not finite; refuse an explanation of which all are."""
    undefined = int((~torch.isfinite(flat(maps)).all(1)).sum())
    if undefined == len(maps):
        raise BadInput(f"the explanation {name} holds NaN or infinite values for every sample; choose another method")
    return undefined


@dataclass(frozen=True, eq=False)
class _Drawing:
    """Samples and their maps, to be written and drawn."""

    loaded: Loaded
    attribution: Tensor
    target: Tensor
    prediction: Tensor
    method: str
    row: catalog.Explanation | None


def _written(out: Store, drawing: _Drawing, moved: AttackedMaps | None) -> list[str]:
    """Write the arrays, and for images the picture; return the places of the files."""
    loaded = drawing.loaded
    arrays: dict[str, Any] = {
        "x": loaded.x, "y": loaded.y, "prediction": drawing.prediction, "attribution": drawing.attribution,
    }  # fmt: skip
    if moved is not None:
        arrays |= {"x_adv": moved.x_adv, "attribution_adv": moved.attribution, **moved.arrays}
    plain: dict[str, Any] = {
        name: v.cpu().numpy() if isinstance(v, torch.Tensor) else np.array(v) for name, v in arrays.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **plain)
    files = {"maps.npz": buffer.getvalue()}
    if loaded.x.ndim == 4:
        files["maps.png"] = _picture(drawing, moved)
    for name, data in files.items():
        out.write_whole(name, data)
    return [out.place(name) for name in files]


def _picture(drawing: _Drawing, moved: AttackedMaps | None) -> bytes:
    """Draw inputs above and maps below, clean and under attack; red speaks for, blue against the class explained."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    k = min(len(drawing.target), MAX_DRAWN)
    inputs, maps = [drawing.loaded.x], [drawing.attribution]
    if moved is not None:
        inputs, maps = [*inputs, moved.x_adv], [*maps, moved.attribution]
    figure = Figure(figsize=(max(1.5 * k + 0.3, 3.0), 0.6 + 1.5 * (len(inputs) + len(maps))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(inputs) + len(maps), k, squeeze=False)
    for i in range(k):
        for axis, x in zip(axes[:, i], inputs, strict=False):
            image = x[i].cpu().movedim(0, -1).numpy()
            axis.imshow(image if image.shape[-1] == 3 else image.mean(-1), cmap="gray", vmin=0, vmax=1)
        shown = [m[i].sum(0).nan_to_num(0.0, 0.0, 0.0).cpu().numpy() for m in maps]
        top = max(float(abs(r).max()) for r in shown) or 1.0
        for axis, r in zip(axes[len(inputs) :, i], shown, strict=True):
            axis.imshow(r, cmap=mpl.colormaps["RdBu_r"], vmin=-top, vmax=top)
        for axis, title in zip(axes[:, i], _titles(drawing, moved, i), strict=True):
            axis.set_title(printable(title), fontsize=9, parse_math=False)
            axis.set_axis_off()
    row = drawing.row or catalog.Explanation("")
    figure.suptitle(f"{drawing.method}: {row.legend}", fontsize=10 if k > 1 else 7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _titles(drawing: _Drawing, moved: AttackedMaps | None, i: int) -> list[str]:
    """Return the titles of the pictures of a sample, from the top down."""
    classes = drawing.loaded.classes
    says, why = "no answer", "no map"
    if int(drawing.prediction[i]) != NO_CLASS:
        says, why = f"says {classes[int(drawing.prediction[i])]}", f"why {classes[int(drawing.target[i])]}"
    if moved is None:
        return [says, why]
    sample = moved.record.samples[i]
    return [says, sample.status, why, sample.title]
