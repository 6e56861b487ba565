"""Guarded models: a purifier in front of a model, as one module that attacks and audits can differentiate.

    x -> model(purify(x))

The forward pass is that of `attacks.gradients.Defended`. Other gradients are wrappers around its two parts:
`bpda(guarded.purify, guarded.model, approx)`, `Averaged(guarded, draws)` where the purifier is random, and
`distil(guarded, ...)`.

References:
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420.
    Tramer, Carlini, Brendel, Madry, On adaptive attacks to adversarial example defenses, NeurIPS 2020,
    arXiv:2002.08347.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self

import torch
from torch import Tensor, nn

from unfooled.attacks.gradients.straight_through import Defended
from unfooled.core.errors import BadInput, Unrecordable
from unfooled.core.given import in_precision_of
from unfooled.core.global_rng import same_draws
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.batching import out_of_memory
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.recorded import is_recorded
from unfooled.core.samples import extent, non_finite_rows
from unfooled.core.threats import UNIT
from unfooled.core.types import Model, Purify

SLACK = 1e-6
"""Distance outside the box that counts as rounding."""
ROUNDING = 1e-6
"""Difference of two answers to the same image that kernels without a fixed order make."""
CHECKED = 8
"""Number of images of the first call that are purified twice, to see whether the purifier is random."""
_CALLED: ContextVar[list[Guarded] | None] = ContextVar("called", default=None)


class Guarded(nn.Module):
    """A model behind a purifier: x -> model(purify(x)).

    The purifier stays in eval mode when the module is trained. At the first call, of one image at the next one with
    more, the module checks that the purifier does not write into its input, change a module's mode, return different
    images for the same input (unless `stochastic`), or depend on the other images of the batch; in every call without
    gradients, that it keeps the shape and returns finite values in [0, 1].

    Args:
        model: Any callable to logits, (B, *D) -> (B, K).
        purify: Purifier, x (B, *D) -> x (B, *D), any callable.
        stochastic: True: the purifier draws new random numbers at every call.

    Attributes:
        model: The model.
        purify: The purifier.
        stochastic: True: the purifier is random.

    Cost: 1 forward of each; at the first call 4 more of the purifier, on a few images.
    """

    def __init__(self, model: Model, purify: Purify, *, stochastic: bool = False) -> None:
        super().__init__()
        self.model = model
        self.purify = purify
        self.stochastic = stochastic
        # Modules that the two parts use without registering them; here `frozen` and `evaluating` find them.
        own = set(self.modules())
        self.behind = nn.ModuleList(m for part in (model, purify) for m in modules_of(part) if m not in own)
        self._checked = 0
        self._eval_purifier()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K); inputs of another precision are computed in float32 where all weights have it.

        Raises:
            BadInput: The purifier changes the shape or its input, leaves [0, 1], returns NaN, changes a mode, depends
                on the batch, or is random without `stochastic`.
        """
        if (called := _CALLED.get()) is not None:
            called.append(self)
        x, _ = in_precision_of(self, x)
        if is_recorded() and self.stochastic:
            raise Unrecordable("its purifier is random")
        if self._checked < min(2, len(x)) and not is_recorded():  # one image does not tell what others do to it
            self._check(x)
            self._checked = len(x)
        return Defended(self._purified, self.model)(x)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the model; the purifier stays in eval mode."""
        super().train(mode)
        self._eval_purifier()
        return self

    def _eval_purifier(self) -> None:
        """Put the purifier's own modules into eval mode."""
        shared = {module for root in modules_of(self.model) for module in root.modules()}
        for root in modules_of(self.purify):
            for module in root.modules():
                if module not in shared:
                    module.training = False

    def _purified(self, x: Tensor) -> Tensor:
        """Return the purified input, checked as far as that is cheap."""
        purified = purified_by(self.purify, x)
        check_purified(purified, x, values=not torch.is_grad_enabled() and not is_recorded())
        return purified

    def _check(self, x: Tensor) -> None:
        """Purify a few images twice and refuse a purifier that breaks a rule above; keep the global generator."""
        some = x[:CHECKED].detach()
        with modes_kept(self.modules()), torch.no_grad(), torch.random.fork_rng(devices=[]):
            given = some.clone()
            first = purified_by(self.purify, given)
            if not torch.equal(given.nan_to_num(), some.nan_to_num()):
                raise BadInput("the purifier writes into its input; begin it with x = x.clone()")
            check_purified(first, some)
            own = [value.clone() for value in _buffers(self.purify)]
            again = purified_by(self.purify, some.clone())
        if not all(map(_same, own, _buffers(self.purify))):
            raise BadInput(
                "the purifier changes its own state while it is used, such as a running mean; freeze it: an attack "
                "would move it, too"
            )
        if not self.stochastic and not torch.equal(first, again):
            raise BadInput(
                "the purifier returns different images for the same input; declare it, guard(model, purify, "
                "stochastic=True), so that attacks average its draws"
            )
        # Not the first, the middle or, of four and more, the last image, which reordering or comparing may leave alone.
        one = slice(2 * len(some) // 3, 2 * len(some) // 3 + 1)
        if not self.stochastic and len(some) > 1 and _differ(purified_by(self.purify, some[one].clone()), first[one]):
            raise BadInput(
                "what the purifier makes of an image depends on the other images of its batch, so that no image has an "
                "answer of its own; let it treat each image by itself"
            )
        self._check_with_gradients(some, first)

    def _check_with_gradients(self, some: Tensor, first: Tensor) -> None:
        """Refuse a purifier that returns other images where gradients are computed: attacks would see another one."""
        if self.stochastic or torch.is_inference_mode_enabled() or not some.is_floating_point():
            return
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            try:
                other = self.purify(some.clone().requires_grad_())
            except Exception:  # a purifier without gradients, which is an answer
                return
        if isinstance(other, Tensor) and other.shape == first.shape and _differ(other, first):
            raise BadInput(
                "the purifier returns other images where gradients are computed; an attack would be made on another "
                "purifier: leave out torch.is_grad_enabled()"
            )


def _buffers(purify: Purify) -> list[Tensor]:
    """Return the buffers of a purifier's modules, such as running means."""
    roots = [module for module in modules_of(purify) if isinstance(module, nn.Module)]
    return [value.detach() for root in roots for value in root.buffers()]


def _differ(a: Tensor, b: Tensor) -> bool:
    """Return whether images differ by more than rounding."""
    return bool(((a.detach() - b).abs().nan_to_num(0.0) > 1e-3).any())


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal, NaN included."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def purified_by(purify: Purify, x: Tensor) -> Tensor:
    """Return the purified inputs, and turn an exception inside the purifier into one sentence.

    Args:
        purify: The purifier.
        x: Inputs, (B, *D).

    Raises:
        BadInput: The purifier fails; the message holds its error in one line. Exhausted memory is raised unchanged.
    """
    try:
        return purify(x)
    except (BadInput, MemoryError, Unrecordable):
        raise
    except (Exception, SystemExit) as error:
        if out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(
            f"the purifier fails on samples of shape {tuple(x.shape[1:])}, {x.dtype}, with {type(error).__name__}"
            f"{reason and ': ' + reason}; mend it, or convert what it is given"
        ) from error


def check_purified(purified: Tensor, x: Tensor, *, values: bool = True) -> None:
    """Refuse the output of a purifier that is not a batch of inputs.

    Args:
        purified: Output of the purifier.
        x: Its input, (B, *D).
        values: True: values are checked, too; False: only the shape.

    Raises:
        BadInput: Another shape, dtype or device, NaN or infinite values, or values outside of [0, 1] for inputs in it.
    """
    if not isinstance(purified, Tensor) or purified.shape != x.shape:
        returned = f"shape {tuple(purified.shape)}" if isinstance(purified, Tensor) else f"a {type(purified).__name__}"
        raise BadInput(f"the purifier returns {returned} for inputs of shape {tuple(x.shape)}; it must keep the shape")
    if purified.dtype != x.dtype or purified.device != x.device:
        raise BadInput(
            f"the purifier returns {purified.dtype} on {purified.device} for inputs of {x.dtype} on {x.device}; end it "
            "with .to(x)"
        )
    if not values or not len(x):
        return
    low, high = extent(purified)
    if len(bad := non_finite_rows(x)):
        raise BadInput(f"x holds NaN or infinite values in {len(bad)} samples, the first is sample {int(bad[0])}")
    if not bool(torch.isfinite(torch.tensor([low, high])).all()):
        raise BadInput("the purifier returns NaN or infinite values; mend it where it divides or takes roots")
    least, most = extent(x)
    if least < UNIT.low or most > UNIT.high:  # differences and other checks step out of the box
        return
    if low < UNIT.low - SLACK or high > UNIT.high + SLACK:
        raise BadInput(
            f"the purifier returns values in [{low:.4g}, {high:.4g}]; images lie in [0, 1]: end it with clamp(0, 1)"
        )


def guarded_in(model: Model) -> Guarded | None:
    """Return the `Guarded` that a callable is, or wraps without changing inputs or outputs; None: there is none.

    Args:
        model: Any callable to logits.
    """
    if isinstance(model, Guarded):
        return model
    if isinstance(model, Classifier) and not model.normalises:
        return guarded_in(model.module)
    return None


def contains_guarded(model: Model) -> bool:
    """Return whether a callable contains a `Guarded` at any depth, as far as its modules can be found."""
    return any(isinstance(module, Guarded) for root in modules_of(model) for module in root.modules())


@contextmanager
def noticing_guards() -> Iterator[list[Guarded]]:
    """Collect the guards that are called until the context ends, wherever a model hides them; yield the list."""
    called: list[Guarded] = []
    token = _CALLED.set(called)
    try:
        yield called
    finally:
        _CALLED.reset(token)


@contextmanager
def modes_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Refuse a purifier that changes the mode of a module, and restore the modes.

    Raises:
        BadInput: A mode has changed.
    """
    before = {module: module.training for module in modules}
    try:
        yield
    finally:
        changed = [module for module, mode in before.items() if module.training != mode]
        for module, mode in before.items():
            module.training = mode
    if changed:
        raise BadInput(
            f"the purifier changes the mode of {type(changed[0]).__name__}; leave the modes as they are, or restore "
            "them"
        )


def purified_alike(purify: Purify, *inputs: Tensor) -> tuple[Tensor, ...] | None:
    """Purify several batches with the same random numbers, without gradients.

    Args:
        purify: The purifier.
        inputs: Inputs, (B, *D) each, of one shape.

    Returns:
        The purified inputs; None where a random purifier draws from a generator of its own, which cannot be rewound.
        Cost: one call for each batch, and one more.
    """
    made = []
    for x in (inputs[0], *inputs):
        with torch.no_grad(), same_draws(0):
            made.append(purified_by(purify, x.clone()))
    return tuple(made[1:]) if float((made[0] - made[1]).abs().max()) <= ROUNDING else None


def is_differentiable(purify: Purify, x: Tensor) -> bool:
    """Return whether a purifier passes a gradient on to most images, one that is finite and not zero everywhere.

    Where it does not, attacks need `bpda`, estimated gradients or a twin.

    Args:
        purify: The purifier.
        x: Inputs, (B, *D).
    """
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        leaf = x.detach().clone().requires_grad_()
        try:
            purified = purify(leaf)
            if not purified.requires_grad:
                return False
            weights = torch.randn(purified.shape[1:], generator=torch.Generator().manual_seed(0)).to(purified)
            (g,) = torch.autograd.grad((weights * purified).sum(), leaf, allow_unused=True)
        except BadInput:
            raise
        except (Exception, SystemExit):  # a part of it cannot be differentiated, or refuses inputs that need gradients
            return False
    if g is None or not len(g):
        return False
    g = g.flatten(1) if g.ndim > 1 else g[:, None]
    return bool((g.isfinite().all(1) & (g != 0).any(1)).double().mean() >= 0.5)


def guard(model: Model, purify: Purify, *, stochastic: bool = False) -> Guarded:
    """Put a purifier in front of a model.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        purify: Purifier, x (B, *D) -> x (B, *D), any callable; its modules are put into eval mode.
        stochastic: True: the purifier draws new random numbers at every call.

    Returns:
        A model.

    Raises:
        BadInput: One of the two cannot be called.

    Example:
        >>> model = guard(lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1), lambda x: (x * 7).round() / 7)
        >>> model(torch.tensor([[0.3, 0.2]]))
        tensor([[0.4286, 0.5714]])
    """
    for name, part in (("model", model), ("purify", purify)):
        if not callable(part):
            raise BadInput(f"{name} is a {type(part).__name__}; give a callable")
    return Guarded(model, purify, stochastic=stochastic)
