"""Measures of edits carried to inputs, and their controls.

Delta = g(x') - g(x) is the change that was reached, delta the change that was asked for. Both are divided by each
attribute's switch, its mean logit where it is present minus where it is absent. S: the attributes that delta changes.

    achieved      <Delta, delta> / <delta, delta>              side effect   ||Delta off S|| / ||Delta on S||
    selectivity   ||Delta on S||^2 / ||Delta||^2               validity      the head predicts the target at x'
    noise ratio   ||x' - x|| / ||delta|| (SPECTRA, arXiv:2605.25304); or each length in standard deviations of the data

An edit of every attribute has no side effect by definition: the measures are meant for edits of few. Equal selectivity
of targeted PGD at the same budget would mean that the flip is an ordinary adversarial example.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unfooled.attacks.pgd import pgd
from unfooled.core.errors import BadInput
from unfooled.core.model.batching import batched
from unfooled.core.shapes import flat
from unfooled.core.threats import Threat
from unfooled.counterfactuals.edits import Edit
from unfooled.counterfactuals.head import AffineHead
from unfooled.counterfactuals.pixels import Encode, logits_of
from unfooled.distances.quality import psnr, ssim


@dataclass(frozen=True, eq=False)
class Measures:
    """Measures of edits carried to inputs, (B,) each; NaN where one is not defined.

    Attributes:
        achieved: Share of the edit that was reached, by projection on it; 1: all of it.
        side_effect: Length of the change of the other attributes, divided by that of the edited ones.
        off_target: Length of the change of the other attributes, in units of their switches.
        selectivity: Share of the squared change on the edited attributes.
        valid: The head predicts the target, bool.
        valid_8bit: It still does after rounding to 8 bits, bool.
        distance: l_2 distance of the inputs.
        psnr: Peak signal-to-noise ratio in dB.
        ssim: Structural similarity; NaN for inputs that are not images.
        noise: Noise ratio of SPECTRA, ||x' - x|| / ||delta||: pixels over attribute logits.
        noise_standard: Noise ratio with both lengths in standard deviations of the data; NaN without these.
    """

    achieved: Tensor
    side_effect: Tensor
    off_target: Tensor
    selectivity: Tensor
    valid: Tensor
    valid_8bit: Tensor
    distance: Tensor
    psnr: Tensor
    ssim: Tensor
    noise: Tensor
    noise_standard: Tensor


@torch.no_grad()
def measure(
    encode: Encode,
    head: AffineHead,
    x: Tensor,
    x_new: Tensor,
    edit: Edit,
    *,
    gap: Tensor,
    deviations: tuple[float, Tensor] | None = None,
    batch: int = 256,
) -> Measures:
    """Measure how far inputs realise the edits that were asked for.

    Args:
        encode: Attribute logits of inputs, (b, *D) -> (b, n).
        head: The affine head on these logits.
        x: Inputs before, (B, *D).
        x_new: Inputs after, (B, *D): of `realize_edit`, or of a control.
        edit: The edits that were asked for.
        gap: Switch of each attribute, (n,), see `switches`.
        deviations: Standard deviations in the data, of the inputs' values and of each attribute logit, (n,).
        batch: Samples computed at once.
    """
    if x_new.shape != x.shape or len(edit.delta) != len(x):
        sizes = f"x is {tuple(x.shape)}, x_new {tuple(x_new.shape)}"
        raise BadInput(f"{sizes}, and there are {len(edit.delta)} edits; they must agree")
    read = batched(encode, batch)
    now, target = read(x_new), edit.target.to(x.device)
    rounded = read((x_new * 255).round() / 255)
    scale = gap.to(now)
    reached, asked = (now - read(x)) / scale, edit.delta.to(now) / scale
    on = asked != 0
    along, off = (torch.linalg.vector_norm(reached * mask, dim=1) for mask in (on, ~on))
    distance = torch.linalg.vector_norm(flat(x_new - x), dim=1)
    length = torch.linalg.vector_norm(edit.delta.to(now), dim=1)
    standard = torch.full_like(distance, torch.nan)
    if deviations is not None:
        standard = torch.linalg.vector_norm(edit.delta.to(now) / deviations[1].to(now), dim=1)
        standard = distance / deviations[0] / standard
    return Measures(
        achieved=(reached * asked).sum(1) / asked.square().sum(1),
        side_effect=off / along,
        off_target=off,
        selectivity=along.square() / (along.square() + off.square()),
        valid=logits_of(head, now).argmax(1) == target,
        valid_8bit=logits_of(head, rounded).argmax(1) == target,
        distance=distance,
        psnr=psnr(x_new, x),
        ssim=ssim(x_new, x) if x.ndim == 4 else torch.full_like(distance, torch.nan),
        noise=distance / length,
        noise_standard=standard,
    )


@dataclass(frozen=True)
class AttackSuccess:
    """Share of valid edits, with the threat and the number of steps that it was reached with.

    Attributes:
        value: Share of valid samples.
        n: Number of samples.
        threat: Threat that the points stay in, as text.
        steps: Budget of steps.

    Example:
        >>> from unfooled.core.threats import L2
        >>> print(attack_success(torch.tensor([True, True, False, True]), L2(2.0), 200))
        ASR(l2:2, 200 steps) = 0.75, n = 4
    """

    value: float
    n: int
    threat: str
    steps: int

    def __str__(self) -> str:
        return f"ASR({self.threat}, {self.steps} steps) = {self.value:.2f}, n = {self.n}"


def attack_success(valid: Tensor, threat: Threat, steps: int) -> AttackSuccess:
    """Return the share of valid samples inside a stated threat and step budget.

    Args:
        valid: Validity of each sample, (B,) bool.
        threat: Threat of the points.
        steps: Budget of steps.
    """
    if not len(valid):
        raise BadInput("there are no samples; an attack success rate needs at least one")
    return AttackSuccess(float(valid.float().mean()), len(valid), str(threat), steps)


def random_attributes(edit: Edit, gap: Tensor, *, generator: torch.Generator | None = None) -> Edit:
    """Return edits of the same size, in units of the switches, on random attributes that the edits do not change.

    If an edit leaves fewer attributes unchanged than it changes, some of its own are among them.

    Args:
        edit: The edits.
        gap: Switch of each attribute, (n,), see `switches`.
        generator: Source of random numbers.
    """
    asked = (edit.delta / gap.to(edit.delta)).cpu()
    draws = torch.rand(asked.shape, generator=generator) + (asked != 0)
    places = draws.argsort(1)  # attributes that are left alone come first
    values = asked.gather(1, (asked != 0).to(torch.uint8).argsort(dim=1, descending=True, stable=True))
    moved = torch.zeros_like(asked).scatter(1, places, values)
    return replace(edit, delta=moved.to(edit.delta) * gap.to(edit.delta))


def targeted_pgd(
    encode: Encode,
    head: AffineHead,
    x: Tensor,
    edit: Edit,
    threat: Threat,
    *,
    steps: int = 200,
    stop: bool = False,
    batch: int = 256,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return points of the threat that are predicted as the edits' targets, by plain PGD: the control of all measures.

    Args:
        encode: Attribute logits of inputs, (b, *D) -> (b, n).
        head: The affine head on these logits.
        x: Inputs, (B, *D).
        edit: The edits, of which only the targets are used.
        threat: Constraint set of the result.
        steps: Steps.
        stop: True: stop a sample as soon as the target is predicted; False: take every step.
        batch: Samples computed at once.
        generator: Base seed of the starts.
    """

    def model(z: Tensor) -> Tensor:
        return logits_of(head, encode(z))

    return pgd(
        model, x, edit.target.to(x.device), threat, targeted=True, steps=steps, stop=stop, batch=batch,
        generator=generator,
    )  # fmt: skip
