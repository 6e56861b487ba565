"""Contract checks of explanations: `(model, x, y, *, create_graph=False) -> (B, *D)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from unfooled.testing.promises import Snapshot, close, differs_by, name_of, require, require_refusal, run_checks
from unfooled.testing.subjects import conv_net, points, seeded_generator

PROMISES = ("shape", "untouched", "batch", "grad_mode", "derivative", "ignored", "linear", "complete", "refusals")
"""Names of the promises, in the order in which they are checked."""
SHAPE = (2, 6, 5)


def images(n: int = 3, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return small images of two channels, (n, 2, 6, 5), and the classes to explain, (n,)."""
    return points(n, SHAPE, dtype=dtype, seed=1), torch.arange(n) % 3


def check_explanation(
    explain: Callable[..., Tensor],
    *,
    only: Iterable[str] | None = None,
    ignores: bool = False,
    linear: Callable[[Tensor, Tensor], Tensor] | None = None,
    baseline: float | None = None,
    completeness: float = 1e-2,
    differentiable: bool = True,
    device: str = "cpu",
) -> None:
    """Check that an explanation meets the contract of its family, on networks for images of (2, 6, 5).

    Always checked: attributions have x's shape, dtype and device, and are detached unless `create_graph` is given
    ("shape"); x, the model and every global random generator are left unchanged ("untouched"); a sample's attribution
    does not depend on its batch ("batch"), nor on the caller's gradient mode ("grad_mode"); bad input raises ValueError
    ("refusals"). Checked where claimed: "derivative", "ignored", "linear", "complete".

    Args:
        explain: Explanation with its options bound (`functools.partial`); see `core.types.Explain`.
        only: Names of the promises to check, those in quotes above. None: all.
        ignores: Claim that a coordinate that does not affect the model's output gets exactly 0.
        linear: Exact attribution of a linear model, a function of the class's weights and x, (B, *D) each:
            `lambda w, x: w` for a gradient, `lambda w, x: w * x` for input x gradient. None: not claimed.
        baseline: Pixel value of the baseline; attributions sum to f_y(x) - f_y(baseline). None: not claimed.
        completeness: Largest error of that sum, relative to the change of the logit.
        differentiable: Claim that derivatives with `create_graph=True` agree with finite differences, with respect
            to x and to the parameters.
        device: Device to run on.

    Raises:
        AssertionError: One sentence that names the broken promise and the setting.
        ValueError: `only` names no promise.

    Example:
        >>> from unfooled.explanations import saliency
        >>> check_explanation(saliency, ignores=True, linear=lambda w, x: w)
    """
    claims = _Claims(ignores, linear, baseline, completeness, differentiable, device)
    run_checks(_Case(explain, claims).promises(), only, explain)


@dataclass(frozen=True)
class _Claims:
    """Claims of an explanation; see `check_explanation`."""

    ignores: bool
    linear: Callable[[Tensor, Tensor], Tensor] | None
    baseline: float | None
    completeness: float
    differentiable: bool
    device: str


@dataclass(frozen=True)
class _Case:
    """One explanation."""

    explain: Callable[..., Tensor]
    claims: _Claims

    def promises(self) -> dict[str, Callable[[], None]]:
        """Return the checks by name."""
        return {name: getattr(self, name) for name in PROMISES}

    def setting(
        self, activation: Callable[[], nn.Module] = nn.ReLU, n: int = 3, dtype: torch.dtype = torch.float64
    ) -> tuple[nn.Sequential, Tensor, Tensor]:
        x, y = images(n, dtype=dtype)
        device = self.claims.device
        return conv_net(activation, dtype=dtype).to(device), x.to(device), y.to(device)

    def require(self, holds: bool | Tensor, sentence: str, where: str = "a ReLU network, float64") -> None:
        require(holds, f"{name_of(self.explain)} {sentence} ({where})")

    # Promises

    def shape(self) -> None:
        for dtype in (torch.float32, torch.float64):
            net, x, y = self.setting(dtype=dtype)
            attribution = self.explain(net, x, y)
            self.require(isinstance(attribution, Tensor), f"returns a {type(attribution).__name__} instead of a tensor")
            for what in ("shape", "dtype", "device"):
                got, want = getattr(attribution, what), getattr(x, what)
                self.require(got == want, f"returns another {what} than x's: {got} instead of {want}", f"{dtype}")
            self.require(not attribution.requires_grad, "returns a map that still requires a gradient: detach it")
            self.require(attribution.isfinite().all(), "returns NaN or infinite values", f"{dtype}")
            if self.claims.differentiable:
                graph = self.explain(net, x, y, create_graph=True)
                self.require(graph.requires_grad, "returns no graph for create_graph=True")

    def untouched(self) -> None:
        for create_graph in (False, True) if self.claims.differentiable else (False,):
            net, (x, y) = conv_net(nn.ReLU, norm=True).to(self.claims.device), images()
            x, y = x.to(self.claims.device), y.to(self.claims.device)
            net[3].train()  # a convolution, which is the same in either mode
            bias = net[0].bias
            assert isinstance(bias, Tensor)
            bias.requires_grad_(False)
            before = Snapshot(net, x=x, y=y)
            self.explain(net, x, y, **({"create_graph": True} if create_graph else {}))
            before.require_unchanged(self.explain, f"create_graph={create_graph}")

    def batch(self) -> None:
        for dtype in (torch.float32, torch.float64):
            net, x, y = self.setting(n=7, dtype=dtype)
            same = partial(close, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-6)
            whole, order = self.explain(net, x, y), torch.tensor([4, 0, 6, 2, 5, 1, 3], device=x.device)
            self.require(whole.abs().amax() > 0, "is 0 everywhere", f"{dtype}")
            moved = self.explain(net, x[order], y[order])
            self.require(same(moved, whole[order]), "depends on the order of the batch", f"{dtype}")
            alone = torch.cat([self.explain(net, x[i : i + 1], y[i : i + 1]) for i in range(7)])
            apart = differs_by(alone, whole)
            self.require(same(alone, whole), f"explains a sample alone unlike in a batch, by {apart}", f"{dtype}")

    def grad_mode(self) -> None:
        net, x, y = self.setting()
        want = self.explain(net, x, y)
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                attribution = self.explain(net, x.clone(), y.clone())
                self.require(close(attribution, want), f"gives another attribution under torch.{mode.__name__}()")
                holds = torch.is_grad_enabled() == (mode is torch.enable_grad)
                self.require(holds, f"leaves the caller's gradient mode torch.{mode.__name__}() changed")

    def derivative(self) -> None:
        if not self.claims.differentiable:
            return
        net, x, y = self.setting(nn.Softplus, n=2)
        v = torch.randn(x.shape, generator=seeded_generator(2), dtype=x.dtype).to(x.device)
        leaf = x.clone().requires_grad_()
        attribution = self.explain(net, leaf, y, create_graph=True)
        self.require(
            close(attribution.detach(), self.explain(net, x, y)), "gives another attribution with create_graph=True"
        )
        weight = net[2].weight
        assert isinstance(weight, Tensor)
        got, slope = torch.autograd.grad((attribution * v).sum(), [leaf, weight], materialize_grads=True)
        self.require(got.abs().max() > 0, "has a derivative of 0 everywhere", "a softplus network, create_graph=True")
        size, h = x[0].numel(), 1e-5
        steps = h * torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *x.shape[1:])
        for i in range(2):
            near = torch.cat([x[i] + steps, x[i] - steps])
            value = (self.explain(net, near, y[i].expand(2 * size)) * v[i]).flatten(1).sum(1)
            want = (value[:size] - value[size:]) / (2 * h)
            self.require(
                close(got[i].flatten(), want, rtol=1e-5, atol=1e-7),
                "has a derivative with respect to x that disagrees with finite differences, by "
                f"{differs_by(got[i].flatten(), want)}",
                "a softplus network, create_graph=True",
            )
        ends = []
        for move in (h, -2 * h):
            with torch.no_grad():
                weight[0, 0, 0, 0] += move
            ends.append((self.explain(net, x, y) * v).sum())
        self.require(
            close(slope[0, 0, 0, 0], (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-7),
            "has a derivative with respect to the parameters that disagrees with finite differences",
            "a softplus network, create_graph=True",
        )

    def ignored(self) -> None:
        if not self.claims.ignores:
            return
        net, x, y = self.setting()

        def blind(z: Tensor) -> Tensor:
            return net(torch.cat([z[:, :1], torch.ones_like(z[:, 1:])], 1))

        attribution = self.explain(blind, x, y)
        self.require(
            (attribution[:, 1] == 0).all(), "gives a coordinate that the model ignores an attribution other than 0"
        )
        self.require((attribution[:, 0] != 0).any(), "gives 0 to every coordinate that the model reads")

    def linear(self) -> None:
        if self.claims.linear is None:
            return
        x, y = (t.to(self.claims.device) for t in images(4))
        w = torch.randn(3, x[0].numel(), generator=seeded_generator(0), dtype=x.dtype).to(x.device)
        attribution, want = (
            self.explain(lambda z: z.flatten(1) @ w.T + 7, x, y),
            self.claims.linear(w[y].reshape(x.shape), x),
        )
        self.require(
            close(attribution, want), f"misses the exact answer by {differs_by(attribution, want)}", "a linear model"
        )

    def complete(self) -> None:
        if self.claims.baseline is None:
            return
        net, x, y = self.setting(nn.Softplus, n=5)
        total = self.explain(net, x, y).flatten(1).sum(1)
        with torch.no_grad():
            change = (net(x) - net(torch.full_like(x, self.claims.baseline))).gather(1, y[:, None])[:, 0]
        gap = float(((total - change).abs() / change.abs()).max())
        self.require(
            gap <= self.claims.completeness,
            f"is not complete: attributions miss the change of the logit by up to {gap:.3g} of it",
            f"a softplus network, baseline {self.claims.baseline:g}",
        )

    def refusals(self) -> None:
        net, x, y = self.setting()
        for what, samples, labels in (
            ("a label above the last class", x, y + 1),
            ("fewer labels than samples", x, y[:2]),
            ("NaN in x", x * torch.nan, y),
            ("x of whole numbers", (x * 255).byte(), y),
        ):
            require_refusal(partial(self.explain, net, samples, labels), self.explain, what)
