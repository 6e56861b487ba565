"""Semantic counterfactuals of images: which attributes would have to change, and whether pixels can do it."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.checks import check_mode
from unfooled.core.class_names import plain_name
from unfooled.core.errors import nearest
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Threat
from unfooled.counterfactuals.edits import Edit
from unfooled.counterfactuals.measures import attack_success, measure, random_attributes, targeted_pgd
from unfooled.counterfactuals.pixels import Realized, realize_edit, replaced_rows
from unfooled.counterfactuals.records import AttributeFact, CounterfactualRecord
from unfooled.counterfactuals.spaces import AttributeSpace
from unfooled.data.formats.folders import unlabelled_images
from unfooled.evaluation.verify import verify
from unfooled.features.inversion import invert_features
from unfooled.report.sections.counterfactual import compose_counterfactual
from unfooled.runs.chunks import Progress
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment
from unfooled.workflows.attribute_images import AttributeFiles, TableImages, last_layer
from unfooled.workflows.attribute_spaces import attribute_space
from unfooled.workflows.counterfactual_answers import EDIT, PGD, RANDOM, TOLERANCE, Search, Tried, answers
from unfooled.workflows.errors import BadOption
from unfooled.workflows.inputs import Inputs, Loaded
from unfooled.workflows.lime_sources import check_numbers, numbers_of
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import check_folder
from unfooled.workflows.words import at_least, threat_of

BATCH = 64
"""Samples computed at once."""
STAY = 10.0
"""Weight of a change of an attribute that must stay, relative to other changes."""
FILES = ("counterfactual.html", "counterfactual.json", "counterfactual.npz")


def counterfactual(
    inputs: Inputs,
    attributes: str | Path | AttributeFiles,
    *,
    target: str | int | None = None,
    keep: Sequence[str] = (),
    threat: str | Threat = "l2:3",
    steps: int = 200,
    index: str | int | Sequence[int] | None = None,
    out: str | Path = "counterfactual",
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    command: str = "",
    progress: Progress | None = None,
) -> CounterfactualRecord:
    """Find the attributes that would have to change for another class, change the images so, and write the results.

    Args:
        inputs: Model and images, as for `explain`: one image, a folder of images, or a data set.
        attributes: CSV with a column `path` and one for each attribute; the attributes are fitted to its images. With
            the folder that its paths are below: `AttributeFiles(table, images)`.
        target: Class that the changed image shall have, a name or a number. None: the nearest other class.
        keep: Names of attributes that must stay. In pixels, changes of them weigh ten times as much as of others; what
            is left of them is measured, and is flagged above a quarter of a switch.
        threat: Threat in which the changed image lies, such as "l2:3".
        steps: Gradients of each search.
        index: Numbers of the samples, from 0: 3, [0, 3] or "0,3". None: the first `inputs.n`.
        out: Folder for the page, the JSON record and the arrays.
        seed: Random seed.
        machine: The device, and the samples computed at once.
        command: Command line that reproduces the record.
        progress: Called as `(stage, done, total)`.

    Returns:
        A `CounterfactualRecord`. A change that cannot be made is an answer (`outcome`), not an error.

    Raises:
        BadInput: options, model, images or attributes that cannot be used.
    """
    area, rows = threat_of(threat), None if index is None else numbers_of(index, "index")
    at_least("steps", steps, 1)
    inputs = inputs if rows is None else replace(inputs, n=max(rows) + 1)
    inputs.check()
    source = attributes if isinstance(attributes, AttributeFiles) else AttributeFiles(attributes)
    table = TableImages.read(source, inputs.data, keep)
    folder, device = check_folder(out), machine.prepare(seed)
    start = time.perf_counter()
    loaded, items = _loaded(inputs, rows, device, seed)
    wanted = _class_of(target, loaded.classes)
    layer = last_layer(loaded.model, loaded.x[:16], loaded.classes)
    space, kind, cautions = attribute_space(layer, table, inputs, loaded.x, keep, progress)
    work = _Work(loaded, space, area, steps, seed, machine.batch or BATCH, progress)
    tried = work.run(wanted)
    record = CounterfactualRecord(
        model=inputs.model_name, data=inputs.data_name, table=str(source.table), kind=kind, layer=layer.name,
        images=len(table.files), attributes=_facts(space), left_out=_left_out(space, table), threat=str(area),
        steps=steps, seed=seed, tolerance=TOLERANCE, target="" if wanted is None else loaded.classes[wanted],
        results=answers(tried, Search(space, loaded.classes, wanted, area, steps), items), success=work.success(tried),
        warnings=[*loaded.warnings, *cautions, *_unread(space)], seconds=time.perf_counter() - start, command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"), environment=Environment.here(device),
        files=[str(folder / name) for name in FILES],
    )  # fmt: skip
    _write(folder, record, tried)
    return record


def _loaded(inputs: Inputs, rows: list[int] | None, device: str, seed: int) -> tuple[Loaded, list[str]]:
    """Load the model and the images to be changed, and name these."""
    loaded = inputs.load_unlabelled(device)
    files = [] if loaded is None else [file.name for file in unlabelled_images(Path(str(inputs.data)))[: inputs.n]]
    loaded = loaded or inputs.load(device, seed=seed)
    check_mode(loaded.model)
    if loaded.x.ndim != 4:
        raise BadOption("{data} holds samples of shape {0}; give images", tuple(loaded.x.shape[1:]))
    rows = list(range(len(loaded.x))) if rows is None else rows
    check_numbers(rows, len(loaded.x), "index", "samples")
    items = [files[row] if files else f"sample {row}" for row in rows]
    return replace(loaded, x=loaded.x[rows], y=loaded.y[rows]), items


def _class_of(target: str | int | None, classes: Sequence[str]) -> int | None:
    """Return the number of the target class; a name goes before a number, and is read as names of classes are."""
    if target is None:
        return None
    if str(target) in classes and not isinstance(target, int):
        return list(classes).index(str(target))
    if str(target).isdecimal() and int(target) < len(classes):
        return int(target)
    alike = [k for k, name in enumerate(classes) if plain_name(name) == plain_name(str(target))]
    if len(alike) == 1 and not isinstance(target, int):
        return alike[0]
    some = f"; there are {len(classes)}, such as {', '.join(classes[:3])}"
    raise BadOption("{target} is {0!r}, and there is no such class{1}", target, nearest(str(target), classes) or some)


@dataclass(frozen=True, eq=False)
class _Work:
    """Search for edits of images, for the changed images, and for their controls.

    Attributes:
        loaded: The model and the images.
        space: The attributes.
        threat: The threat.
        steps: Gradients of each search.
        seed: Random seed.
        batch: Samples computed at once.
        progress: Called after each search.
    """

    loaded: Loaded
    space: AttributeSpace
    threat: Threat
    steps: int
    seed: int
    batch: int
    progress: Progress | None

    def run(self, wanted: int | None) -> Tried:
        """Return the edits, the images changed accordingly, and the controls."""
        x, space = self.loaded.x, self.space
        with torch.no_grad():
            u = space.encode(x).cpu()
        edit = space.edit(u, wanted)
        predicted = space.head.logits(u).argmax(1)
        self._report(0)
        realized = self._realized(edit)
        self._report(1)
        x_pgd = targeted_pgd(
            space.encode, space.head, x, edit, self.threat, steps=self.steps, batch=self.batch,
            generator=torch.Generator().manual_seed(self.seed),
        )  # fmt: skip
        self._report(2)
        other = self._random(edit)
        points = {EDIT: realized.x, PGD: x_pgd} | ({} if other is None else {RANDOM: self._realized(other).x})
        self._report(3)
        edits = {EDIT: edit, PGD: edit} | ({} if other is None else {RANDOM: other})
        gap = torch.ones(space.head.n)
        measures = {
            name: measure(space.encode, space.head, x, points[name], edits[name], gap=gap, batch=self.batch)
            for name in points
        }
        valid = {name: self._valid(point, edit) for name, point in points.items()}
        with torch.no_grad():
            now = space.encode(realized.x).cpu()
        return Tried(x, u, now, predicted, edit, realized, points, measures, valid, self._slopes(edit))

    def success(self, tried: Tried) -> dict[str, str]:
        """Return the shares of valid changes with their budget, of the images that are not of the target class."""
        rows = (tried.predicted != tried.edit.target).nonzero()[:, 0]
        if not len(rows):
            return {}
        return {name: str(attack_success(valid[rows], self.threat, self.steps)) for name, valid in tried.valid.items()}

    def _report(self, done: int) -> None:
        if self.progress is not None:
            self.progress("counterfactuals", done, 3)

    def _realized(self, edit: Edit) -> Realized:
        """Carry edits into pixels; where no image is found that leaves what must stay, one that may move it."""
        fixed = self.space.usable & self.space.immutable
        units = torch.ones(self.space.head.n)
        units[: len(fixed)][fixed] = 1 / STAY
        first = self._carried(edit, self.loaded.x, units)
        rows = (~first.valid.cpu() & edit.feasible.cpu()).nonzero()[:, 0]
        if not fixed.any() or not len(rows):
            return first
        part = Edit(*(getattr(edit, one.name)[rows] for one in fields(edit)))
        second = self._carried(part, self.loaded.x[rows], torch.ones(self.space.head.n))
        better = second.valid.cpu().nonzero()[:, 0]
        return replaced_rows(first, rows[better], second, better)

    def _carried(self, edit: Edit, x: Tensor, units: Tensor) -> Realized:
        """Carry edits of inputs into pixels.

        Args:
            edit: The edits.
            x: The inputs.
            units: Unit of each coordinate in the search, (m,): a switch, less for attributes that must stay.
        """
        space = self.space
        return realize_edit(
            space.encode, space.head, x, edit, self.threat, invert=invert_features, gap=units, steps=self.steps,
            batch=self.batch,
        )  # fmt: skip

    def _random(self, edit: Edit) -> Edit | None:
        """Return edits of the same size on other attributes that may change; None: there are no others."""
        usable = self.space.free.nonzero()[:, 0]
        if len(usable) < 2:
            return None
        part = replace(edit, delta=edit.delta[:, usable])
        drawn = random_attributes(part, torch.ones(len(usable)), generator=torch.Generator().manual_seed(self.seed))
        delta = torch.zeros_like(edit.delta)
        delta[:, usable] = drawn.delta
        return replace(edit, delta=delta)

    def _valid(self, points: Tensor, edit: Edit) -> Tensor:
        """Return which points lie inside the threat and are predicted as the target, (B,) bool."""
        target = edit.target.to(points.device)
        verdict = verify(
            self.loaded.model, self.loaded.x, target, points, self.threat, targeted=True, batch=self.batch
        )  # fmt: skip
        return (verdict.inside & verdict.success).cpu()

    def _slopes(self, edit: Edit) -> Tensor:
        """Return the gradient of the attribute that changes most, (B, *D)."""
        most = edit.delta[:, : len(self.space.names)].abs().argmax(1).to(self.loaded.x.device)
        parts = []
        with frozen(self.space.encode):
            for z, place in zip(self.loaded.x.split(self.batch), most.split(self.batch), strict=True):
                z = z.detach().clone().requires_grad_()
                parts.append(torch.autograd.grad(self.space.encode(z).gather(1, place[:, None]).sum(), z)[0])
        return torch.cat(parts)


def _facts(space: AttributeSpace) -> list[AttributeFact]:
    """Return the attributes that are not left out."""
    return [
        AttributeFact(
            name=name, auc=float(space.auc[f]), auc_rows=space.auc_rows[f], usable=bool(space.usable[f]),
            kept=bool(space.immutable[f]), switch=float(space.gap[f]),
        )
        for f, name in enumerate(space.names)
        if not space.left_out[f]
    ]  # fmt: skip


def _unread(space: AttributeSpace) -> list[str]:
    """Return what must be said about attributes that must stay and cannot be read."""
    names = [name for f, name in enumerate(space.names) if space.immutable[f] and not space.usable[f]]
    return [f"{', '.join(names)} cannot be read off the network: whether it stays is not known."] if names else []


def _left_out(space: AttributeSpace, images: TableImages) -> list[str]:
    """Return the attributes with too few images of one value in the table."""
    few = [name for f, name in enumerate(space.names) if space.left_out[f]]
    return [name for name in images.table.names if name in few or name not in space.names]


def _write(folder: Path, record: CounterfactualRecord, tried: Tried) -> None:
    """Write the arrays, the record and the page."""
    arrays: dict[str, Any] = {
        "x": tried.x, "x_new": tried.points[EDIT], "x_pgd": tried.points[PGD], "slope": tried.slopes,
        "coordinates": tried.u, "delta": tried.edit.delta,
    }  # fmt: skip
    plain = {name: value.detach().cpu().numpy() for name, value in arrays.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **plain)
    write_whole(folder / FILES[2], buffer.getvalue())
    write_whole(folder / FILES[1], record.model_dump_json(indent=1).encode())
    page = compose_counterfactual(record, plain["x"], plain["x_new"], plain["slope"])
    write_whole(folder / FILES[0], page.encode("utf-8", "replace"))
