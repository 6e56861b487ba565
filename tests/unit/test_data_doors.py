"""Arrays of other shapes than images, round-off, and what is advised where a model does not take the samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from unfooled import BadInput, load_data
from unfooled.core.checks import check_inputs
from unfooled.core.given import as_samples
from unfooled.core.goals import read_logits
from unfooled.data.formats.pictures import size_of
from unfooled.data.torch_sets import from_torch
from unfooled.workflows.inputs import Inputs

Y = np.array([0, 1, 1])
SHAPES = {"sequences": (3, 5, 4), "square sequences": (3, 4, 4), "volumes": (3, 1, 4, 4, 4)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sequences_and_volumes_stay_as_they_are(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    x: np.ndarray = np.random.default_rng(0).random(shape).astype(dtype)
    np.savez(tmp_path / "a.npz", x=x, y=Y)
    for source in (tmp_path / "a.npz", (x, Y), (torch.from_numpy(x), torch.from_numpy(Y)), lambda: (x, Y)):
        z = load_data(source)[0]
        assert z.shape == shape
        assert np.array_equal(z.numpy(), x.astype(np.float32))


def test_three_dimensions_are_images_where_something_says_so(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((3, 5, 4)).astype(np.float32)
    raw = (x * 255).astype(np.uint8)
    np.savez(tmp_path / "named.npz", images=x, labels=Y)
    np.savez(tmp_path / "split.npz", test_images=x, test_labels=Y)
    for source in (tmp_path / "named.npz", tmp_path / "split.npz", (raw, Y), (x > 0.5, Y)):
        assert load_data(source)[0].shape == (3, 1, 5, 4)
    assert load_data((x, Y), size=6)[0].shape == (3, 1, 6, 6)
    assert load_data((x, Y), channels=3)[0].shape == (3, 3, 5, 4)
    with pytest.raises(BadInput, match="size and channels are for images"):
        load_data((x[..., None, None], Y), size=6)


X = torch.arange(24).reshape(3, 8) / 32


@pytest.mark.parametrize(
    "x",
    [
        X.bfloat16(),
        X.half(),
        X.double(),
        X.to_sparse(),
        X.clone().requires_grad_(),
        X.tolist(),
        (1 - X).neg() + 1,
    ],
    ids=["bf16", "fp16", "float64", "sparse", "gradient", "lists", "computed"],
)
def test_every_kind_of_tensor_is_read(x: Any) -> None:
    assert torch.allclose(load_data((x, torch.tensor(Y)))[0], X, atol=1e-6)
    assert torch.allclose(load_data(lambda: (x, Y))[0], X, atol=1e-6)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((np.float32(0.5), Y), r"shape \(\); samples are"),
        ((torch.tensor(0.5), Y), r"shape \(\); samples are"),
        ((X, np.int64(1)), r"shape \(\); labels are one number"),
        (([[0.1, 0.2], [0.3]], [0, 1]), "lists cannot be stacked"),
        ((X, Y, 5), "classes of the data are of type int; give their names"),
        ((X, Y, "abc"), "classes of the data are of type str; give their names"),
    ],
)
def test_data_without_samples_or_names_are_refused_in_one_sentence(tmp_path: Path, data: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_data(data)
    if len(data) == 2 and not isinstance(data[0], list):
        np.savez(tmp_path / "a.npz", x=np.asarray(data[0]), y=data[1])
        with pytest.raises(BadInput, match=words):
            load_data(tmp_path / "a.npz")


@pytest.mark.parametrize("off", [-3e-8, 1.2e-7, -1e-6, 9e-7])
def test_round_off_is_clipped(tmp_path: Path, off: float) -> None:
    x = np.random.default_rng(0).random((3, 1, 4, 4))
    x[1, 0, 2, 2] = off if off < 0 else 1 + off
    np.savez(tmp_path / "a.npz", x=x, y=Y)
    for source in (tmp_path / "a.npz", (x, Y)):
        z = load_data(source)[0]
        assert z[1, 0, 2, 2] == float(off > 0)
        assert z.min() >= 0 and z.max() <= 1


@pytest.mark.parametrize(("value", "words"), [(-0.00002, "by 2e-05"), (1.00003, "by 3e-05"), (1.5, "by 0.5")])
def test_more_than_round_off_is_refused_with_the_size(value: float, words: str) -> None:
    x = np.full((3, 1, 4, 4), 0.5)
    x[1, 0, 0, 0] = value
    with pytest.raises(BadInput, match=words):
        load_data((x, Y))
    with pytest.raises(BadInput, match=words):
        check_inputs(torch.from_numpy(x))


class Two(nn.Module):
    """A model of an image and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        return self.head(x.flatten(1)) + meta


class TwoByName(Two):
    def forward(self, x: Tensor, *, meta: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, meta)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


ADVICE: dict[str, tuple[nn.Module, str]] = {
    "a second input": (Two(), r"needs more inputs than x, 'meta'; wrap it in a function of x"),
    "a second input by name": (TwoByName(), r"needs more inputs than x, 'meta'; wrap it"),
    "double": (linear().double(), r"has float64 weights, the samples are float32; convert it: model\.float\(\)"),
    "half and single": (
        nn.Sequential(linear().half(), nn.Linear(10, 10)),
        r"weights are float16 and float32; cast between its parts, or convert it: model\.float\(\)",
    ),
    "convolution": (nn.Sequential(nn.Conv2d(1, 2, 3).double(), nn.Flatten(), nn.Linear(72, 10).double()), "float64 w"),
}


@pytest.mark.parametrize("kind", ADVICE)
def test_the_advice_is_about_what_is_wrong_with_the_model(kind: str) -> None:
    model, words = ADVICE[kind]
    x, _ = load_data("digits", n=4)
    with pytest.raises(BadInput, match=words), torch.no_grad():
        read_logits(model.eval(), x)
    with pytest.raises(BadInput, match=words) as caught:
        Inputs(model.eval(), "digits", n=4).load("cpu")
    assert "resize" not in str(caught.value)


def test_a_size_is_still_advised_for_images_of_another_size() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(100, 10)).eval()
    with pytest.raises(BadInput, match="resize"):
        Inputs(net, "digits", n=4).load("cpu")


def test_a_sequence_where_an_image_is_wanted_is_named() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10)).eval()
    x, y = load_data("digits", n=4)
    with pytest.raises(BadInput, match=r"it takes grey images: save them as bytes, or as \(N, 1, H, W\)"):
        Inputs(net, (x[:, 0], y), n=4).load("cpu")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_viewers_show_them(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = 255  # one white corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in "ab":
        (tmp_path / "folder" / name).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "folder" / name / "1.jpg", exif=exif, quality=95)
    h, w = (24, 16) if orientation > 4 else (16, 24)
    x, _ = load_data(tmp_path / "folder")
    assert x.shape == (2, 3, h, w)
    assert size_of(tmp_path / "folder" / "a" / "1.jpg") == (h, w)
    at = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    corners = x[0].mean(0)[:: h - 1, :: w - 1]
    assert (corners > 0.8).nonzero().tolist() == [list(at)]
    assert load_data(tmp_path / "folder", size=(h // 2, w // 2))[0].shape == (2, 3, h // 2, w // 2)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_files_of_several_frames_are_refused_rather_than_read_in_part(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    path = tmp_path / "folder" / "a" / f"1.{'jpg' if kind == 'MPO' else kind.lower()}"
    path.parent.mkdir(parents=True)
    frames[0].save(path, kind)
    assert load_data(tmp_path / "folder")[0].shape == (1, 3, 8, 8)
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])
    if kind == "MPO":  # a photo with a preview behind it
        assert load_data(tmp_path / "folder")[0][0, 0].mean() > 0.9
        return
    with pytest.raises(BadInput, match=r"1\.\w+ holds several frames, an animation or pages; save the one"):
        load_data(tmp_path / "folder")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_pictures_of_every_mode_are_read_alike_from_files_and_objects(tmp_path: Path, mode: str) -> None:
    grey = np.array([[0, 64, 128, 255]] * 4, np.uint8)
    wide = {"I;16": np.uint16, "I": np.int32, "F": np.float32}.get(mode)
    if wide is not None:
        image = Image.fromarray((grey.astype(np.float64) * (1 / 255 if mode == "F" else 257)).astype(wide))
    else:
        image = Image.fromarray(grey if mode in ("1", "L", "LA") else np.stack([grey, grey.T, grey], 2)).convert(mode)
    assert image.mode == mode
    path = tmp_path / "folder" / "a" / "1.tiff"
    path.parent.mkdir(parents=True)
    image.save(path)
    of_file = load_data(tmp_path / "folder")[0]
    assert of_file.shape[1] == (1 if mode in ("1", "L", "LA", "I;16", "I", "F") else 3)
    assert len(of_file.unique()) > 1 and of_file.max() > 0.8
    assert torch.equal(as_samples(image, 0)[0], of_file)
    assert torch.equal(from_torch([(image, 0), (image, 1)])[0][:1], of_file)  # type: ignore[arg-type]
