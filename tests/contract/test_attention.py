"""Attention maps: probabilities, per sample, differentiable twice, of convolutional, residual and token networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.explanations import (
    attention,
    attention_image,
    attention_map,
    attention_scores,
    find_spatial_layer,
    grad_cam_map,
)
from unfooled.explanations.attention import probability
from unfooled.explanations.layers import find_spatial


def seeded(net: nn.Module, seed: int = 0, scale: float = 0.3, dtype: torch.dtype = torch.float64) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64).mul_(scale).to(dtype)
    return net.to(dtype).eval()


def conv_net() -> nn.Module:
    head = [nn.Flatten(), nn.Linear(3 * 36, 5), nn.Softplus(), nn.Linear(5, 3)]
    return seeded(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Softplus(), nn.Conv2d(4, 3, 3), nn.Softplus(), *head))


def images(n: int = 3, shape: tuple[int, ...] = (2, 10, 10), seed: int = 1) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.rand(n, *shape, generator=source, dtype=torch.float64), torch.arange(n) % 3


@dataclass
class Output:
    logits: Tensor


class Block(nn.Module):
    """Attention and a linear unit between norms, as in a vision transformer."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.up, self.act, self.down = nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)

    def forward(self, t: Tensor) -> Tensor:
        n = self.norm1(t)
        q, k, v = (part(n)[:, None] for part in (self.query, self.key, self.value))
        t = t + F.scaled_dot_product_attention(q, k, v)[:, 0]
        return t + self.down(self.act(self.up(self.norm2(t))))


class PatchTransformer(nn.Module):
    """A vision transformer with an output that holds `.logits`, like those of Hugging Face."""

    def __init__(self, pool: str = "cls", extra: int = 1, by_convolution: bool = True) -> None:
        super().__init__()
        self.pool, self.by_convolution = pool, by_convolution
        self.patch: nn.Module = nn.Conv2d(2, 6, 2, stride=2) if by_convolution else nn.Linear(8, 6)
        self.first = nn.Parameter(torch.zeros(1, extra, 6))
        self.place = nn.Parameter(torch.zeros(1, 20 + extra, 6))
        self.blocks = nn.ModuleList([Block(6), Block(6)])
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Output:
        patches = F.unfold(x, 2, stride=2).transpose(1, 2)
        t = self.patch(x).flatten(2).transpose(1, 2) if self.by_convolution else self.patch(patches)
        t = torch.cat([self.first.expand(len(x), -1, -1), t], 1) + self.place
        for block in self.blocks:
            t = block(t)
        t = self.norm(t)
        return Output(self.head(t[:, 0] if self.pool == "cls" else t.mean(1)))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.one, self.two, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(x + self.norm(self.two(self.relu(self.one(x)))))
        return self.head(x.mean((2, 3)))


def test_probabilities_that_sum_to_one_and_follow_the_formula() -> None:
    net, (x, y) = conv_net(), images()
    found = attention_map(net, x, y, tau=0.7)
    torch.testing.assert_close(found.p.sum((1, 2)), torch.ones(3, dtype=x.dtype))
    assert found.p.min() > 0
    assert found.p.shape == (3, 6, 6)
    assert not found.flat.any()
    s = attention_scores(net, x, y)
    torch.testing.assert_close(s, found.score)
    torch.testing.assert_close(s, grad_cam_map(net, x, y, relu=False).map)
    for i in range(3):
        z = (s[i] - s[i].mean()) / (s[i].std(unbiased=False) + 1e-6 * s[i].abs().max() + 1e-12)
        torch.testing.assert_close(found.p[i], (z / 0.7).flatten().softmax(0).reshape(6, 6))


def test_conv_gap_linear_is_cam() -> None:
    net = seeded(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))
    x, y = images()
    weight = net[4].weight[y]  # type: ignore[index]
    cam = torch.einsum("bk,bkij->bij", weight, net[:2](x)) / 64  # type: ignore[index]
    torch.testing.assert_close(attention_scores(net, x, y), cam.detach())
    assert find_spatial_layer(net, x) == "1"
    # w does not depend on x: holding it constant changes nothing.
    z = x.clone().requires_grad_()
    for kind in (attention_scores, attention):
        full, held = (kind(net, z, y, create_graph=True, detach_weights=d) for d in (False, True))
        (a,), (b,) = (torch.autograd.grad(v.square().sum(), z) for v in (full, held))
        torch.testing.assert_close(a, b)
        assert a.abs().max() > 0


def test_the_same_for_scaled_and_shifted_scores() -> None:
    s = torch.randn(4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    p, _ = probability(s)
    torch.testing.assert_close(probability(3 * s + 2)[0], p, rtol=1e-4, atol=1e-7)
    assert (probability(3 * s, standardise=False)[0] - probability(s, standardise=False)[0]).abs().max() > 0.01


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("level", [0.0, 1.0, 1e8, -0.1])
def test_flat_maps_are_uniform_and_said_to_be(level: float, standardise: bool) -> None:
    s = torch.full((2, 4, 4), level)
    s[1, 0, 0] += 1 + abs(level)
    s.requires_grad_()
    p, still = probability(s, standardise=standardise)
    assert still.tolist() == [True, False]
    assert (p[0] == 1 / 16).all()
    (g,) = torch.autograd.grad(p.square().sum(), s)
    assert g.isfinite().all()


def test_a_sample_s_map_does_not_depend_on_its_neighbours() -> None:
    net, (x, y) = conv_net(), images(5)
    whole = attention(net, x, y)
    for i in range(5):
        torch.testing.assert_close(attention(net, x[i : i + 1], y[i : i + 1]), whole[i : i + 1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("standardise", [True, False])
def test_second_derivative_equals_finite_differences(standardise: bool) -> None:
    net, (x, y) = conv_net(), images()
    weight = torch.randn(3, 6, 6, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    step = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(4))

    def value(z: Tensor) -> Tensor:
        return (attention(net, z, y, create_graph=True, standardise=standardise) * weight).sum()

    z = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(value(z), z)
    h = 1e-5
    want = (value(x + h * step) - value(x - h * step)) / (2 * h)
    torch.testing.assert_close((g * step).sum(), want.detach(), rtol=1e-6, atol=1e-9)


LAYERS: dict[str, tuple[nn.Module, str]] = {
    "cls": (PatchTransformer("cls"), "blocks.1.value"),
    "registers": (PatchTransformer("cls", extra=5), "blocks.1.value"),
    "mean": (PatchTransformer("mean"), "norm"),
    "residual": (Residual(), "relu@3"),
}


@pytest.mark.parametrize(("net", "layer"), LAYERS.values(), ids=LAYERS.keys())
def test_layer_and_grid_of_residual_and_token_networks(net: nn.Module, layer: str) -> None:
    net = seeded(net)
    x, y = images(shape=(2, 8, 10))
    model = Classifier(net)
    found = attention_map(model, x, y)
    assert found.layer == layer
    assert found.p.shape == (3, 4, 5)
    assert not found.flat.any()
    torch.testing.assert_close(attention(model, x, y, layer=layer), found.p)
    assert find_spatial_layer(net, x) == layer
    for detach in (True, False):
        z = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(attention(model, z, y, create_graph=True, detach_weights=detach)[:, 1, 2].sum(), z)
        assert g.abs().amax((1, 2, 3)).gt(0).all()
    assert not any(m._forward_hooks for m in model.modules())


def test_patch_tokens_lie_where_the_patches_do() -> None:
    """A logit that reads one patch alone: the map's mass is there, and nowhere else."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.tokens = nn.Conv2d(2, 6, 2, stride=2), nn.Identity()
            self.head = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            t = self.patch(x).flatten(2).transpose(1, 2)
            return self.head(self.tokens(torch.cat([0 * t[:, :1], t], 1))[:, 1 + 13])

    x, y = images(shape=(2, 8, 10))
    x[..., 4:6, 6:8] += 50  # the patch (2, 3) = 13
    found = find_spatial(seeded(Reader()), x[:1])
    assert (found.layer, found.grid, found.tokens) == ("tokens", (4, 5), True)
    s = attention_scores(seeded(Reader()), x, y).abs().flatten(1)
    assert s.argmax(1).tolist() == [13, 13, 13]


def test_without_a_patch_convolution_the_grid_is_asked_for() -> None:
    net, (x, y) = seeded(PatchTransformer("mean", by_convolution=False)), images(shape=(2, 8, 10))
    with pytest.raises(BadInput, match=r"give grid=\(h, w\)"):
        attention(net, x, y)
    assert attention(net, x, y, grid=(4, 5)).shape == (3, 4, 5)
    assert attention(net, x, y, grid=(4, 5), layer="norm").shape == (3, 4, 5)
    with pytest.raises(BadInput, match="'norm' has no grid"):
        attention(net, x, y, layer="norm")


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_hugging_face_vision_transformer(pool: str) -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=4,
        num_channels=3, num_labels=3,
    )  # fmt: skip
    net = transformers.ViTForImageClassification(config).eval()
    if pool == "mean":
        head = net.classifier
        net.classifier = nn.Identity()

        def model(x: Tensor) -> Tensor:
            return head(net.vit(x).last_hidden_state.mean(1))
    else:
        model = Classifier(net)
    x, y = torch.rand(2, 3, 16, 16), torch.tensor([0, 2])
    found = attention_map(model, x, y)
    assert found.p.shape == (2, 4, 4)
    assert not found.flat.any()
    z = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(attention(model, z, y, create_graph=True)[:, 0, 0].sum(), z)
    assert g.abs().max() > 0


def test_a_network_in_training_mode_is_left_as_it_is() -> None:
    net, (x, y) = seeded(Residual()).train(), images(shape=(2, 8, 10))
    before = net.get_buffer("norm.running_mean").clone()
    assert find_spatial_layer(net, x) == "relu@3"
    torch.testing.assert_close(net.get_buffer("norm.running_mean"), before)
    assert all(m.training for m in net.modules())
    with pytest.raises(BadInput, match="training mode"):
        attention(net, x, y)
    attention(net, x, y, create_graph=True)  # a training loss explains the network that it trains


def test_hooks_go_and_nothing_is_touched_after_an_exception() -> None:
    net, (x, y) = conv_net(), images()
    with pytest.raises(BadInput):
        attention(net, x, y + 7)
    assert not any(m._forward_hooks for m in net.modules())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_as_an_image_it_keeps_its_mass() -> None:
    net, (x, y) = conv_net(), images(shape=(2, 10, 10))
    p = attention(net, x, y, layer="1")
    assert p.shape == (3, 8, 8)
    large = attention_image(net, x, y)
    assert large.shape == x.shape
    torch.testing.assert_close(large[:, 0], large[:, 1])
    want = F.interpolate(attention(net, x, y)[:, None], (10, 10), mode="bilinear")
    torch.testing.assert_close(large[:, :1], want)


def test_bad_input_and_small_maps_are_named() -> None:
    net, (x, y) = conv_net(), images()
    with pytest.raises(BadInput, match="tau is 0"):
        attention(net, x, y, tau=0)
    with pytest.raises(BadInput, match="images"):
        attention_image(net, x.flatten(1), y)
    for one, label, kind in ((x[0], y[:1], BadInput), (x[0], y[:2], RuntimeError)):
        for layer in (None, "0"):
            with pytest.raises(BadInput, match=r"x has shape \(2, 10, 10\).* x\[None\]") as caught:
                attention(net, one, label, layer=layer)
            assert isinstance(caught.value.__cause__, kind)
    # Whoever takes (B, H, W) is explained, and told of other errors as they are.
    grey = nn.Sequential(nn.Unflatten(1, (1, 10)), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(128, 3)).double().eval()
    assert attention(grey, x[:, 0], y).shape == (3, 8, 8)
    with pytest.raises(BadInput, match="no layer 'none'"):
        attention(grey, x[:, 0], y, layer="none")
    small = seeded(nn.Sequential(nn.Conv2d(2, 3, 3, stride=3), nn.Softplus(), nn.Flatten(), nn.Linear(27, 3)))
    with pytest.warns(UserWarning, match="3 x 3 cells"):
        attention(small, x, y)


def test_options_bind_and_classes_differ() -> None:
    net, (x, y) = conv_net(), images()
    sharp = partial(attention, tau=0.1, relu=True)
    assert sharp(net, x, y).amax((1, 2)).gt(attention(net, x, y).amax((1, 2))).all()
    assert (attention(net, x, y) - attention(net, x, (y + 1) % 3)).abs().max() > 1e-3
