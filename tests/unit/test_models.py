"""The reference networks: sizes, names, independence of the batch, and that they learn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from unfooled import models
from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.core.threats import Linf
from unfooled.models import (
    ARCHITECTURES,
    CifarResnet,
    ConceptCnn,
    Lenet5,
    MnistCnn,
    ResNet18,
    SmallCnn,
    StridedCnn,
    TradesSmallCnn,
    architectures,
    nets,
    readers,
)
from unfooled.models.architectures import architectures_of, build, build_like
from unfooled.models.names import strip, under_one_prefix
from unfooled.models.nets.cifar_resnet import PadShortcut
from unfooled.models.nets.small_cnn import GridPool

DIGITS = ("lenet5", "mnist-cnn", "strided-cnn", "trades-small-cnn")
NATIVE = {"small-cnn": (1, 8, 8), **dict.fromkeys(DIGITS, (1, 28, 28))}


LEAST = {"small-cnn": 4, "strided-cnn": 4, "lenet5": 4, "mnist-cnn": 6, "resnet18": 8, "trades-small-cnn": 16}
LEAST |= dict.fromkeys(("concept-cnn", "concept-cnn-large", "concept-resnet"), 8)
"""Smallest side of an image; 4 for the residual networks."""


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architecture_takes_its_native_and_another_shape(arch: str) -> None:
    torch.manual_seed(0)
    shape = NATIVE.get(arch, (3, 32, 32))
    assert build(arch).eval()(torch.rand(2, *shape)).shape == (2, 10)
    other = ARCHITECTURES[arch]((2, 20, 24), 7).eval()
    x = torch.rand(3, 2, 20, 24)
    logits = other(x)
    assert logits.shape == (3, 7)
    # Untrained residual networks have logits of a hundred: rounding is relative to the largest.
    assert float((logits[1:2] - other(x[1:2])).abs().max()) <= 2e-6 * float(logits.abs().max())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architecture_refuses_what_is_no_image_or_too_small(arch: str) -> None:
    least = LEAST.get(arch, 4)
    for shape in ((1, least, least - 1), (1, least - 1, least), (3 * least,), (1, least, least, least)):
        with pytest.raises(BadInput, match=rf" takes images \(C, H, W\) of at least {least}x{least} pixels, not "):
            build(arch, shape)
    net = build(arch, [1, least, least]).eval()
    assert net.input_shape == (1, least, least)
    assert net(torch.rand(1, 1, least, least)).shape == (1, 10)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_layers_have_names_and_each_activation_is_a_module_of_its_own(arch: str) -> None:
    classifier = Classifier(build(arch)).eval()
    x = torch.rand(1, *NATIVE.get(arch, (3, 32, 32)))
    relus = [name for name, module in classifier.module.named_modules() if isinstance(module, nn.ReLU)]  # type: ignore[union-attr]
    called: list[str] = []
    for name in relus:
        layer = classifier.module.get_submodule(name)  # type: ignore[union-attr]
        layer.register_forward_hook(lambda _m, _i, _o, name=name: called.append(name))
    classifier(x)
    assert sorted(called) == sorted(relus)
    assert all((classifier.features(x, name) >= 0).all() for name in relus[:2])


# Counted by hand from the paper: 3x3 weights, two batch normalisation parameters a channel, the last layer's bias.
@pytest.mark.parametrize(("depth", "count"), [(20, 269_722), (32, 464_154), (56, 853_018)])
def test_cifar_resnet_has_the_papers_number_of_parameters(depth: int, count: int) -> None:
    n, widths = (depth - 2) // 6, (16, 32, 64)
    convolutions = 3 * 16 + sum(b * w + (2 * n - 1) * w * w for b, w in zip((16, 16, 32), widths, strict=True))
    norms = 2 * 16 + sum(2 * 2 * n * w for w in widths)
    assert parameters(CifarResnet(depth=depth)) == 9 * convolutions + norms + 64 * 10 + 10 == count
    assert parameters(build(f"cifar-resnet{depth}")) == count


def test_cifar_resnet_has_as_many_weighted_layers_as_its_depth() -> None:
    for depth in (20, 32):
        layers = [m for m in CifarResnet(depth=depth).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert len(layers) == depth
    with pytest.raises(BadInput, match=r"6n \+ 2.*not 21"):
        CifarResnet(depth=21)


def test_shortcut_takes_every_second_pixel_and_pads_both_sides() -> None:
    x = torch.rand(2, 4, 6, 6)
    z = PadShortcut(4, 2)(x)
    assert z.shape == (2, 8, 3, 3)
    assert torch.equal(z[:, 2:6], x[:, :, ::2, ::2])
    assert not z[:, :2].any() and not z[:, 6:].any()


@pytest.mark.parametrize("side", [4, 5, 7, 8, 14, 16, 33])
def test_grid_pool_gives_its_grid_and_sees_every_pixel(side: int) -> None:
    x = torch.rand(1, 1, side, side, requires_grad=True)
    z = GridPool((4, 4))(x)
    assert z.shape == (1, 1, 4, 4)
    (g,) = torch.autograd.grad(z.sum(), x)
    assert (g > 0).all()
    if side % 4 == 0:
        assert torch.allclose(z, nn.AdaptiveAvgPool2d(4)(x))


def test_resnet18_has_the_known_number_of_parameters_and_names() -> None:
    net = build("resnet18")
    # Those of the checkpoints for 32x32 images that are in circulation.
    assert parameters(net) == 11_173_962
    assert {"layer4.0.shortcut.0.weight", "layer4.0.shortcut.1.running_mean", "layer1.1.bn2.weight"} <= set(
        net.state_dict()
    )
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m.weight.shape[-1] != 1]
    assert len(layers) == 18
    assert architectures_of(net.state_dict()) == ["resnet18"]
    small = build_like("resnet18", ResNet18((1, 16, 16), 4, width=8).state_dict()).eval()
    assert small(torch.rand(2, 1, 16, 16)).shape == (2, 4)


def test_strided_cnn_has_the_papers_number_of_parameters() -> None:
    # Counted by hand: 4x4 weights, 7x7 maps of 32 channels, biases everywhere.
    assert parameters(StridedCnn()) == 16 * 17 + 32 * (16 * 16 + 1) + (32 * 7 * 7 + 1) * 100 + 101 * 10 == 166_406
    wide = StridedCnn((3, 32, 32), 43, width=8).state_dict()
    assert build_like("strided-cnn", wide, input_shape=(3, 32, 32)).load_state_dict(wide)
    assert architectures_of(wide) == ["strided-cnn"]


@torch.no_grad()
@pytest.mark.parametrize("arch", ["concept-cnn", "concept-cnn-large", "concept-resnet"])
def test_concept_networks_decide_by_their_attribute_logits_alone(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build(arch, (1, 16, 16), 3, attributes=5, width=4).eval()
    x = torch.rand(4, 1, 16, 16)
    e = net.encode(x)  # type: ignore[operator]
    assert e.shape == (4, 5)
    assert torch.equal(net(x), net.head(e))  # type: ignore[operator]
    assert not any(layer.stride != (1, 1) for layer in [m for m in net.modules() if isinstance(m, nn.Conv2d)][:2])
    assert architectures_of(net.state_dict()) == [arch]
    torch.save(
        {"arch": arch, "input_shape": [1, 16, 16], "num_classes": 3, "state_dict": net.state_dict()}, tmp_path / "a.pt"
    )
    loaded = models.load_model(tmp_path / "a.pt")
    assert torch.equal(loaded(x), net(x))
    assert torch.equal(loaded.module.encode(x), e)  # type: ignore[union-attr, operator]


def test_concept_networks_refuse_an_encoder_that_is_not_there() -> None:
    with pytest.raises(BadInput, match=r"no encoder 'big'; there are small, large, residual"):
        ConceptCnn(encoder="big")
    with pytest.raises(BadInput, match="attributes is 0"):
        ConceptCnn(attributes=0)


@pytest.mark.parametrize(
    "network", [SmallCnn, Lenet5, MnistCnn, StridedCnn, TradesSmallCnn, CifarResnet, ResNet18, ConceptCnn]
)
def test_a_shape_that_is_no_image_is_named(network: type[nn.Module]) -> None:
    with pytest.raises(BadInput, match=r"not \(3, 2\)"):
        network((3, 2))
    with pytest.raises(BadInput, match=r"at least .* not \(1, 8, 3\)"):
        network((1, 8, 3))


def test_sizes_are_read_off_the_weights() -> None:
    state = SmallCnn((3, 32, 32), 43, width=8).state_dict()
    alphabetical = {key: state[key] for key in sorted(state)}
    like = build_like("small-cnn", alphabetical)
    assert like.load_state_dict(state)
    assert like(torch.rand(2, 3, 40, 32)).shape == (2, 43)
    assert build_like("trades-small-cnn", TradesSmallCnn((3, 28, 28), 5).state_dict()).state_dict().keys()
    assert architectures_of(CifarResnet(depth=32).state_dict()) == ["cifar-resnet32"]
    assert architectures_of({"a": torch.zeros(1)}) == []


def test_unknown_architecture_names_the_nearest_and_all() -> None:
    with pytest.raises(BadInput, match="no architecture 'lenet'; did you mean lenet5") as error:
        build("lenet")
    assert all(name in str(error.value) for name in ARCHITECTURES)


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x = x.astype("float32").reshape(-1, 1, 8, 8) / 16
    parts = train_test_split(x, y, stratify=y, test_size=0.3, random_state=0)
    return tuple(map(torch.from_numpy, parts))  # type: ignore[return-value]


def pgd(model: nn.Module, x: torch.Tensor, y: torch.Tensor, threat: Linf, steps: int) -> torch.Tensor:
    z = threat.sample(x)
    for _ in range(steps):
        z.requires_grad_()
        (g,) = torch.autograd.grad(cross_entropy(model(z), y), z)
        z = threat.project(z.detach() + 0.25 * float(threat.eps) * threat.steepest(g), x)
    return z


def train(net: SmallCnn, x: torch.Tensor, y: torch.Tensor, epochs: int, threat: Linf | None = None) -> SmallCnn:
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            seen = pgd(net, x[rows], y[rows], threat, 2) if threat else x[rows]
            optimiser.zero_grad()
            cross_entropy(net(seen), y[rows]).backward()
            optimiser.step()
    return net.eval()


def test_small_cnn_learns_the_digits_and_can_be_hardened() -> None:
    x, x_test, y, y_test = digits()
    threat = Linf(0.1)

    def accuracy(net: nn.Module, z: torch.Tensor) -> float:
        return float((net(z).argmax(1) == y_test).double().mean())

    torch.manual_seed(0)
    plain = train(SmallCnn(), x, y, 4)
    assert accuracy(plain, x_test) > 0.97
    before = accuracy(plain, pgd(plain, x_test, y_test, threat, 8))
    hard = train(plain, x, y, 2, threat)
    after = accuracy(hard, pgd(hard, x_test, y_test, threat, 8))
    assert accuracy(hard, x_test) > 0.95
    assert after > before + 0.05, (before, after)


def test_names_are_matched_in_one_way_everywhere() -> None:
    state = Lenet5().state_dict()
    trained = {f"model.{key}": value for key, value in state.items()} | {"loss.weight": torch.ones(2)}
    architectures._weight_names.cache_clear()
    before = torch.random.get_rng_state()
    assert architectures_of(trained) == architectures_of(state) == ["lenet5"]  # as they would be loaded
    assert torch.equal(torch.random.get_rng_state(), before)
    assert under_one_prefix(trained, set(state)).keys() == state.keys()
    assert under_one_prefix(trained, {"other"}) == trained
    assert strip({f"module.model.{key}": value for key, value in state.items()}).keys() == state.keys()


def test_the_families_list_their_names() -> None:
    for module in (models, nets, readers):
        assert sorted(module.__all__) == module.__all__
        assert all(hasattr(module, name) for name in module.__all__)


LOADED = """
import sys
import torch
import unfooled as uf
from unfooled.models.architectures import architectures_of

uf.load_model(sys.argv[1], arch="small-cnn", input_shape=(3, 16, 16), num_classes=4)
assert architectures_of(torch.load(sys.argv[1])) == ["small-cnn"]
print(*(name for name in ("torch._dynamo", "sympy") if name in sys.modules))
"""


def test_loading_a_checkpoint_does_not_import_the_compiler(tmp_path: Path) -> None:
    """The sizes of the weights are checked on a network without memory, whose numbers nobody draws."""
    torch.save(build("small-cnn", (3, 16, 16), 4).state_dict(), tmp_path / "net.pt")
    command = [sys.executable, "-c", LOADED, str(tmp_path / "net.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
