"""Attention that an attack cannot shift: is incomplete attention vulnerable, and does ARP training resist?

For each data set and seed the networks are trained at equal compute, then

    analysis     of the standard and the PGD-trained network: see `attention_vulnerability`
    comparison   of all networks: see `arp_defence`

A network of one's own, with one's own data, gets the analysis alone. What may be claimed of training is fixed here:

    more robust          the worst case rises over PGD-AT at equal compute, and over every control
    more stable maps     the attack on attention moves less than on PGD-AT, and than with shuffled maps
    seeds                fewer than three prove nothing: claims about training are undecided then; with three, an
                         interval is that over images or over seeds, whichever reaches farther

References:
    Wu et al., ARP, 2018, arXiv:1811.09831. No figure of the paper is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.attacks.ensembles.cascade import NORMAL, QUICK
from unfooled.core.checks import check_labels
from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.model.outputs import ModelFails
from unfooled.core.types import Model
from unfooled.data.boxes import load_boxed, load_cub
from unfooled.data.load import load_dataset
from unfooled.data.made.canvas import load_digits_canvas
from unfooled.data.made.shapes import load_shapes
from unfooled.distances.maps.attention import on_grid
from unfooled.drawing.figures import Picture
from unfooled.evaluation.checks.subject import fingerprint
from unfooled.evaluation.verify import verify
from unfooled.models.load import load_model
from unfooled.runs.chunks import Progress
from unfooled.runs.files import write_whole
from unfooled.runs.hashes import tensors_hash
from unfooled.runs.records import Config, Environment, write_record
from unfooled.runs.units import Units, chosen
from unfooled.statistics import intervals
from unfooled.studies.attention import defence as defence
from unfooled.studies.attention import statistics as st
from unfooled.studies.attention import vulnerability as vulnerability
from unfooled.studies.attention.defence import ARP, BASE, MORE, PAIRED, PLAIN, SHUFFLED, SIX, Judging
from unfooled.studies.attention.pictures import networks
from unfooled.studies.attention.records import Analysed, Crossed, Faithful, Judged, Trained
from unfooled.studies.attention.vulnerability import Effort, Samples
from unfooled.studies.attribution_robustness.networks import PIECES, Arm, Bench, Task
from unfooled.studies.common.figures import Figures, claim, over_seeds
from unfooled.studies.common.records import Claim, StudySummary, array

NAME, TITLE = "attention", "Attention that an attack cannot shift"
SEEDS = 3
"""Fewer prove nothing about training."""


def four_convolutions(shape: Sequence[int], classes: int, *, widths: Sequence[int] = (16, 16, 32, 32)) -> nn.Sequential:
    """Four 3x3 convolutions with batch normalisation, the first and third of stride 2, their mean and a linear layer.

    Of an image of 32x32 the attended map is 8x8. Since the mean is taken before the only linear layer, Grad-CAM's
    weights do not depend on the input: attention is exact, and has no second derivative through them.
    """
    layers: list[nn.Module] = []
    before = shape[0]
    for width, stride in zip(widths, (2, 1, 2, 1), strict=True):
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


@dataclass(frozen=True)
class Scale:
    """How much of it.

    Attributes:
        tasks: data sets; their steps are those of PGD-AT + ARP.
        radii: beside the median distance, of the regression.
        recipes: arms by name.
        inner: steps of PGD in training.
        analysis: of the data. judging: of the networks.
        train_n: training samples; all where None.
    """

    tasks: tuple[Task, ...]
    radii: tuple[float, ...]
    recipes: tuple[str, ...]
    inner: int
    analysis: Effort
    judging: Judging
    train_n: int | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms, with their share of the steps."""
        return defence.arms({name: {**SIX, **MORE}[name] for name in self.recipes}, self.inner)

    def told(self) -> dict[str, Any]:
        """All of it as plain values: a folder made with other sizes is refused."""
        tasks = [{"source": t.source, "eps": t.eps, "steps": t.steps, "batch": t.batch, "lr": t.lr} for t in self.tasks]
        return {
            "tasks": tasks, "radii": list(self.radii), "inner": self.inner, "analysis": vars(self.analysis),
            "arms": [
                {"name": a.name, "share": a.share, "ramp": a.ramp, "loss": str(a.loss(self.tasks[0].threat))}
                for a in self.arms
            ],
            "judging": self.judging.told(), "train_n": self.train_n,
        }  # fmt: skip


def _task(source: str, eps: float, steps: int, **more: Any) -> Task:
    return Task(source, eps, (), (), steps, arch=four_convolutions, lr=5e-3, **more)


RADII = (2 / 255, 4 / 255, 8 / 255)
# Shapes at 4/255: of test images a pilot (standard network, 600 steps, PGD-20) had 99.8 % right when clean, 39 % at
# 1/255, 3 % at 2/255 and none at 4/255: there the standard arm falls wholly, and what stands is owed to training.
# GTSRB at 8/255, the customary radius for such images.
SCALES = {
    "small": Scale(
        (_task("shapes", 4 / 255, 60),), RADII, tuple(SIX), 3,
        Effort(n=120, budget=100, steps=10), Judging(60, QUICK, (1.0,), 10, 1, 10), train_n=2000,
    ),
    "medium": Scale(
        (_task("shapes", 4 / 255, 900), _task("gtsrb", 8 / 255, 900)), RADII, tuple(SIX), 7,
        Effort(n=1000, budget=300, steps=40), Judging(400, NORMAL, (0.3, 3.0), 30, 2, 20),
    ),
    "full": Scale(
        (
            _task("shapes", 2 / 255, 20_000), _task("shapes", 4 / 255, 20_000), _task("shapes", 8 / 255, 20_000),
            _task("digits-canvas", 0.1, 20_000), _task("gtsrb", 8 / 255, 20_000),
        ),
        RADII, (*SIX, *MORE), 10,
        Effort(n=2000, budget=1000, steps=100), Judging(2000, NORMAL, (0.1, 0.3, 1.0, 3.0, 10.0), 50, 10, 50),
    ),
}  # fmt: skip


def study(
    scale: str,
    *,
    out: Path | None = None,
    seeds: Sequence[int] = (0,),
    data: Sequence[str] | None = None,
    model: str | Model | None = None,
    boxes: Path | None = None,
    arch: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    labels: str | Path | Sequence[str] | None = None,
    split: str | None = None,
    n: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    size: Scale | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train, analyse and compare; or analyse a network of one's own.

    Seeds are independent of each other: a folder may be given more of them later.

    Args:
        scale: "small" (shapes), "medium" (shapes and GTSRB; two cores) or "full" (more data, radii and arms; a GPU).
        out: the study's folder; a second start continues it.
        seeds: of weights, training and attacks.
        data: data sets to look at, all of the scale's where None; with a model the one source, as `load_dataset` reads
            it.
        model: a network of one's own, as `load_model` reads it, or a callable: the analysis alone, no training.
        boxes: with a model, a CSV of where the objects are in a folder of images (`load_boxed`); objects of rendered
            data and of CUB are known.
        arch: of that model, as in `load_model`.
        mean: that it expects, likewise.
        std: likewise.
        labels: with a model, its class order, as in `load_dataset`.
        split: with a model, which part of the data; "test" where None.
        n: images that it is asked about; the scale's number where None.
        image_size: with a model, side, or (H, W), that images are resized to, boxes and masks with them.
        size: other sizes than the scale's.
        progress: told what is done.
        command: what reproduces it.

    Returns:
        The `StudySummary`, also written to `out/summary.json`.

    Raises:
        BadInput: no such scale or data set, data that are not there or that the model does not take, options of a
            model without one, or a folder that holds other work.
    """
    if size is None and scale not in SCALES:
        raise BadInput(f"there is no scale {scale!r}; there are {', '.join(SCALES)}")
    size = size or SCALES[scale]
    own = _Own(boxes, arch, mean, std, labels, split, n, image_size)
    if model is not None:
        summary = _own(model, data, own, size, scale, seeds, out, progress, command)
    else:
        if given := [_OTHER.get(name, name) for name, value in vars(own).items() if value is not None]:
            raise BadInput(
                f"{', '.join(given)}: only for a network of your own; give a model and a folder of images with them"
            )
        summary = _trained(data, size, scale, seeds, out, progress, command)
    if out is not None:
        write_record(out / "summary.json", summary)
    return summary


def _trained(
    data: Sequence[str] | None, size: Scale, scale: str, seeds: Sequence[int], out: Path | None,
    progress: Progress | None, command: str,
) -> StudySummary:  # fmt: skip
    some = chosen(list(dict.fromkeys(task.source for task in size.tasks)), data)
    tasks = [task for task in size.tasks if task.source in some]
    config = Config(
        model=f"study {NAME}", data="the scale's", n=size.judging.n, threat="each data set's", seed=0,
        options={"scale": scale, "size": size.told()},
    )  # fmt: skip
    units = Units(out, config, progress)
    found = Found()
    for task in tasks:
        for seed in seeds:
            _one(task, seed, size, units, out, found)
    return summarise(found, size, scale=scale, seeds=seeds, command=command)


@dataclass(frozen=True)
class Found:
    """All units so far."""

    trained: list[Trained] = field(default_factory=list)
    analysed: list[Analysed] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    crossed: list[Crossed] = field(default_factory=list)
    faithful: list[Faithful] = field(default_factory=list)


def _title(task: Task) -> str:
    """What tables call a data set at its radius."""
    return f"{task.source} {255 * task.eps:g}/255"


def _unit(task: Task, seed: int, arm: str) -> str:
    text = f"{task.source}-{255 * task.eps:g}-{seed}-{arm}"
    return "".join(c if c.isalnum() or c in "-." else "_" for c in text)


def known_samples(
    source: str,
    n: int | None = None,
    *,
    split: str = "test",
    size: int | tuple[int, int] | None = None,
    labels: str | Path | Sequence[str] | None = None,
) -> Samples:
    """The samples of a source, with what is known of the object.

    Masks and parts of "shapes", masks of "digits-canvas", the boxes of "cub"; of others nothing.

    Args:
        source: as for `load_dataset`, like all that follow.
        n: how many.
        split: of the source.
        size: side, or (H, W), that images are resized to; masks and parts are averaged to it.
        labels: the class order.
    """
    if source == "cub":
        boxed = load_cub(split, n, size=size, labels=labels)
        return Samples(boxed.data.x, boxed.data.y, boxed.data.classes, boxed.masks)
    held = load_dataset(source, split, n, size=size, labels=labels)
    classes = held.classes or [str(k) for k in range(int(held.y.max()) + 1)]
    kind, _, rho = source.partition(":")  # as `open_source` reads it: a folder may have any name
    mask = parts = None
    drawn = int(held.index.max()) + 1  # the first ones are the same whatever the number
    if kind == "shapes":
        shapes = load_shapes(drawn, split=held.split, rho=float(rho or 0.25))
        mask, parts = shapes.masks["object"][held.index].float(), shapes.parts[held.index].float()
    elif kind == "digits-canvas":
        mask = load_digits_canvas(drawn, split=held.split).masks[held.index].float()
    if mask is not None:
        sides = (held.x.shape[2], held.x.shape[3])
        mask = on_grid(mask, sides)
        parts = None if parts is None else on_grid(parts.flatten(0, 1), sides).unflatten(0, parts.shape[:2])
    return Samples(held.x, held.y, classes, mask, parts)


def _one(task: Task, seed: int, size: Scale, units: Units, out: Path | None, found: Found) -> None:
    """One data set and seed: train all, analyse two, judge all, then each with what was found on the others."""
    arms = {_unit(task, seed, arm.name): arm for arm in size.arms}
    stem = _unit(task, seed, "")[:-1]
    bench = Bench(
        task, list(arms.values()), seed, train_n=size.train_n, folder=None if out is None else out / "networks" / stem
    )
    samples = known_samples(task.source)
    where, points = _title(task), _Points(out, {})

    def trained(unit: str) -> Trained:
        arm = arms[unit]
        net = bench.network(arm.name)
        with torch.inference_mode():
            right = torch.cat([net(part).argmax(1) for part in samples.x.split(500)]) == samples.y
        steps = max(PIECES, round(task.steps * arm.share))
        batches = min(-(-len(bench.train[0]) // task.batch), steps // PIECES)
        return Trained(
            data=where, arm=arm.name, seed=seed, clean=intervals.share(right), loss=str(arm.loss(task.threat)),
            steps=batches * -(-steps // batches), passes={**SIX, **MORE}[arm.name][1](size.inner),
            seconds=round(bench.seconds[arm.name], 1),
        )  # fmt: skip

    def analysed(unit: str) -> Analysed:
        name = arms[unit].name
        return vulnerability.analyse(bench.network(name), samples, size.analysis, data=where, arm=name, seed=seed)

    def judged(unit: str) -> Judged:
        name = arms[unit].name
        row, z = defence.judge(bench.network(name), samples, task.threat, size.judging, data=where, arm=name, seed=seed)
        points.put(unit, z)
        return row

    def crossed(unit: str) -> Crossed:
        name = arms[unit].name
        net, n = bench.network(name), min(size.judging.n, len(samples.x))
        x, y = samples.x[:n], samples.y[:n]
        stands = ~verify(net, x, y, x, task.threat).success
        for other in arms:
            z = points.get(other) if other != unit else None
            if z is not None:
                stands &= ~verify(net, x, y, z, task.threat).success
        return Crossed(data=where, arm=name, seed=seed, kept="".join(str(int(v)) for v in stands))

    def used(unit: str) -> Faithful:
        name = arms[unit].name
        return defence.faithful(bench.network(name), samples, size.judging.n, data=where, arm=name, seed=seed)

    stage = f"{where}, seed {seed}".replace("/", "-")
    found.trained.extend(units.map(f"{stage}: networks", Trained, list(arms), trained))
    both = [unit for unit, arm in arms.items() if arm.name in (PLAIN, BASE)]
    found.analysed.extend(units.map(f"{stage}: analysis", Analysed, both, analysed))
    found.judged.extend(units.map(f"{stage}: attacks", Judged, list(arms), judged))
    found.crossed.extend(units.map(f"{stage}: transfer", Crossed, list(arms), crossed))
    found.faithful.extend(units.map(f"{stage}: faithfulness", Faithful, list(arms), used))


@dataclass(frozen=True)
class _Points:
    """Adversarial points of every network, for the others; in files where there is a folder."""

    out: Path | None
    kept: dict[str, Tensor]

    def put(self, unit: str, z: Tensor) -> None:
        """Keep them."""
        self.kept[unit] = z
        if self.out is not None:
            import io

            buffer = io.BytesIO()
            np.save(buffer, z.numpy())
            write_whole(self.out / "points" / f"{unit}.npy", buffer.getvalue())

    def get(self, unit: str) -> Tensor | None:
        """None where an earlier start's file is gone."""
        if unit not in self.kept and self.out is not None:
            path = self.out / "points" / f"{unit}.npy"
            if path.exists():
                self.kept[unit] = torch.from_numpy(np.load(path))
        return self.kept.get(unit)


@dataclass(frozen=True)
class _Own:
    """What goes with a network of one's own; as in `study`."""

    boxes: Path | None
    arch: str | None
    mean: float | Sequence[float] | None
    std: float | Sequence[float] | None
    labels: str | Path | Sequence[str] | None
    split: str | None
    n: int | None
    image_size: int | tuple[int, int] | None

    def read(self, source: str, n: int) -> Samples:
        """The images, with what is known of the object."""
        split = self.split or "test"
        if self.boxes is None:
            return known_samples(source, n, split=split, size=self.image_size, labels=self.labels)
        found = load_boxed(source, self.boxes, split, n, size=self.image_size, labels=self.labels)
        return Samples(found.data.x, found.data.y, found.data.classes, found.masks)


_OTHER = {"image_size": "image_size (--size)"}


def _fitting(net: Model, samples: Samples, source: str) -> Samples:
    """The samples with a name for every class of the model.

    Raises:
        BadInput: the model does not take them, or has fewer classes.
    """
    if samples.x.ndim != 4:
        raise BadInput(f"{source} has samples of shape {tuple(samples.x.shape[1:])}; attention is of images, (C, H, W)")
    try:
        with torch.inference_mode():
            count = read_logits(net, samples.x[:1]).shape[1]
    except ModelFails as error:
        raise BadInput(f"{error}; resize the images to what it takes (--size), or choose another model") from error
    check_labels(samples.y, len(samples.x), count)
    return replace(samples, classes=[*samples.classes, *(str(k) for k in range(len(samples.classes), count))])


def _own(
    model: str | Model, data: Sequence[str] | None, own: _Own, size: Scale, scale: str,
    seeds: Sequence[int], out: Path | None, progress: Progress | None, command: str,
) -> StudySummary:  # fmt: skip
    """The analysis of a network of one's own."""
    if data is None or len(data) != 1:
        raise BadInput(f"a model needs just one data source beside it, and has {len(data or ())}; give --data once")
    source, effort = data[0], size.analysis if own.n is None else replace(size.analysis, n=own.n)
    net: Model
    if isinstance(model, str) or own.mean is not None or own.std is not None:
        net = load_model(model, own.arch, mean=own.mean, std=own.std)
    else:
        net = model
    samples = _fitting(net, own.read(source, effort.n), source)
    name = model if isinstance(model, str) else getattr(model, "name", "") or type(model).__name__
    config = Config(
        model=str(name), data=source, n=len(samples.x), threat="the median distance", seed=0,
        options={
            "scale": scale, "analysis": vars(effort), "boxes": None if own.boxes is None else str(own.boxes),
            # The file may change under its name.
            **({} if own.boxes is None or samples.mask is None else {"masks": tensors_hash(samples.mask)[:16]}),
        },
        fingerprint=fingerprint(net, samples.x, samples.y),
    )  # fmt: skip
    units = Units(out, config, progress)
    title = Path(source).resolve().name or source  # of a path its last part

    def analysed(unit: str) -> Analysed:
        seed = int(unit.rpartition("-")[2])
        return vulnerability.analyse(net, samples, effort, data=title, arm=Path(str(name)).name, seed=seed)

    # Seeds change attacks alone here, and every one sees the same network: one is enough.
    rows = units.map("analysis", Analysed, [f"own-{seeds[0]}"], analysed)
    return summarise(Found(analysed=rows), size, scale=scale, seeds=seeds[:1], command=command)


def robust(found: Found, data: str, arm: str) -> st.Cases:
    """Whether nothing fooled each image, and how far attention was moved: columns of every seed, images as ids."""
    columns = []
    for row in found.judged:
        if (row.data, row.arm) != (data, arm):
            continue
        text = next((c.kept for c in found.crossed if (c.data, c.arm, c.seed) == (data, arm, row.seed)), None)
        held = {k: array(v) for k, v in row.columns.items()}
        kept = {name: np.array([float(c) for c in bits]) for name, bits in row.kept.items()}
        used = next((f.columns for f in found.faithful if (f.data, f.arm, f.seed) == (data, arm, row.seed)), {})
        said = {k: array(v) for k, v in used.items()}
        if said:
            said["deletion, less"] = said["deletion, elsewhere"] - said["deletion"]
            said["insertion, more"] = said["insertion"] - said["insertion, elsewhere"]
        columns.append(
            {"id": np.arange(row.n, dtype=float), "seed": np.full(row.n, float(row.seed)), **kept, **held, **said,
             "worst": defence.worst(row, text)}
        )  # fmt: skip
    return st.Cases(tuple(columns))


def gap(a: st.Cases, b: st.Cases, name: str) -> tuple[Figures, list[float]]:
    """Mean of a - b over images and the seeds that both have, with its interval; and every seed's."""
    of = {c["seed"][0]: c for c in b.seeds}
    pairs = [(c, of[c["seed"][0]]) for c in a.seeds if c["seed"][0] in of]
    both = st.Cases(tuple({"id": c["id"], "gap": c[name] - d[name]} for c, d in pairs))
    figures = both.figure(st.mean_of("gap"), ("gap",))
    each = [float(np.nanmean(c["gap"])) for c in both.seeds if np.isfinite(c["gap"]).any()]
    return over_seeds(each, figures), each


ROLLED = "PGD-AT + rolled mask"


def training_claims(found: Found, data: str) -> list[Claim]:
    """What ARP gains over PGD-AT and over the controls, and whether over all of them at once."""
    of = {arm: robust(found, data, arm) for arm in (BASE, ARP, SHUFFLED, PAIRED, ROLLED)}
    paper, ours = vulnerability.PAPER, "unfooled"
    worst, held = "worst-case accuracy", "JS divergence, less is better"
    asked = [
        ("worst", ARP, BASE, paper, f"resists more than PGD-AT of equal compute; {worst}"),
        ("worst", ARP, SHUFFLED, ours, f"resists more than the control with shuffled maps; {worst}"),
        ("worst", ARP, PAIRED, ours, f"resists more than the control that pairs logits; {worst}"),
        ("worst", ARP, ROLLED, ours, f"resists more than the control that masks another region; {worst}"),
        ("held: js", BASE, ARP, paper, f"holds attention better under attack than PGD-AT; {held}"),
        ("held: js", SHUFFLED, ARP, ours, f"holds attention better than the control with shuffled maps; {held}"),
        ("complete", ARP, BASE, paper, "has more complete attention than PGD-AT; share of the evidence"),
        (
            "deletion, less", ARP, BASE, ours,
            "has attention that says more of what it uses than PGD-AT; deletion, less than elsewhere",
        ),
    ]  # fmt: skip
    answers = []
    together: dict[str, list[tuple[Figures, int]]] = {"worst": [], "held: js": []}
    for name, a, b, source, says in asked:
        if not (of[a].seeds and of[b].seeds) or any(name not in c for arm in (a, b) for c in of[arm].seeds):
            continue
        figures, each = gap(of[a], of[b], name)
        answers.append(_judged(f"{data}: {ARP} {says}; paired difference.", source, figures, len(each)))
        together.get(name, []).append((figures, len(each)))
    for name, says in (
        ("worst", "resists more than PGD-AT and than every control"),
        ("held: js", "holds attention better under attack than PGD-AT and than shuffled maps"),
    ):
        gaps = np.array([figures for figures, _ in together[name]])
        if len(gaps) > 1:
            value, low, high, n = (float(v) for v in gaps.min(0))  # NaN where one cannot be told
            line = f"{data}: {ARP} {says}; the least of {len(gaps)} differences."
            answers.append(_judged(line, ours, (value, low, high, int(n)), min(k for _, k in together[name])))
    return answers


def _judged(says: str, source: str, figures: Figures, seeds: int) -> Claim:
    """A claim about training: fewer than three seeds decide nothing, and no difference is none."""
    one = claim(says, source, figures, 0.0)
    if seeds < SEEDS or (one.verdict == "holds" and one.low == 0):
        return one.model_copy(update={"verdict": "undecided"})
    return one


def comparison_table(found: Found, data: str) -> list[dict[str, Any]]:
    """A row an arm and seed: accuracy under each attack, and the state of attention."""
    lines = []
    for row in found.judged:
        if row.data != data:
            continue
        one = st.Cases(tuple(c for c in robust(found, data, row.arm).seeds if c["seed"][0] == row.seed))
        text = next((c.kept for c in found.crossed if (c.data, c.arm, c.seed) == (data, row.arm, row.seed)), None)

        def share(bits: str | None) -> float | None:
            return None if bits is None else round(bits.count("1") / max(len(bits), 1), 4)

        columns = one.seeds[0]
        line: dict[str, Any] = {"network": row.arm, "seed": row.seed, "n": row.n}
        line |= {title: share(row.kept[name]) for name, title in (("clean", "clean"), ("Step-LL", "Step-LL alone"))}
        line |= {"cascade": share(row.kept["cascade"])}
        for name in ("attention-guided", "ARP objective"):
            line[f"closed by {name}"] = row.kept["cascade"].count("1") - row.kept[name].count("1")
        line["under transfer alone"] = share(text)
        line["worst case"] = vulnerability.text(one.figure(st.mean_of("worst"), ("worst",)))
        names = {"held: js": "JS under attack, label kept", "held: moved": "moved so", "noise: js": "JS under noise"}
        for name, title in {**names, **vulnerability.PLACES, "entropy": "entropy"}.items():
            line[title] = vulnerability.text(one.figure(st.mean_of(name), (name,))) or None
        line["could not be moved"] = int((np.isnan(columns["held: js"]) & np.isfinite(columns["noise: js"])).sum())
        lines.append(line)
    return lines


def faithfulness_table(found: Found, data: str) -> list[dict[str, Any]]:
    """A row an arm: does its attention say what it uses, and what it learned?"""
    lines = []
    for arm in dict.fromkeys(row.arm for row in found.faithful if row.data == data):
        rows = [row for row in found.faithful if (row.data, row.arm) == (data, arm)]
        of = robust(found, data, arm)
        line: dict[str, Any] = {"network": arm, "seeds": len(rows)}
        for name in (*defence.FAITHFUL, "deletion, less", "insertion, more"):
            line[name] = vulnerability.text(of.figure(st.mean_of(name), (name,))) or None
        for title, k in (("rho, last layer shuffled", 0), ("rho, all shuffled", -1)):
            values = [v for row in rows if row.randomised and (v := row.randomised[k]) is not None]
            line[title] = f"{np.mean(values):.3f}" if values else None
            line[f"{title}, maps"] = sum(row.compared[k] for row in rows if row.compared)
        lines.append(line)
    return lines


def compute_table(found: Found) -> list[dict[str, Any]]:
    """What each network cost, and its clean accuracy on all test samples."""
    return [
        {
            "data": t.data, "network": t.arm, "seed": t.seed, "clean accuracy": t.clean.value, "of": t.clean.n,
            "steps": t.steps, "passes a sample and step": t.passes, "passes, of ARP's": round(_share(found, t), 3),
            "seconds of training": t.seconds, "loss": t.loss,
        }
        for t in found.trained
    ]  # fmt: skip


def _share(found: Found, t: Trained) -> float:
    whole = next(
        (o.steps * o.passes for o in found.trained if (o.data, o.seed, o.arm) == (t.data, t.seed, ARP)), np.nan
    )
    return t.steps * t.passes / whole


def drawn(found: Found, data: str, eps: float) -> Picture | None:
    """All arms in one picture."""
    lines = []
    for arm in dict.fromkeys(row.arm for row in found.judged if row.data == data):
        of = robust(found, data, arm)
        line: dict[str, Any] = {"name": arm}
        names = {"clean": "clean", "cascade": "cascade", "worst case": "worst", "noise": "noise: js",
                 "attention attacked": "held: js"}  # fmt: skip
        for title, name in names.items():
            line[title] = of.figure(st.mean_of(name), (name,))[:3]
        lines.append(line)
    return networks(lines, data, eps) if lines else None


def summarise(found: Found, size: Scale, *, scale: str, seeds: Sequence[int], command: str) -> StudySummary:
    """Tables, claims and pictures from the units alone."""
    tables: dict[str, list[dict[str, Any]]] = {}
    answers: list[Claim] = []
    pictures: list[Picture] = []
    for data in dict.fromkeys(row.data for row in found.analysed):
        groups = [
            [row for row in found.analysed if (row.data, row.arm) == (data, arm)]
            for arm in dict.fromkeys(row.arm for row in found.analysed if row.data == data)
        ]
        together = [row for group in groups for row in group]
        tests: list[dict[str, Any]] = []
        for group in groups:
            some, lines = vulnerability.claims(group)
            answers += some
            tests += lines
        judged = training_claims(found, data)
        answers += judged
        if found.judged:
            tables[f"{data}: training compared"] = comparison_table(found, data)
        if found.faithful:
            tables[f"{data}: does attention say what the network uses"] = faithfulness_table(found, data)
        tables[f"{data}: clean attention"] = vulnerability.state_table(together, size.radii)
        tables[f"{data}: how far attention moves"] = vulnerability.movement_table(together)
        tables[f"{data}: attention beside the margin"] = vulnerability.regression_table(together, size.radii)
        tables[f"{data}: tests of the analysis"] = tests
        eps = next((row.eps for row in found.judged if row.data == data), 0.0)
        picture = drawn(found, data, eps)
        pictures += [] if picture is None else [picture]
        pictures += vulnerability.pictures(together)
    if found.trained:
        tables["Networks at equal compute"] = compute_table(found)
    spent = [r.seconds for rows in (found.trained, found.analysed, found.judged, found.faithful) for r in rows]
    return StudySummary(
        study=NAME, title=TITLE, scale=scale, seeds=list(seeds), seconds=round(sum(spent), 1),
        environment=Environment.here("cpu"), tables=tables, claims=answers, notes=told(answers, found, seeds),
        pictures=pictures, command=command, created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def told(answers: Sequence[Claim], found: Found, seeds: Sequence[int]) -> list[str]:
    """Which of the paper's claims hold here, with their figures; then what the figures do not say."""
    notes = []
    own = [c for c in answers if c.source == vulnerability.PAPER]
    for verdict, says in (
        ("holds", "Of the paper's claims, here hold"),
        ("fails", "Of the paper's claims, here fail"),
        ("undecided", "Of the paper's claims, this study cannot decide"),
    ):
        some = [c for c in own if c.verdict == verdict]
        if some:
            each = "; ".join(f"{c.claim.rstrip('.')} ({_figures(c)})" for c in some)
            notes.append(f"{says} {len(some)} of {len(own)}: {each}.")
    for data in dict.fromkeys(row.data for row in found.judged):
        lines = {
            arm: robust(found, data, arm).figure(st.mean_of("worst"), ("worst",))
            for arm in (BASE, ARP, SHUFFLED, PAIRED)
        }
        each = ", ".join(f"{arm} {vulnerability.text(f)}" for arm, f in lines.items() if np.isfinite(f[0]))
        notes.append(
            f"{data}, worst-case accuracy: {each}. Stated in advance: ARP on PGD-AT within about one point of PGD-AT."
        )
    if found.judged and len(seeds) < SEEDS:
        notes.append(
            f"One network an arm and seed, and {len(seeds)} of the {SEEDS} seeds that a claim about training needs: "
            "these are called undecided. Intervals are over images and say nothing about other seeds."
        )
    return notes + list(NOTES if found.judged else NOTES[:4])


def _figures(c: Claim) -> str:
    return "not measured" if c.value is None else f"{c.value:.3f} [{c.low:.3f}, {c.high:.3f}]"


NOTES = (
    "Only samples that are classified rightly when clean are analysed; nothing is left out for its outcome or its "
    "maps. Undefined completeness (the label has no more evidence than in the image's mean colour) is counted, and "
    "left out of the figures that need it.",
    "Under the predicted class an attack that succeeds changes the class explained, so deviation is built in; the "
    "paper's claims are judged on the fixed class.",
    "Correlation is no cause: what margin and area leave is still confounded by whatever makes an image hard. The "
    "regression of the claims holds classes, too (shrunk); the tables' regressions do not. AUCs are of the samples "
    "that the scores were fitted to.",
    "Intervals are bootstraps over images, of all their seeds at once; frames of one track of a GTSRB test set are not "
    "marked as such, and narrow them. A claim about a network's attention is decided where its interval and Holm's p "
    "over all claims about it agree; with one seed it is about this network alone.",
    "Equal compute means equal forwards and backwards; backwards that end at the attended layer are left out, and "
    "seconds stand beside. Step-LL alone is a single step: it decides nothing.",
    "The worst case is point by point over the cascade, attention-guided attacks and ascent on the ARP objective on "
    "what the cascade left, and the points found on all other networks. Networks, steps and images are smaller than "
    "published: no row here reproduces a row of the paper.",
    "Areas under deletion and insertion compare networks only as differences to the same map rolled by half: less and "
    "more are better. A map that stays what it was when parameters are shuffled does not depend on what was learned.",
)
