"""The training loop, as a generator: one record per epoch, and the caller decides what to do with it.

Every step seeds torch's global generator from (seed, epoch, step) and restores it afterwards, so a run that was killed
and resumed ends with the same weights as one that was not, and the caller's random numbers are not affected. A loss may
depend on the progress, request several steps on each batch and keep a memory: see `unfooled.training.progress`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.checks import check_inputs
from unfooled.core.errors import BadInput, option
from unfooled.core.goals import answered
from unfooled.core.model.batching import batched
from unfooled.core.model.modes import evaluating
from unfooled.core.pulse import beat
from unfooled.core.types import TrainingLoss
from unfooled.training.averaging import Average
from unfooled.training.batches import BatchSource
from unfooled.training.checkpoint import Checkpoint
from unfooled.training.monitor import Monitor
from unfooled.training.progress import Memory, loss_at, memory_of, notes_of, replays_of
from unfooled.training.reading import reader_for

SAMPLES_CHECKED = 64
"""Training samples whose answers are looked at after an epoch, where no samples are held out."""


@dataclass(frozen=True)
class Epoch:
    """Record of one epoch.

    Attributes:
        index: Number of the epoch, from 0.
        epochs: Number of epochs in all.
        loss: Mean loss over the samples.
        seconds: Seconds of training, without the time of the monitor and the caller.
        accuracy: Accuracy on the clean held-out samples with the weights after this epoch. None: no samples were given.
        fgsm: Accuracy under one step on the monitor's samples. None: there is no monitor.
        pgd: Accuracy under several steps on the same samples.
        stopped: Reason why training ended early, one sentence. None: it continues, or ended as planned.
        notes: Further quantities that the loss reports, by name, averaged over the samples; empty for most losses.
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
class Stepping:
    """Way in which steps are taken.

    Args:
        schedule: True: vary the learning rate over one cycle (a quarter of the run up, the rest down, linear). False:
            constant.
        clip: Norm to which larger gradients are scaled down. None: no clipping.
        average: Share of the moving average of the weights that a step keeps, such as 0.995; after every epoch the
            model, its figures and the checkpoint have the average. 0: no averaging.
    """

    schedule: bool = True
    clip: float | None = None
    average: float = 0.0


def train(
    model: nn.Module,
    batches: BatchSource,
    loss: TrainingLoss,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    seed: int = 0,
    stepping: Stepping = Stepping(),
    checkpoint: Checkpoint | None = None,
    held_out: tuple[Tensor, Tensor] | None = None,
    fabric: Any = None,
    monitor: Monitor | None = None,
) -> Iterator[Epoch]:
    """Train, yielding after every epoch.

    Args:
        model: Module from unit-box inputs to logits; trained in place, in training mode meanwhile.
        batches: Training samples.
        loss: `(model, x, y) -> scalar`; its memory, where it has one, is emptied first.
        optimizer: Optimiser of the model's parameters; its learning rate is the peak of the schedule.
        epochs: Number of epochs in all, resumed ones included.
        seed: Random seed of everything but the order of the samples.
        stepping: Learning rate over the run, clipping of gradients, and averaging of weights.
        checkpoint: File to save to after every epoch, and to resume from.
        held_out: (x, y) whose clean accuracy each `Epoch` reports (cost: 1 forward).
        fabric: A `lightning_fabric.Fabric` for devices, processes and mixed precision. None: one process on the model's
            device.
        monitor: Test for catastrophic overfitting after every epoch. Where it finds some, the weights from before that
            epoch are restored (except in the first epoch) and training ends.

    Yields:
        One `Epoch` each; epochs restored from a checkpoint are not yielded again.

    Raises:
        BadInput: Samples that cannot be used, a loss that is not finite, a checkpoint made with other settings, or warm
            starts with augmentation or several processes.
    """
    check_inputs(batches.x, batches.y)
    device = next(model.parameters()).device if fabric is None else fabric.device
    memory = _emptied(memory_of(loss), batches)
    average = Average(model, stepping.average) if stepping.average else None
    history = checkpoint.load(model, optimizer, device, memory, average) if checkpoint else []
    if history and history[-1].get("stopped"):
        return
    read = reader_for(model, batches)
    steps = _Steps(model, loss, optimizer, device, epochs, seed, stepping, fabric, read, average)
    for index in range(len(history), epochs):
        started = time.perf_counter()
        before = {k: v.clone() for k, v in model.state_dict().items()} if monitor else None
        mean = steps.epoch(batches, index)
        seconds = time.perf_counter() - started
        accuracies, stopped = _watch(monitor, read(model), history, device, fabric)
        if stopped and index and before is not None:
            model.load_state_dict(before)
        accuracy = _accuracy(read(model), *held_out, device, index) if held_out else None
        if held_out is None:
            _answers(read(model), batches.x[:SAMPLES_CHECKED], None, device, index)
        epoch = Epoch(index, epochs, mean, seconds, accuracy, *accuracies, stopped, notes_of(loss))
        history.append({k: v for k, v in asdict(epoch).items() if k not in ("index", "epochs")})
        if checkpoint and (fabric is None or fabric.is_global_zero):
            ended = stopped or index + 1 == epochs  # neither memory nor average is needed any more
            checkpoint.save(model, optimizer, history, *((None, None) if ended else (memory, average)))
        yield epoch
        if stopped:
            return


class _Steps:
    """Optimiser steps of an epoch, with the values that are the same in all epochs."""

    def __init__(
        self, model: nn.Module, loss: TrainingLoss, optimizer: torch.optim.Optimizer, device: torch.device,
        epochs: int, seed: int, stepping: Stepping, fabric: Any,
        read: Callable[[nn.Module], nn.Module], average: Average | None,
    ) -> None:  # fmt: skip
        for group in optimizer.param_groups:
            group.setdefault("peak", group["lr"])
        self.model, self.loss, self.optimizer, self.device, self.fabric = model, loss, optimizer, device, fabric
        self.epochs, self.seed, self.stepping, self.average = epochs, seed, stepping, average
        parts: tuple[Any, Any] = (model, optimizer) if fabric is None else fabric.setup(model, optimizer)
        self.wrapped, self.stepper = read(parts[0]), parts[1]
        if fabric is not None and _is_mixed(fabric):
            self.wrapped = _Mixed(parts[0], fabric, read)

    def epoch(self, batches: BatchSource, index: int) -> float:
        """Take every step of an epoch, and return the mean loss over the samples."""
        total, seen = 0.0, 0
        if self.average is not None:
            self.average.hide()
        colour = batches.x.ndim == 4 and batches.x.shape[1] > 1
        with _training(self.model, channels_last=colour):
            for i, (x, y) in enumerate(batches(index)):
                if self.stepping.schedule:
                    _set_rate(self.optimizer, (index + i / len(batches)) / self.epochs)
                x, y = x.to(self.device), y.to(self.device)
                loss = loss_at(self.loss, index + (i + 1) / len(batches))
                for replay in range(replays_of(self.loss)):
                    value = self._step(loss, x, y, index, i, replay)
                    total, seen = total + value * len(x), seen + len(x)
        if self.average is not None:
            self.average.show()
        return total / max(seen, 1)

    def _step(self, loss: TrainingLoss, x: Tensor, y: Tensor, index: int, i: int, replay: int) -> float:
        """Take one step, and return the loss before it."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(_step_seed(self.seed, index, i, replay))
            value = loss(self.wrapped, x, y)
        number = float(value.detach())
        if not math.isfinite(number):
            raise BadInput(f"the loss is {number} in epoch {index}; lower the learning rate, {option('lr')}")
        self.optimizer.zero_grad(set_to_none=True)
        value.backward() if self.fabric is None else self.fabric.backward(value)
        if self.stepping.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.stepping.clip)
        self.stepper.step()
        if self.average is not None:
            self.average.update()
        beat(len(x))
        return number


class _Mixed(nn.Module):
    """A model in mixed precision that takes inputs as they are and allows gradients inside a loss.

    Fabric's own wrapper rounds the inputs to 16 bits, which loses most of a small perturbation, and refuses every
    gradient but the last of a step.
    """

    def __init__(self, wrapped: Any, fabric: Any, read: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.inner = read(getattr(wrapped, "_forward_module", wrapped.module))  # synchronises processes
        self.fabric = fabric

    @property
    def full_precision(self) -> nn.Module:
        """The model without mixed precision, for bounds."""
        return self.inner

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, in the precision of x."""
        # Small gradients vanish in float16, and loss scaling covers only training steps: attacks run without autocast.
        with self.fabric.autocast():
            half = torch.get_autocast_dtype(self.fabric.device.type) is torch.float16
            if self.training or not half:
                return self.inner(x).to(x.dtype)
        return self.inner(x)


def _is_mixed(fabric: Any) -> bool:
    """Return whether forward passes of a fabric compute in another precision than the weights have."""
    with fabric.autocast():
        return torch.is_autocast_enabled(fabric.device.type)


def _step_seed(seed: int, epoch: int, step: int, replay: int) -> int:
    """Return the seed of a step; replays of a batch draw anew."""
    first = (seed * 1_000_003 + epoch) * 1_000_003 + step
    return (first + replay * 0x632BE59BD9B4E019) & 0x7FFFFFFFFFFFFFFF


def _emptied(memory: Memory | None, batches: BatchSource) -> Memory | None:
    """Empty the memory; refuse settings with which it would not find its samples again."""
    if memory is None:
        return None
    if batches.world > 1:
        raise BadInput(
            f"this loss keeps perturbations, which several processes do not share; give {option('devices', 1)}"
        )
    if memory.by_sample and (batches.flip or batches.crop):
        raise BadInput(
            "warm starts recognise a sample by its bytes, which augmentation changes; leave it out or use random starts"
        )
    memory.restore({})
    return memory


def _watch(
    monitor: Monitor | None, model: nn.Module, history: list[dict[str, Any]], device: torch.device, fabric: Any
) -> tuple[tuple[float | None, float | None], str | None]:
    """Return the monitor's accuracies, and its sentence where training must end; the first process decides for all."""
    if monitor is None:
        return (None, None), None
    now = monitor.look(model, device)
    stopped = monitor.judge(now, [(h["fgsm"], h["pgd"]) for h in history if h.get("pgd") is not None])
    if stopped:
        end = "training stopped, with the weights from before this epoch" if history else "training stopped"
        stopped = f"{stopped}; {end}"
    return now, stopped if fabric is None else fabric.broadcast(stopped)


@contextmanager
def _training(model: nn.Module, *, channels_last: bool) -> Iterator[None]:
    """Set training mode, and the memory format in which convolutions of colour images are faster; undo both on exit."""
    before = [(module, module.training) for module in model.modules()]
    model.train()
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        if channels_last:  # other programs, such as safetensors, need contiguous tensors
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for module, training in before:
            module.training = training


def _set_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """Follow one cycle: from a tenth of the peak up to it in a quarter of the run, then down to zero."""
    share = 0.1 + 0.9 * progress / 0.25 if progress < 0.25 else (1 - progress) / 0.75
    for group in optimizer.param_groups:
        group["lr"] = share * group["peak"]


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor, device: torch.device, index: int) -> float:
    """Return the accuracy after an epoch; refuse a network that gives no answers in evaluation mode."""
    return int((_answers(model, x, y.cpu(), device, index).argmax(1) == y.cpu()).sum()) / len(x)


@torch.no_grad()
def _answers(model: nn.Module, x: Tensor, y: Tensor | None, device: torch.device, index: int) -> Tensor:
    """Return the logits after an epoch, (B, K); refuse a network that gives no answers in evaluation mode.

    Without labels, y None, every class may be the label: those of a loss of concepts are numbers of rows.
    """
    with evaluating(model):
        logits = batched(lambda part: model(part.to(device)).cpu(), 512)(x)
    if undefined := int((~answered(logits, y)).sum()):
        raise BadInput(
            f"after epoch {index} the network returns NaN or infinite logits for {undefined} of {len(x)} samples; "
            "lower the learning rate (--lr)"
        )
    return logits
