"""The training loop, as a generator: one record an epoch, and the caller decides what to do with it.

Every step seeds torch's global generator from (seed, epoch, step) and restores it afterwards, so a run that was killed
and resumed ends with the same weights as one that was not, and the caller's own random numbers are left alone. A loss
may follow the progress, ask for each batch several times and keep a memory: see `unfooled.training.progress`.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.checks import check_inputs
from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.modes import evaluating
from unfooled.core.types import TrainingLoss
from unfooled.runs.files import write_whole
from unfooled.training.monitor import Monitor
from unfooled.training.progress import Memory, loss_at, memory_of, notes_of, replays_of


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Attributes:
        index: counted from 0.
        epochs: how many there will be.
        loss: mean over the samples.
        seconds: of training, without the monitor's and the caller's own work.
        accuracy: on the clean held-out samples, where some were given; of the weights as they are when this is yielded.
        fgsm: the accuracy under one step on the monitor's samples, where one was given.
        pgd: likewise under several.
        stopped: why training ended here, one sentence; None where it goes on, or ended as planned.
        notes: what the loss noted, means over the samples by name; empty for most.
    """

    index: int
    epochs: int
    loss: float
    seconds: float
    accuracy: float | None = None
    fgsm: float | None = None
    pgd: float | None = None
    stopped: str | None = None
    notes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Batches:
    """Samples in a new order every epoch: `batches(epoch)` iterates over (x, y).

    Args:
        x: inputs in the unit box, (N, *D).
        y: labels, (N,).
        size: samples a batch; a last batch of one sample is dropped (batch normalisation cannot use it).
        seed: of the order; the order of an epoch depends on nothing else.
        flip: mirror each image left to right with probability 1/2.
        crop: shift each image by up to this many pixels, edges filled with zeros.
        rank, world: with several processes, this one takes every `world`-th batch slice, from `rank`.
        steps: batches an epoch, so that sets of different size get equal training; all of them where None, or where
            there are fewer.
    """

    x: Tensor
    y: Tensor
    size: int = 128
    seed: int = 0
    flip: bool = False
    crop: int = 0
    rank: int = 0
    world: int = 1
    steps: int | None = None

    def __len__(self) -> int:
        every = max(1, -(-len(self.x) // self.size))
        return every if self.steps is None else min(every, self.steps)

    def __call__(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the batches of an epoch."""
        source = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) & 0x7FFFFFFFFFFFFFFF)
        order = torch.randperm(len(self.x), generator=source)
        for rows in order.split(self.size)[: self.steps]:
            # Augment before sharding, so that a sample looks the same whatever the number of processes.
            x = self._augment(self.x[rows.to(self.x.device)], source)
            x, y = x[self.rank :: self.world], self.y[rows.to(self.y.device)][self.rank :: self.world]
            if len(x) > 1 or len(self.x) == 1:
                yield x, y

    def _augment(self, x: Tensor, source: torch.Generator) -> Tensor:
        if self.flip:
            mirrored = torch.rand(len(x), generator=source).to(x.device) < 0.5
            x = torch.where(mirrored.reshape(-1, *[1] * (x.ndim - 1)), x.flip(-1), x)
        if self.crop:
            h, w = x.shape[-2:]
            padded = nn.functional.pad(x, [self.crop] * 4)
            shift = torch.randint(2 * self.crop + 1, (2, len(x)), generator=source).to(x.device)
            i = (torch.arange(h, device=x.device) + shift[0, :, None])[:, None, :, None]
            j = (torch.arange(w, device=x.device) + shift[1, :, None])[:, None, None, :]
            batch = torch.arange(len(x), device=x.device)[:, None, None, None]
            channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
            x = padded[batch, channel, i, j]
        return x


@dataclass(frozen=True)
class Checkpoint:
    """Where and how training is saved after every epoch.

    Args:
        path: a `.pt` file that `load_model` reads.
        about: what a loader must know, kept beside the weights: arch, input_shape, num_classes, mean, std, classes.
        settings: what must agree for a run to be resumed: loss, data, batch size, seed, ...
    """

    path: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        history: list[dict[str, Any]],
        memory: Memory | None = None,
    ) -> None:
        """Write the state after the epochs in `history`, whole."""
        buffer = io.BytesIO()
        state = {"model": _weights(model).state_dict(), "optimizer": optimizer.state_dict(), "history": history}
        if memory is not None:
            state["memory"] = memory.state()
        torch.save({**self.about, **state, "settings": dict(self.settings)}, buffer)
        write_whole(self.path, buffer.getvalue())

    def load(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        memory: Memory | None = None,
    ) -> list[dict[str, Any]]:
        """Restore model, optimiser and memory; the epochs already trained, an empty list where there is no file."""
        if not self.path.exists():
            return []
        try:
            state = torch.load(self.path, map_location=device, weights_only=True)
            before, now = state["settings"], dict(self.settings)
            changed = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
            if changed:
                k = changed[0]
                raise BadInput(
                    f"{self.path} was trained with {k} = {before.get(k)!r}, now it is {now.get(k)!r}; "
                    "choose another --out, or start again with --fresh"
                )
            _weights(model).load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            if memory is not None:
                memory.restore(state.get("memory", {}))
        except BadInput:
            raise
        except Exception as e:
            raise BadInput(f"{self.path} is no checkpoint to resume from ({e}); choose another --out or --fresh") from e
        return list(state["history"])


def train(
    model: nn.Module,
    batches: Batches,
    loss: TrainingLoss,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    seed: int = 0,
    schedule: bool = True,
    checkpoint: Checkpoint | None = None,
    held_out: tuple[Tensor, Tensor] | None = None,
    fabric: Any = None,
    clip: float | None = None,
    monitor: Monitor | None = None,
) -> Iterator[Epoch]:
    """Train, yielding after every epoch.

    Args:
        model: a module from unit-box inputs to logits; trained in place, in training mode meanwhile.
        batches: the samples.
        loss: `(model, x, y) -> scalar`; its memory, where it has one, is emptied first.
        optimizer: over the model's parameters; its learning rate is the peak of the schedule.
        epochs: how many in all, resumed ones included.
        seed: of everything random but the order of the samples.
        schedule: one cycle (a quarter up, three quarters down, linear); else the rate is constant.
        checkpoint: save after every epoch and resume from what is there.
        held_out: (x, y) whose clean accuracy each `Epoch` reports (cost: 1 forward).
        fabric: a `lightning_fabric.Fabric` for devices, processes and mixed precision; one process on the model's
            device where None.
        clip: largest norm of the gradient.
        monitor: looks for catastrophic overfitting after every epoch. Where it finds it, the weights from before that
            epoch are restored (not in the first epoch, which has none worth restoring) and training ends.

    Yields:
        One `Epoch` each; epochs restored from a checkpoint are not yielded again.

    Raises:
        BadInput: samples that cannot be used, a loss that is not finite, a checkpoint made with other settings, or warm
            starts with augmentation or several processes.
    """
    check_inputs(batches.x, batches.y)
    device = next(model.parameters()).device if fabric is None else fabric.device
    memory = _emptied(memory_of(loss), batches)
    history = checkpoint.load(model, optimizer, device, memory) if checkpoint else []
    if history and history[-1].get("stopped"):
        return
    for group in optimizer.param_groups:
        group.setdefault("peak", group["lr"])
    wrapped, stepper = (model, optimizer) if fabric is None else fabric.setup(model, optimizer)
    colour = batches.x.ndim == 4 and batches.x.shape[1] > 1
    for index in range(len(history), epochs):
        started, losses, seen = time.perf_counter(), 0.0, 0
        good = {k: v.clone() for k, v in model.state_dict().items()} if monitor else None
        with _training(model, channels_last=colour):
            for i, (x, y) in enumerate(batches(index)):
                if schedule:
                    _set_rate(optimizer, (index + i / len(batches)) / epochs)
                x, y = x.to(device), y.to(device)
                now = loss_at(loss, index + (i + 1) / len(batches))
                for replay in range(replays_of(loss)):
                    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                        torch.manual_seed(_seed(seed, index, i, replay))
                        value = now(wrapped, x, y)
                    number = float(value.detach())
                    if not math.isfinite(number):
                        raise BadInput(f"the loss is {number} in epoch {index}; lower the learning rate (--lr)")
                    optimizer.zero_grad(set_to_none=True)
                    value.backward() if fabric is None else fabric.backward(value)
                    if clip is not None:
                        nn.utils.clip_grad_norm_(model.parameters(), clip)
                    stepper.step()
                    losses, seen = losses + number * len(x), seen + len(x)
        seconds = time.perf_counter() - started
        looked, stopped = _look(monitor, model, history, device, fabric)
        if stopped and index and good is not None:
            model.load_state_dict(good)
        accuracy = _accuracy(model, *held_out, device) if held_out else None
        epoch = Epoch(index, epochs, losses / max(seen, 1), seconds, accuracy, *looked, stopped, notes_of(loss))
        history.append({k: v for k, v in asdict(epoch).items() if k not in ("index", "epochs")})
        if checkpoint and (fabric is None or fabric.is_global_zero):
            over = stopped or index + 1 == epochs  # nothing will go on from here
            checkpoint.save(model, optimizer, history, None if over else memory)
        yield epoch
        if stopped:
            return


def _seed(seed: int, epoch: int, step: int, replay: int) -> int:
    """The seed of a step; replays of a batch draw anew."""
    first = (seed * 1_000_003 + epoch) * 1_000_003 + step
    return (first + replay * 0x632BE59BD9B4E019) & 0x7FFFFFFFFFFFFFFF


def _emptied(memory: Memory | None, batches: Batches) -> Memory | None:
    """The memory, as every run begins with it; refuse what would make it forget, or a resumed run another one."""
    if memory is None:
        return None
    if batches.world > 1:
        raise BadInput("this loss keeps perturbations, which several processes do not share; use one (--devices 1)")
    if memory.by_sample and (batches.flip or batches.crop):
        raise BadInput(
            "warm starts know a sample by its bytes, which augmentation changes; leave it out or use random starts"
        )
    memory.restore({})
    return memory


def _look(
    monitor: Monitor | None, model: nn.Module, history: list[dict[str, Any]], device: torch.device, fabric: Any
) -> tuple[tuple[float | None, float | None], str | None]:
    """What the monitor saw, and its sentence where training must end; the first process decides for all."""
    if monitor is None:
        return (None, None), None
    now = monitor.look(model, device)
    stopped = monitor.judge(now, [(h["fgsm"], h["pgd"]) for h in history if h.get("pgd") is not None])
    if stopped:
        end = "training stopped, with the weights from before this epoch" if history else "training stopped"
        stopped = f"{stopped}; {end}"
    return now, stopped if fabric is None else fabric.broadcast(stopped)


def _weights(model: nn.Module) -> nn.Module:
    """What a checkpoint holds: the network itself; its normalisation is data, kept in `about`."""
    return model.module if isinstance(model, Classifier) and isinstance(model.module, nn.Module) else model


@contextmanager
def _training(model: nn.Module, *, channels_last: bool) -> Iterator[None]:
    """Training mode, and the memory format that convolutions of colour images are faster in; undone on exit."""
    before = [(module, module.training) for module in model.modules()]
    model.train()
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        if channels_last:  # other programs, safetensors among them, want rows in order
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for module, training in before:
            module.training = training


def _set_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """One cycle: from a tenth of the peak up to it in a quarter of the run, then down to zero."""
    share = 0.1 + 0.9 * progress / 0.25 if progress < 0.25 else (1 - progress) / 0.75
    for group in optimizer.param_groups:
        group["lr"] = share * group["peak"]


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor, device: torch.device) -> float:
    with evaluating(model):
        pairs = zip(x.split(512), y.split(512), strict=True)
        return sum(int((model(a.to(device)).argmax(1).cpu() == b.cpu()).sum()) for a, b in pairs) / len(x)
