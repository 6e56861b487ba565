"""Explanations beside Captum's."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from unfooled.explanations import (
    completeness_gap,
    grad_cam,
    grad_cam_map,
    input_x_gradient,
    integrated_gradients,
    saliency,
    smooth_grad,
)
from unfooled.explanations.paths import gauss_legendre, midpoint, right

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # whatever Captum's own imports warn of
    attr = pytest.importorskip("captum.attr", exc_type=ImportError)

pytestmark = pytest.mark.peer
close = torch.testing.assert_close


def case() -> tuple[nn.Sequential, Tensor, Tensor]:
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)]
    net, generator = nn.Sequential(*layers), torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=generator)
    return net.eval(), torch.rand(5, 2, 6, 5, generator=generator), torch.tensor([0, 1, 2, 1, 0])


def test_saliency() -> None:
    net, x, y = case()
    want = attr.Saliency(net).attribute(x.clone().requires_grad_(), target=y, abs=False)
    close(saliency(net, x, y), want.detach(), rtol=1e-5, atol=1e-5)


def test_input_x_gradient() -> None:
    net, x, y = case()
    want = attr.InputXGradient(net).attribute(x.clone().requires_grad_(), target=y)
    close(input_x_gradient(net, x, y), want.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "method"), [(gauss_legendre, "gausslegendre"), (midpoint, "riemann_middle"), (right, "riemann_right")]
)
@pytest.mark.parametrize("per_sample", [False, True])
def test_integrated_gradients(rule: object, method: str, per_sample: bool) -> None:
    net, x, y = case()
    r = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) if per_sample else torch.zeros(1, 2, 6, 5)
    peer = attr.IntegratedGradients(net)
    want, delta = peer.attribute(x, baselines=r, target=y, n_steps=20, method=method, return_convergence_delta=True)
    found = integrated_gradients(net, x, y, baseline=r, steps=20, rule=rule)  # type: ignore[arg-type]
    close(found, want.float(), rtol=1e-5, atol=1e-5)
    change = (net(x) - net(r.expand_as(x))).gather(1, y[:, None])[:, 0].detach()
    close(completeness_gap(net, x, y, found, baseline=r), (delta / change).abs().float(), rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(("layer", "relu"), [("1", True), ("3", True), ("2", False)])
def test_grad_cam(layer: str, relu: bool) -> None:
    net, x, y = case()
    peer = attr.LayerGradCam(net, net.get_submodule(layer))
    want = peer.attribute(x, target=y, relu_attributions=relu).detach()
    close(grad_cam_map(net, x, y, layer=layer, relu=relu).map, want[:, 0], rtol=1e-5, atol=1e-5)
    large = attr.LayerAttribution.interpolate(want, x.shape[2:], interpolate_mode="bilinear")
    # Captum passes align_corners=None, which is False.
    close(grad_cam(net, x, y, layer=layer, relu=relu), large.expand_as(x), rtol=1e-5, atol=1e-5)


def test_smooth_grad_in_the_mean() -> None:
    net, x, y = case()
    x, y = x[:1], y[:1]
    sigma, n = 0.1, 2000
    reach = float(x.max() - x.min())
    torch.manual_seed(0)
    want = attr.NoiseTunnel(attr.Saliency(net)).attribute(
        x.clone().requires_grad_(), nt_type="smoothgrad", nt_samples=n, stdevs=sigma * reach, target=y, abs=False
    )
    noisy = x + sigma * reach * torch.randn(n, 2, 6, 5, generator=torch.Generator().manual_seed(2))
    error = saliency(net, noisy, y.expand(n)).std(0) / n**0.5
    found = smooth_grad(net, x, y, samples=n, sigma=sigma)
    # Two means of n draws each; antithetic pairs only make ours narrower.
    assert ((found - want.detach()).abs()[0] <= 5 * 2**0.5 * error + 1e-6).all()
    assert (found - saliency(net, x, y)).abs().max() > 5 * error.max()
