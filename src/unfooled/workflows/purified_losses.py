"""Training losses with a purifier: clusters for the latent constraint, and training through a purifier."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.batching import batched
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.encoder import INPUT, Encoder, root_of
from unfooled.core.model.precision import weight_kinds
from unfooled.core.types import Purify, TrainingLoss
from unfooled.models.architectures import architectures_of
from unfooled.purification.guard import Guarded, guard, is_differentiable
from unfooled.purification.semantic import SemanticPurifier
from unfooled.runs.hashes import code_hashes, content_hash, tensors_hash, weights_hash
from unfooled.runs.spelling import spelled
from unfooled.training import LatentClusters, Through
from unfooled.training.progress import base_of
from unfooled.workflows.errors import BadOption
from unfooled.workflows.guarding import CHECKED, Purifier, check_purifier, read_purifier, tried

NO_GRADIENT = (
    "The purifier passes no gradient on to its input: training attacked the network behind it with the gradient of the "
    "identity."
)


@dataclass
class Behind:
    """A function that puts a purifier in front of a network, as a training loss needs it.

    Where the purifier passes no gradient on to its input, the inner attack gets that of the identity.

    Args:
        content: Text that changes with the purifier, by which a checkpoint is recognised.
        purify: The purifier.
    """

    content: str
    purify: Purify = field(repr=False)
    differentiable: bool | None = field(default=None, init=False, repr=False)

    def __call__(self, model: nn.Module) -> Guarded:
        """Return the network behind the purifier."""
        # A random purifier may draw anew at every step; whether it does makes no difference to training.
        return guard(model, self.purified, stochastic=True)

    def purified(self, x: Tensor) -> Tensor:
        """Return the purified inputs, with a gradient."""
        _move(self.purify, x.device)
        if self.differentiable is None:
            self.differentiable = is_differentiable(self.purify, x[:2])
        if self.differentiable or not x.requires_grad:
            return self.purify(x)
        with torch.no_grad():
            made = self.purify(x.detach().clone())
        return made + (x - x.detach())

    def facts(self, model: nn.Module, held_out: tuple[Tensor, Tensor] | None, device: str) -> dict[str, Any]:
        """Return the fields of a training's record about the purifier: accuracy behind it, and warnings.

        Args:
            model: The trained network.
            held_out: Held-out samples, (x, y). None: there are none.
            device: Device of the network.
        """
        warnings = [NO_GRADIENT] if self.differentiable is False else []
        if held_out is None:
            return {"warnings": warnings}
        x, y = held_out
        guarded = self(model).eval()
        with torch.no_grad():
            logits = batched(lambda part: read_logits(guarded, part.to(device)).cpu(), 200)(x)
        return {"purified_accuracy": float((logits.argmax(1) == y.cpu()).double().mean()), "warnings": warnings}


@dataclass(frozen=True)
class ClustersOf:
    """Functions of a semantic purifier that `LatentClusters` takes.

    Args:
        content: Text that changes with the purifier, by which a checkpoint is recognised.
        purify: The purifier; its encoder is a layer of the baseline.
    """

    content: str
    purify: SemanticPurifier = field(repr=False, compare=False)

    def assign(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the nearest cluster of each input's class in the baseline's latents, (B,) int64."""
        _move(self.purify.encode, x.device)
        kind = next(weight_kinds(self.purify.encode), x.dtype)  # that of training may be another
        return self.purify.clusters.nearest(self.purify.encode(x.to(kind)), y)

    def latent(self, model: nn.Module, x: Tensor) -> Tensor:
        """Return the latents of a network in training, (B, *F): the layer of the baseline's."""
        own: Any = self.purify.encode
        # Wrappers of several devices and precisions stay around the network, whose layer has a longer name there.
        inner = next((m for m in model.modules() if isinstance(m, Classifier)), model)
        layer = own.layer.removesuffix(INPUT)
        try:
            wanted = root_of(inner).get_submodule(layer)
        except AttributeError:
            raise BadInput(
                f"the purifier was fitted to the layer {layer} of its network, which this network does not have; "
                "start from the network that it was fitted to"
            ) from None
        name = next(name for name, module in root_of(model).named_modules() if module is wanted)
        return Encoder(model, name + own.layer[len(layer) :], own.relu)(x)

    def distance(self, z: Tensor, k: Tensor) -> Tensor:
        """Return the distance of latents to clusters k, (B,)."""
        return self.purify.clusters.mahalanobis(z, k)


def clusters_of(source: Purifier | None) -> dict[str, Callable[..., Tensor]]:
    """Return the arguments of `LatentClusters` that a purifier gives.

    Args:
        source: Folder of a semantic purifier, or the purifier.

    Raises:
        BadOption: None was given, or it has no clusters of the latents of a network's layer.
    """
    if source is None:
        raise BadOption(
            "{loss:latent-clusters} takes its clusters from a purifier; give {purify}, a folder that "
            "`unfooled purify fit` wrote"
        )
    check_purifier(source)
    purify = read_purifier(source)
    if not isinstance(purify, SemanticPurifier) or not isinstance(purify.encode, Encoder):
        raise BadOption(
            "{purify:{0}} has no clusters of a network's layer, which {loss:latent-clusters} needs; give a folder that "
            "`unfooled purify fit` wrote", source if isinstance(source, (str, Path)) else spelled(source),
        )  # fmt: skip
    content = content_hash([tensors_hash(purify.clusters.mean, purify.clusters.precision), weights_hash(purify.encode)])
    own = ClustersOf(content[:16], purify)
    return {"assign": own.assign, "latent": own.latent, "distance": own.distance}


def through(loss: TrainingLoss, source: Purifier) -> Through:
    """Return a loss of the network behind a purifier.

    Args:
        loss: The loss.
        source: The purifier, see `guarding.read_purifier`.
    """
    check_purifier(source)
    purify = read_purifier(source)
    content = f"{spelled(purify)} {weights_hash(purify)[:16]}".strip()
    if code := code_hashes(purify):
        content += f" {content_hash(code)[:16]}"
    if isinstance(purify, SemanticPurifier):
        options = [purify.smooth, purify.sparsity, purify.steps, purify.stride, purify.temperature, purify.coding]
        content = content_hash([weights_hash(purify), tensors_hash(purify.dictionaries), options])[:16]
    return Through(loss, Behind(content, purify))


def behind_of(loss: Any) -> Behind | None:
    """Return the function that puts the purifier of a loss in front of a network; None without a purifier."""
    while loss is not None:
        if isinstance(loss, Through) and isinstance(loss.behind, Behind):
            return loss.behind
        loss = getattr(loss, "loss", None) or base_of(loss)
    return None


def check_behind(loss: Any, x: Tensor, device: str) -> None:
    """Refuse a purifier of a loss that breaks a rule of `Guarded`, before the work begins.

    Args:
        loss: The loss, with or without a purifier.
        x: Samples, (n, *D).
        device: Device of the network.
    """
    behind = behind_of(loss)
    if behind is not None:
        tried(behind.purified, x[:CHECKED].to(device))


def baseline_of(loss: Any, arch: str) -> nn.Module | None:
    """Return a copy of the network whose clusters a loss uses, to start from; None for other losses.

    Args:
        loss: The loss.
        arch: Architecture of the network that is trained.

    Raises:
        BadOption: The network has another architecture.
    """
    loss = getattr(loss, "loss", loss)
    owner = getattr(loss.assign, "__self__", None) if isinstance(loss, LatentClusters) else None
    if not isinstance(owner, ClustersOf):
        return None
    base: Any = owner.purify.encode
    known = architectures_of(root_of(base.model).state_dict())
    if arch not in known:
        sentence = (
            "{loss:latent-clusters} starts from the network that the purifier was fitted to, whose architecture is not "
            "{0}; "
        )
        raise BadOption(sentence + (f"give {{arch:{known[0]}}}" if known else "give the network, {model}"), arch)
    return copy.deepcopy(base.model).requires_grad_(True)


def _move(part: Any, device: torch.device) -> None:
    """Move the networks behind a callable to a device, in place."""
    for module in modules_of(part):
        if isinstance(module, nn.Module):
            module.to(device)
