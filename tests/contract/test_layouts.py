"""Grad-CAM reads the layout: the evidence of a planted object lies on it, whatever the order of the axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.explanations import attention, grad_cam, grad_cam_map
from unfooled.explanations.layers import find_spatial
from unfooled.explanations.layouts import Layout
from unfooled.explanations.recording import output_of, recorded

SIDE, PATCH, WIDTH = 16, 2, 16


@cache
def planted(n: int = 600, channels: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Images; class 1 has a bright square on the grid of patches. Returns images, labels and the squares' corners."""
    g = torch.Generator().manual_seed(0)
    x, y = 0.3 * torch.rand(n, channels, SIDE, SIDE, generator=g), torch.randint(0, 2, (n,), generator=g)
    at = torch.randint(0, SIDE // 2, (n, 2), generator=g) * 2
    for i in y.nonzero()[:, 0].tolist():
        x[i, :, at[i, 0] : at[i, 0] + 2, at[i, 1] : at[i, 1] + 2] = 1.0
    return x, y, at


def mlp(width: int = WIDTH) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU()
        )
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).amax((2, 3)))


class ChannelsLast(nn.Module):
    """Channels last from the patches on; `width` equal to the grid's side makes the shapes alone ambiguous."""

    def __init__(self, width: int = 24, fixed: bool = False) -> None:
        super().__init__()
        self.patch, self.first = nn.Conv2d(1, width, PATCH, PATCH), nn.LayerNorm(width)
        self.norm, self.mlp, self.head = nn.LayerNorm(width), mlp(width), nn.Linear(width, 2)
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        if self.fixed and x.shape[2:] != (SIDE, SIDE):
            raise ValueError("another size")
        z = self.patch(x).permute(0, 2, 3, 1)
        z = self.norm(z + self.mlp(self.first(z)))
        return self.head(z.amax((1, 2)))


class Attend(nn.Module):
    """Attention whose matrices, (B, heads, T, T), come out of a module."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.qkv, self.out, self.drop = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Dropout(0.0)

    def forward(self, t: Tensor) -> Tensor:
        b, n, c = t.shape
        q, k, v = self.qkv(t).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        weight = self.drop((q @ k.transpose(2, 3) * (c // 2) ** -0.5).softmax(3))
        return self.out((weight @ v).transpose(1, 2).reshape(b, n, c))


class Windowed(nn.Module):
    """Swin-like: channels last, attention in windows, the second time shifted."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm, self.head = nn.Conv2d(1, WIDTH, PATCH, PATCH), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)
        self.attend, self.mlp = nn.ModuleList([Attend(), Attend()]), nn.ModuleList([mlp(), mlp()])

    def forward(self, x: Tensor) -> Tensor:
        z = self.patch(x).permute(0, 2, 3, 1)
        b, h, w, c = z.shape
        for i in range(2):
            s = z.roll((-2 * i, -2 * i), (1, 2))
            s = s.reshape(b, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(-1, 16, c)
            s = self.attend[i](s).reshape(b, h // 4, w // 4, 4, 4, c).transpose(2, 3).reshape(b, h, w, c)
            z = z + s.roll((2 * i, 2 * i), (1, 2))
            z = z + self.mlp[i](z)
        return self.head(self.norm(z).amax((1, 2)))


class Pyramid(nn.Module):
    """Tokens whose patches are merged two by two."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.merge = nn.Conv2d(1, WIDTH, PATCH, PATCH), nn.Linear(4 * WIDTH, WIDTH)
        self.mlp, self.norm, self.head = mlp(), nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.patch(x)
        h, w = z.shape[2:]
        t = F.pixel_unshuffle(z, 2).flatten(2).transpose(1, 2)
        t = self.merge(t)
        assert t.shape[1] == h * w // 4
        return self.head(self.norm(t + self.mlp(t)).amax(1))


class Tokens(nn.Module):
    """A transformer of one size, whose attention matrices are outputs; a token in front, behind, or none."""

    def __init__(self, where: str = "front") -> None:
        super().__init__()
        self.where, n = where, (SIDE // PATCH) ** 2 + (where != "none")
        self.patch, self.place = nn.Conv2d(1, WIDTH, PATCH, PATCH), nn.Parameter(0.02 * torch.randn(1, n, WIDTH))
        self.token, self.first = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.LayerNorm(WIDTH)
        self.attend, self.mlp = Attend(), mlp()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patch(x).flatten(2).transpose(1, 2)
        more = [self.token.expand(len(x), -1, -1)]
        t = torch.cat({"front": [*more, t], "behind": [t, *more], "none": [t]}[self.where], 1) + self.place
        t = t + self.attend(self.first(t))
        t = self.norm(t + self.mlp(t))
        return self.head({"front": t[:, 0], "behind": t[:, :-1].amax(1), "none": t.amax(1)}[self.where])


class Registers(nn.Module):
    """A transformer whose class token, the only one that the head reads, and registers stand around the patches."""

    def __init__(self, before: int, behind: int, read: int) -> None:
        super().__init__()
        self.before, self.read, n = before, read, (SIDE // PATCH) ** 2 + before + behind
        self.patch, self.place = nn.Conv2d(1, WIDTH, PATCH, PATCH), nn.Parameter(0.02 * torch.randn(1, n, WIDTH))
        self.more = nn.Parameter(0.02 * torch.randn(1, before + behind, WIDTH))
        self.first, self.attend, self.mlp = nn.LayerNorm(WIDTH), Attend(), mlp()
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        more = self.more.expand(len(x), -1, -1)
        t = self.patch(x).flatten(2).transpose(1, 2)
        t = torch.cat([more[:, : self.before], t, more[:, self.before :]], 1) + self.place
        t = t + self.attend(self.first(t))
        return self.head(self.norm(t + self.mlp(t))[:, self.read])


class TokensLast(nn.Module):
    """Tokens in the last axis, with nearly as many channels as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.row, self.mix = nn.Conv2d(1, 72, PATCH, PATCH), nn.Flatten(2), nn.Conv1d(72, 72, 1)
        self.head = nn.Linear(72, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.row(self.patch(x))).relu().amax(2))


class TokensFirst(nn.Module):
    """The encoder of torch with the samples in the second axis, (T, B, C), its default."""

    def __init__(self, where: str = "none") -> None:
        super().__init__()
        self.where, n = where, (SIDE // PATCH) ** 2 + (where == "front")
        self.patch, self.place = nn.Conv2d(1, WIDTH, PATCH, PATCH), nn.Parameter(0.02 * torch.randn(n, 1, WIDTH))
        block = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0)
        self.encoder, self.head = nn.TransformerEncoder(block, 2, enable_nested_tensor=False), nn.Linear(WIDTH, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        t = self.patch(x).flatten(2).permute(2, 0, 1)
        t = torch.cat([self.token.expand(-1, len(x), -1), t]) if self.where == "front" else t
        t = self.encoder(t + self.place)
        return self.head(t[0] if self.where == "front" else t.amax(0))


class Pooled(ChannelsLast):
    """As many channels as cells, and a pooled output (B, C, 1) after the tokens."""

    def __init__(self) -> None:
        super().__init__(64)
        self.pool = nn.AdaptiveMaxPool1d(1)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patch(x).flatten(2).transpose(1, 2)
        t = self.norm(t + self.mlp(self.first(t)))
        return self.head(self.pool(t.transpose(1, 2)).flatten(1))


def trained(net: nn.Module, epochs: int = 6) -> nn.Module:
    x, y, _ = planted()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(500).split(50):
            optimizer.zero_grad()
            F.cross_entropy(net(x[:500][rows]), y[:500][rows]).backward()
            optimizer.step()
    return net.eval()


NETS = {
    "convolutional": (Convolutional, (8, 8), Layout.CHANNELS_FIRST),
    "channels last": (ChannelsLast, (8, 8), Layout.CHANNELS_LAST),
    "as many channels as rows": (lambda: ChannelsLast(8), (8, 8), Layout.CHANNELS_LAST),
    "the same at one size": (lambda: ChannelsLast(8, fixed=True), (8, 8), Layout.CHANNELS_LAST),
    "windowed": (Windowed, (8, 8), Layout.CHANNELS_LAST),
    "pyramid": (Pyramid, (4, 4), Layout.TOKENS),
    "tokens": (lambda: Tokens("none"), (8, 8), Layout.TOKENS),
    "class token": (lambda: Tokens("front"), (8, 8), Layout.TOKENS),
    "register behind": (lambda: Tokens("behind"), (8, 8), Layout.TOKENS),
    "class token behind": (lambda: Registers(0, 1, -1), (8, 8), Layout.TOKENS),
    "registers in front": (lambda: Registers(5, 0, 0), (8, 8), Layout.TOKENS),
    "registers behind a class token": (lambda: Registers(1, 3, 0), (8, 8), Layout.TOKENS),
    "a register in front, a class token behind": (lambda: Registers(1, 1, -1), (8, 8), Layout.TOKENS),
    "tokens last": (TokensLast, (8, 8), Layout.TOKENS_LAST),
    "tokens first": (TokensFirst, (8, 8), Layout.TOKENS_FIRST),
    "class token, tokens first": (lambda: TokensFirst("front"), (8, 8), Layout.TOKENS_FIRST),
    "pooled": (Pooled, (8, 8), Layout.TOKENS),
}


@pytest.mark.parametrize(("build", "grid", "layout"), NETS.values(), ids=NETS.keys())
def test_evidence_of_a_planted_object_lies_on_it(build: type[nn.Module], grid: tuple[int, int], layout: Layout) -> None:
    torch.manual_seed(0)
    net = trained(build())
    x, y, at = (part[500:][planted()[1][500:] == 1] for part in planted())
    assert float((net(x).argmax(1) == 1).float().mean()) > 0.9
    found = find_spatial(net, x[:1])
    assert (found.grid, found.layout) == (grid, layout)
    assert found.skip == getattr(net, "before", getattr(net, "where", "") == "front")
    cam = grad_cam(net, x, y)[:, 0].flatten(1).argmax(1)
    apart = (torch.stack([cam // SIDE, cam % SIDE], 1) - at - 0.5).abs().amax(1)
    assert float((apart <= SIDE / grid[0] + 0.5).float().mean()) > 0.8


def test_as_many_samples_as_tokens_are_no_other_layout() -> None:
    """A batch of 64 samples of 64 tokens: the axes cannot be told apart by their lengths there."""
    torch.manual_seed(0)
    net, (x, y, _) = TokensFirst().eval(), (part[:64] for part in planted())
    for layer in (None, "encoder", net.encoder.layers[0], net.encoder.layers[1].norm2):
        maps = grad_cam_map(net, x, y, layer=layer).map
        assert maps.shape == (64, 8, 8)
        torch.testing.assert_close(maps[:3], grad_cam_map(net, x[:3], y[:3], layer=layer).map, rtol=1e-4, atol=1e-6)
    with pytest.raises(BadInput, match=r"\(B, C, T\) or \(T, B, C\)"):
        grad_cam_map(net, x, y, layer="head")


def test_what_is_no_map_is_refused_with_the_mend() -> None:
    torch.manual_seed(0)
    x, y, _ = (part[:2] for part in planted())
    for net in (Tokens("front"), Tokens("none")):
        with pytest.raises(BadInput, match=r"'attend.drop'"):
            grad_cam_map(net.eval(), x, y, layer="attend.drop")
    with pytest.raises(BadInput, match=r"'attend.0.drop'"):
        attention(Windowed().eval(), x, y, layer="attend.0.drop")


class Bias(nn.Module):
    """A position bias that is as square as a map, and the same for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 3, 8, 8))

    def forward(self) -> Tensor:
        return 1 * self.table


class Biased(Convolutional):
    def __init__(self) -> None:
        super().__init__()
        self.bias = Bias()

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        return self.head((z * self.bias().mean(1, keepdim=True)).amax((2, 3)))


class Shuffled(Tokens):
    """Tokens that stand column by column: no grid read row by row is right."""

    def __init__(self) -> None:
        super().__init__("none")
        self.turn = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        t = self.patch(x).transpose(2, 3).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.mlp(self.turn(t))).amax(1))


def test_position_biases_and_tokens_in_another_order_are_no_maps() -> None:
    torch.manual_seed(0)
    x, y, _ = (part[:2] for part in planted())
    assert find_spatial(Biased().eval(), x).layer == "body.4"
    with pytest.raises(BadInput, match="'bias'"):
        grad_cam_map(Biased().eval(), x, y, layer="bias")
    net = Shuffled().eval()
    assert find_spatial(net, x).layer == "patch"
    with pytest.raises(BadInput, match=r"8 x 8 cells that do not depend most on their own place.*grid=\(h, w\)"):
        attention(net, x, y, layer="turn")


def test_a_layer_may_be_a_module_and_a_grid_decides() -> None:
    torch.manual_seed(0)
    x, y, _ = (part[:2] for part in planted())
    net = ChannelsLast(8).eval()
    want = grad_cam(net, x, y, layer="mlp.1")
    torch.testing.assert_close(grad_cam(net, x, y, layer=net.mlp[1]), want)
    torch.testing.assert_close(grad_cam(net, x, y, layer=net.mlp[1], grid=(8, 8)), want)
    with pytest.raises(BadInput, match="LayerNorm that is no part of the model"):
        grad_cam(net, x, y, layer=nn.LayerNorm(3))


class Turned(nn.Module):
    """Layer normalisation on (B, w, h, C) or (B, h, C, w), which is no grid for Grad-CAM."""

    def __init__(self, axes: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.patch, self.axes = nn.Conv2d(1, WIDTH, PATCH, PATCH), axes
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.patch(x).permute(self.axes))
        return self.head(z.permute([self.axes.index(axis) for axis in range(4)]).amax((2, 3)))


@pytest.mark.parametrize(
    ("axes", "size", "width"),
    [((0, 3, 2, 1), (16, 24), WIDTH), ((0, 2, 1, 3), (24, 16), 8), ((0, 2, 1, 3), (16, 16), 8)],
)
def test_axes_in_another_order_are_no_map(axes: tuple[int, ...], size: tuple[int, int], width: int) -> None:
    place = find_spatial(Turned(axes, width).eval(), torch.rand(1, 1, *size))
    assert (place.layer, place.grid) == ("patch", (size[0] // 2, size[1] // 2))


def test_unequal_sides_are_not_turned() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 1, 16, 24)
    assert find_spatial(ChannelsLast(12).eval(), x).grid == (8, 12)
    assert find_spatial(Pyramid().eval(), x).grid == (4, 6)


@cache
def hugging_face(family: str) -> nn.Module:
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    few = {"num_labels": 3, "num_channels": 3}
    if family == "vit":
        config = t.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32,
            patch_size=4, attn_implementation="eager", **few,
        )  # fmt: skip
        return t.ViTForImageClassification(config).eval()
    if family == "swin":
        config = t.SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4, **few
        )
        return t.SwinForImageClassification(config).eval()
    if family == "convnext":
        config = t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=2, **few)
        return t.ConvNextForImageClassification(config).eval()
    if family == "pvt":
        config = t.PvtConfig(
            image_size=64, hidden_sizes=[8, 16, 16, 16], num_attention_heads=[1, 2, 2, 2], depths=[1, 1, 1, 1],
            mlp_ratios=[2, 2, 2, 2], **few,
        )  # fmt: skip
        return t.PvtForImageClassification(config).eval()
    config = t.SegformerConfig(
        hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2], strides=[2, 2, 1, 1],
        sr_ratios=[4, 2, 1, 1], mlp_ratios=[2, 2, 2, 2], decoder_hidden_size=16, **few,
    )  # fmt: skip
    return t.SegformerForImageClassification(config).eval()


@pytest.mark.parametrize(
    ("family", "side", "grid"),
    [
        ("vit", 32, (8, 8)), ("swin", 32, (8, 8)), ("convnext", 32, (8, 8)), ("pvt", 64, (2, 2)),
        ("segformer", 32, (8, 8)),
    ],
)  # fmt: skip
def test_hugging_face_families(family: str, side: int, grid: tuple[int, int]) -> None:
    """A small change of the input moves the map where the change was made."""
    net = Classifier(hugging_face(family))
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    found = find_spatial(net, x)
    assert found.grid == grid
    centres = [(torch.arange(n) + 0.5) / n for n in grid]
    for row, column in ((0.15, 0.7), (0.8, 0.25)):
        z = x.clone()
        at = [slice(int(a * side), int(a * side) + side // 10) for a in (row, column)]
        z[:, :, at[0], at[1]] = 1 - z[:, :, at[0], at[1]].round()
        maps = []
        with torch.no_grad():
            for image in (x, z):
                with recorded(net, found.layer) as calls:
                    net(image)
                maps.append(found.maps(output_of(calls, found.layer, 1)))
        moved = (maps[1] - maps[0])[0].square().sum(0)
        moved = moved / moved.sum()
        place = torch.stack([moved.sum(1) @ centres[0], moved.sum(0) @ centres[1]])
        right, turned = torch.tensor([row, column]) + 0.05, torch.tensor([column, row]) + 0.05
        assert (place - right).norm() < 0.1 + 0.6 / grid[0]
        assert (place - right).norm() < (place - turned).norm()


def scripted() -> tuple[torch.jit.ScriptModule, Tensor, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)).eval()
    x = torch.rand(6, 1, 8, 8)
    return torch.jit.script(net), x, net(x).argmax(1)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_refuses_hooks_is_named_and_audited_without_them() -> None:
    from functools import partial

    from unfooled import QUICK, Linf, audit
    from unfooled.evaluation.audit import Plan

    net, x, y = scripted()
    for explain in (grad_cam, attention):
        with pytest.raises(BadInput, match=r"TorchScript.*refuses hooks"):
            explain(net, x, y)
    calls: list[str] = []
    plan = Plan(effort=QUICK, nearest_budget=100, nearest_n=2, explain_n=2, reasons_n=1, reasons_steps=2, radii=(1,))
    run = partial(audit, net, x, y, Linf(0.05), progress=lambda stage, *_: calls.append(stage))
    for other in (Plan(effort=QUICK, reasons=None, explain=grad_cam), Plan(effort=QUICK, reasons=grad_cam)):
        with pytest.raises(BadInput, match="refuses hooks"):
            run(plan=other)
    assert not calls
    summary = run(plan=plan)
    assert any("refuses hooks" in sentence for sentence in summary.warnings)
    assert summary.attention is None


class Patches(nn.Module):
    """Evidence for class 1 is a bright patch, wherever it is; the order of the tokens is up to `order`."""

    def __init__(self, order: Callable[[Tensor], Tensor] = lambda z: z) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order = order
        self.cut, self.norm, self.head = nn.Conv2d(1, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 2)
        with torch.no_grad():
            self.cut.weight[0] = 0.2
            self.head.weight.mul_(0.01)[1, 0] = 4

    def forward(self, x: Tensor) -> Tensor:
        t = self.order(F.gelu(self.cut(x))).flatten(2).transpose(1, 2)
        return self.head(self.norm(t).amax(1))


def in_windows(z: Tensor) -> Tensor:
    """Cells in the order of windows of 4 x 4, which are not put back, as in hierarchical networks."""
    b, c, h, w = z.shape
    return z.reshape(b, c, h // 4, 4, w // 4, 4).transpose(3, 4).reshape(b, c, h, w)


def every_second_row_backwards(z: Tensor) -> Tensor:
    z = z.clone()
    z[:, :, 1::2] = z[:, :, 1::2].flip(3)
    return z


@pytest.mark.parametrize("order", [in_windows, every_second_row_backwards])
@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_tokens_of_which_some_are_in_place_are_no_map(order: Callable[[Tensor], Tensor], size: tuple[int, int]) -> None:
    x = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0)) / 4
    assert find_spatial(Patches().eval(), x).layer == "norm"
    assert find_spatial(Patches(order).eval(), x).layer == "cut"
    with pytest.raises(BadInput, match=r"'norm' holds 8 x (8|12) cells that do not depend most on their own place"):
        find_spatial(Patches(order).eval(), x, layer="norm")


class Augmented(nn.Module):
    """The mean of two calls, of which the second sees another image."""

    def __init__(self, way: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.way = Patches(), way

    def forward(self, x: Tensor) -> Tensor:
        return (self.net(x) + self.net(self.way(x))) / 2


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "mirrored": lambda x: x.flip(3),
    "upside down": lambda x: x.flip(2),
    "rotated": lambda x: x.rot90(1, (2, 3)),
    "as it is": lambda x: 0.9 * x,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_maps_of_the_image_in_another_way_are_not_shown(way: str, size: tuple[int, int]) -> None:
    """Test-time augmentation ends with a call on the image mirrored or rotated."""
    x, y = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0)) / 4, torch.tensor([1])
    x[:, :, 4:8, 20:24] = 1
    model = Augmented(WAYS[way]).eval()
    found = find_spatial(model, x)
    assert found.layer == ("net.norm@2" if way == "as it is" else "net.norm@1")
    heat = grad_cam_map(model, x, y, layer=found).map
    assert heat.flatten().argmax() == found.grid[1] + 5
    if way != "as it is":
        with pytest.raises(BadInput, match=r"depend most on their own place|mirrored or rotated"):
            grad_cam_map(model, x, y, layer="net.norm")
        with pytest.raises(BadInput, match="is of the image mirrored or rotated"):
            grad_cam_map(model, x, y, layer="net.cut")
