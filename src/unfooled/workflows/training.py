"""Train a network, with data, architecture, loss and checkpoint given as names or files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from unfooled.core.goals import answered, read_logits
from unfooled.core.limits import Limits, allowing
from unfooled.core.model.batching import batched
from unfooled.core.model.classifier import Classifier
from unfooled.core.threats import Threat
from unfooled.core.types import TrainingLoss
from unfooled.data.dataset import Dataset
from unfooled.data.load import load_dataset
from unfooled.features.corruptions import FIVE, groups, random_group
from unfooled.models.load import load_model
from unfooled.runs.hashes import tensors_hash
from unfooled.runs.spelling import spelled
from unfooled.statistics import intervals
from unfooled.training import Batches, Checkpoint, Epoch, Monitor, Stepping
from unfooled.training import train as epochs_of
from unfooled.training.losses.concepts import takes_rows
from unfooled.training.losses.group_worst import Augmented, GroupWorst
from unfooled.training.progress import initialise_of, memory_of, threat_of
from unfooled.workflows.concepts import Concepts, built, check_buildable, facts_of, learnt, names_of, with_attributes
from unfooled.workflows.errors import BadOption
from unfooled.workflows.losses import LossOptions, make_loss
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import check_file
from unfooled.workflows.purified_losses import baseline_of, behind_of, check_behind
from unfooled.workflows.recipe import Network, Recipe
from unfooled.workflows.records import Partial
from unfooled.workflows.words import size_of, statistics

CHECKPOINTS = (".pt", ".pth", ".ckpt")
DOUBLE_PRECISION = ("64-true", "64")
PLAIN_PRECISION = ("32-true", "32", *DOUBLE_PRECISION)
MAX_HELD_OUT = 1000  # samples at most


class TrainingRecord(Partial):
    """Result of training.

    Attributes:
        out: The checkpoint, which `load_model` reads.
        epochs: Passes over the data in all, those before a resume included.
        loss: The loss.
        threat: Threat model that the network was hardened against. None: none.
        trained: Epochs that this call trained; 0: the checkpoint was already complete.
        held_out_accuracy: Clean accuracy on held-out samples after the last epoch that this call trained.
        stopped: Reason why training ended early. None: it did not.
        attributes: Names of the attributes that were trained; empty unless the loss is one of concepts.
        left_out: Names of those that are constant in the training data, and were left out.
        not_learnt: Attributes whose AUC on held-out samples is below .95, with it.
        head_weights: Weights of the head that are not 0 (above a thousandth of the largest), and all of them, for a
            loss of concepts. None: another loss.
        corruptions: Held-out accuracy under each corruption and under all of them (share right under every
            one), as (value, low, high, n);
            empty unless the loss or the augmentation uses the corruptions.
        purified_accuracy: Clean accuracy of the same samples behind the purifier that the network was trained through.
            None: there is none.
        warnings: Assumptions, one sentence each.
    """

    out: str
    epochs: int
    loss: str
    threat: str | None
    trained: int
    held_out_accuracy: float | None
    stopped: str | None
    attributes: list[str] = Field(default_factory=list)
    left_out: list[str] = Field(default_factory=list)
    not_learnt: dict[str, float] = Field(default_factory=dict)
    head_weights: tuple[int, int] | None = None
    corruptions: dict[str, tuple[float, float, float, int]] = Field(default_factory=dict)
    purified_accuracy: float | None = None
    warnings: list[str] = Field(default_factory=list)


def train(
    data: str | Path | tuple[Any, ...] = "digits",
    loss: str | TrainingLoss = "standard",
    *,
    threat: str | Threat | None = None,
    options: LossOptions = LossOptions(),  # noqa: B008  (frozen)
    network: Network = Network(),  # noqa: B008  (frozen)
    recipe: Recipe = Recipe(),  # noqa: B008  (frozen)
    out: str | Path = "model.pt",
    fresh: bool = False,
    limits: Limits | None = None,
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    progress: Callable[[Epoch], None] | None = None,
) -> TrainingRecord:
    """Train a network, by standard or adversarial training, and save it after every epoch.

    Args:
        data: Source of the data, as `load_dataset` reads it: a name, a path, "package.module:factory" or (x, y).
        loss: Name in `catalog.LOSSES`, or a loss such as `Madry(Linf(0.1))`.
        threat: Threat model that the network is hardened against, where the loss is a name: a `Threat`, or text such as
            "linf:8/255".
        options: Options of the loss, where it is a name.
        network: Architecture, or weights to start from.
        recipe: Epochs, batch, learning rate and the like.
        out: Checkpoint; a second run with the same options continues it.
        fresh: Start again; do not continue `out`.
        limits: Sizes beyond which a file is refused; None: the defaults of `Limits`.
        seed: Random seed.
        machine: The device. Its `batch` is not used: see `recipe`.
        progress: Called after every epoch.

    Returns:
        A `TrainingRecord`; `load_model(record.out)` is the network.

    Raises:
        BadInput: options, data or weights that cannot be used, or a checkpoint that was made with
            other options.

    Example:
        `train(loss="madry", threat="linf:0.15", out="runs/hardened.pt").held_out_accuracy`
    """
    recipe.check()
    statistics(network.mean, network.std)
    check_buildable(network.arch, network.model)
    objective = _objective(loss, threat, options, recipe)
    out = check_file(out, CHECKPOINTS)
    device = machine.prepare(seed)
    if device.startswith("cpu") and str(recipe.precision) in ("16", "16-mixed"):
        raise BadOption("{precision} 16-mixed needs a GPU; on a CPU take bf16-mixed or 32-true")
    if device.startswith("mps") and str(recipe.precision) in DOUBLE_PRECISION:
        raise BadOption("{precision} 64-true needs a CPU or a CUDA device; Apple's GPUs compute in 32 bits at most")
    with allowing(limits):
        loaded = _Work.load(data, network, recipe, seed, device)
        work, objective = loaded.on_rows(objective, data, options.attributes)
    if fresh:
        out.unlink(missing_ok=True)
    trained = []
    for epoch in work.in_precision().epochs(objective, out):
        trained.append(epoch)
        if progress is not None:
            progress(epoch)
    last = trained[-1] if trained else None
    corrupted = isinstance(objective, (Augmented, GroupWorst))
    return TrainingRecord(
        out=str(out),
        epochs=recipe.epochs,
        loss=loss if isinstance(loss, str) else spelled(loss),
        threat=None if threat is None else str(threat),
        trained=len(trained),
        held_out_accuracy=last.accuracy if last else None,
        stopped=last.stopped if last else None,
        **(work.learnt(out, objective) | ({"corruptions": work.corrupted(out)} if corrupted else {})),
    )


def _objective(loss: str | TrainingLoss, threat: str | Threat | None, options: LossOptions, recipe: Recipe) -> Any:
    """Return the loss with its eps ramp and its augmentation by corruptions."""
    if isinstance(loss, str):
        ramp = recipe.epochs / 5 if options.ramp is None else options.ramp
        if ramp > recipe.epochs:
            raise BadOption("{ramp} is {0:g}, more than {epochs}, {1}; eps would never be reached", ramp, recipe.epochs)
        if options.ramp and threat is None:
            raise BadOption(
                "{ramp} raises an adversary's eps, and there is no adversary; leave it out, or give {threat:linf:0.1}"
            )
        objective = make_loss(loss, threat, replace(options, ramp=ramp))
    elif threat is None and options == LossOptions():
        objective = loss
    else:
        raise BadOption("{loss} is an object, which has its own {threat} and options; leave these out")
    memory, corrupted = memory_of(objective), recipe.augment == "corruptions"
    by_place = memory is not None and not memory.by_sample
    if corrupted and (by_place or isinstance(objective, GroupWorst)):
        reason = "repeats each batch" if by_place else "sees all five of them"
        raise BadOption("{loss:{0}} {1}; leave out {augment:corruptions}, or choose another loss", loss, reason)
    if memory is not None and memory.by_sample and (recipe.augment or recipe.processes > 1):
        raise BadOption("{start:warm} recognises unchanged samples in one process; leave out {augment} and {devices}")
    return Augmented(random_group, objective) if corrupted else objective


@dataclass(frozen=True, eq=False)
class _Work:
    """State of a training run, without the loss."""

    data: Dataset
    held_out: Dataset | None
    name: str
    network: Network
    recipe: Recipe
    seed: int
    device: str
    concepts: Concepts | None = None

    @classmethod
    def load(cls, data: Any, network: Network, recipe: Recipe, seed: int, device: str) -> _Work:
        """Load the samples to train on, and the held-out ones."""
        options: dict[str, Any] = {"seed": seed, "size": size_of(recipe.size), "channels": recipe.channels}
        whole = load_dataset(data, split="train", n=recipe.n, shuffle=recipe.n is not None, **options)
        if len(present := torch.unique(whole.y)) < 2:
            raise BadOption("{0} holds samples of one class, {1}; training needs two", whole.name, int(present[0]))
        try:
            held_out: Dataset | None = load_dataset(data, split="test", n=MAX_HELD_OUT, **options)
        except ValueError:
            held_out = None
        if held_out is not None and held_out.split == "all":
            held_out = None  # a source without splits is read whole both times, so these are the training samples
        name = str(data) if isinstance(data, (str, Path)) else f"tensors {tensors_hash(whole.x, whole.y)[:16]}"
        return cls(whole, held_out, name, network, recipe, seed, device)

    def on_rows(self, objective: Any, source: Any, table: str | Path | None) -> tuple[_Work, Any]:
        """Return the work and the loss with labels and attributes by row, unchanged for most; check its purifier."""
        check_behind(objective, self.data.x, self.device)
        if not takes_rows(objective):
            return self, objective
        names = names_of(self.network.model, self.network.arch, trust_pickle=self.network.trust_pickle)
        concepts, objective = with_attributes(objective, self.data, self.held_out, source, table, names=names)
        return replace(self, concepts=concepts), objective

    def learnt(self, out: Path, objective: Any) -> dict[str, Any]:
        """Return the fields of the record about attributes, or about a purifier."""
        if (behind := behind_of(objective)) is not None:
            model = load_model(str(out), self.network.arch, self.device)
            held_out = None if self.held_out is None else (self.held_out.x, self.held_out.y)
            return behind.facts(model, held_out, self.device)
        if self.concepts is None:
            return {}
        held_out_x = None if self.held_out is None else self.held_out.x
        return learnt(self.concepts, held_out_x, out, self.network.arch, self.device)

    @property
    def double(self) -> bool:
        """True if the network is trained in double precision."""
        return str(self.recipe.precision) in DOUBLE_PRECISION

    def in_precision(self) -> _Work:
        """Return the work with samples in double precision, where the network is trained in it."""
        if not self.double:
            return self
        held_out = None if self.held_out is None else replace(self.held_out, x=self.held_out.x.double())
        return replace(self, data=replace(self.data, x=self.data.x.double()), held_out=held_out)

    def epochs(self, objective: Any, out: Path) -> Iterator[Epoch]:
        """Build network and optimiser, and yield the epochs."""
        recipe, x, y = self.recipe, self.data.x, self.data.y
        if self.concepts is not None:
            y = torch.arange(len(y))
        net, about = self._network(objective)
        net = net.double() if self.double else net
        joined, fabric = _in_a_group(), self._fabric()
        rank, world = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
        if fabric is None:
            net.to(self.device)
        shifted = recipe.augment == "shifts" and x.ndim == 4
        crop = max(1, min(x.shape[2:]) // 8) if shifted else 0
        batches = Batches(x, y, recipe.batch, self.seed, flip=shifted, crop=crop, rank=rank, world=world)
        held_out = self.held_out
        yield from epochs_of(
            net,
            batches,
            objective,
            torch.optim.AdamW(net.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay),
            epochs=recipe.epochs,
            seed=self.seed,
            checkpoint=Checkpoint(out, about, self._settings(objective)),
            held_out=None if held_out is None else (held_out.x, held_out.y),
            fabric=fabric,
            stepping=Stepping(clip=5.0, average=recipe.average),
            monitor=self._monitor(objective),
        )
        if fabric is not None:
            fabric.barrier()  # the first process has saved what the others read next
        if _in_a_group() and not joined:  # a process that ends within a group may hang
            torch.distributed.destroy_process_group()

    def _fabric(self) -> Any:
        """Return the processes and the precision; None for one process of single or double precision.

        That one needs no Lightning Fabric, whose import takes longer than the training of a small network.
        """
        recipe = self.recipe
        if recipe.processes == 1 and str(recipe.precision) in PLAIN_PRECISION and not _in_a_group():
            return None
        from lightning_fabric import Fabric

        fabric = Fabric(
            accelerator=self.device.split(":")[0], devices=recipe.devices, num_nodes=recipe.nodes,
            precision=recipe.precision,  # type: ignore[arg-type]
        )  # fmt: skip
        fabric.launch()
        return fabric

    def _network(self, objective: Any) -> tuple[Classifier, dict[str, Any]]:
        """Return the network, and the entries of its checkpoint that `load_model` needs."""
        arch, shape = self.network.arch, tuple(self.data.x.shape[1:])
        mean, std = statistics(self.network.mean, self.network.std)
        k = max(len(self.data.classes or []), int(self.data.y.max()) + 1)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            start = self.network.model or baseline_of(objective, arch)
            net = (
                Classifier(built(arch, shape, k, self.concepts), mean=mean, std=std)
                if start is None
                else load_model(start, arch, self.device, mean=mean, std=std, trust_pickle=self.network.trust_pickle)
            )
            if start is None and (initialise := initialise_of(objective)) is not None:
                initialise(net, None)
        return net, {
            "arch": arch, "input_shape": list(shape), "num_classes": k, "mean": mean, "std": std,
            "classes": self.data.classes,
            **facts_of(self.concepts, self.data.x, None if start is None else net),
        }  # fmt: skip

    def _settings(self, objective: Any) -> dict[str, Any]:
        """Return the settings that must agree for a checkpoint to be continued."""
        recipe, start = self.recipe, self.network.model
        return {
            "data": self.name, "arch": self.network.arch, "loss": spelled(objective), "batch": recipe.batch,
            "epochs": recipe.epochs, "lr": recipe.lr, "weight_decay": recipe.weight_decay,
            "augment": recipe.augment or False, "n": recipe.n, "seed": self.seed, "size": recipe.size,
            "start": None if start is None else str(start), "mean": self.network.mean, "std": self.network.std,
            **({} if recipe.channels is None else {"channels": recipe.channels}),
            **({"average": recipe.average} if recipe.average else {}),
            "watch": 0 if threat_of(objective) is None else recipe.watch,
            **({} if self.concepts is None else {"attributes": tensors_hash(self.concepts.values)}),
        }  # fmt: skip

    def _monitor(self, objective: Any) -> Monitor | None:
        """Return the monitor of catastrophic overfitting; None without an adversary or with `watch` 0."""
        against = threat_of(objective)
        if not self.recipe.watch or against is None:
            return None
        # Without held-out samples, watch training samples: a collapse shows there too.
        watched = self.held_out or self.data
        # Spread over the data, which may be sorted by class.
        rows = torch.linspace(0, len(watched.x) - 1, min(self.recipe.watch, len(watched.x))).long()
        return Monitor(against, watched.x[rows], watched.y[rows], behind=behind_of(objective))

    def corrupted(self, out: Path) -> dict[str, tuple[float, float, float, int]]:
        """Measure held-out accuracy under each of the five corruptions and under all at once, with intervals and n."""
        held_out = self.held_out
        if held_out is None:
            return {}
        model = load_model(str(out), self.network.arch, self.device)
        with torch.no_grad():
            right = torch.stack(
                [_right(model, version, held_out.y, self.device) for version in groups(held_out.x).unbind(1)]
            )  # fmt: skip
        names = [str(getattr(corrupt, "__name__", corrupt)).replace("_", " ") for corrupt in FIVE]
        shares = [intervals.share(row) for row in (*right, right.all(0))]
        return {
            name: (s.value or 0.0, s.low, s.high, s.n) for name, s in zip([*names, "all five"], shares, strict=True)
        }


def _right(model: Classifier, x: Tensor, y: Tensor, device: str) -> Tensor:
    """Return where the label is predicted, (B,) bool."""
    logits = batched(lambda part: read_logits(model, part.to(device)).cpu(), 200)(x)
    return (logits.argmax(1) == y) & answered(logits, y)


def _in_a_group() -> bool:
    """Return whether this process belongs to a group of processes that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
