"""Places of objects: boxes of CUB and of a CSV, and the ink of digits on canvases."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.data import box_masks, load_boxed, load_cub, load_dataset, load_digits_canvas, load_shapes
from unfooled.studies.attention.samples import known_samples


def test_masks_of_boxes_are_shares_of_pixels() -> None:
    boxes = torch.tensor([[1.0, 0.0, 2.0, 3.0], [0.5, 0.5, 1.0, 1.0], [-2.0, 2.0, 9.0, 9.0], [torch.nan] * 4])
    masks = box_masks(boxes, (3, 4))
    assert masks[0].tolist() == [[0, 1, 1, 0]] * 3
    assert masks[1].tolist() == [[0.25, 0.25, 0, 0], [0.25, 0.25, 0, 0], [0, 0, 0, 0]]
    assert masks[2].tolist() == [[0] * 4, [0] * 4, [1] * 4]
    assert masks[3].sum() == 0


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from PIL import Image

    sizes = {"test/cat/a.png": (8, 4), "test/dog/b.png": (16, 16), "test/dog/c.png": (8, 8), "train/cat/d.png": (8, 8)}
    for name, (w, h) in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((h, w, 3), np.uint8)
        pixels[h // 4 : h // 2, w // 4 : w // 2] = 255
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("corners", [False, True])
def test_boxes_of_a_csv_follow_the_image_to_another_size(pictures: Path, corners: bool) -> None:
    lines = {"test/cat/a.png": (2, 1, 2, 1), "test/dog/b.png": (4, 4, 4, 4)}
    head = "file,xmin,ymin,xmax,ymax" if corners else "file,left,top,width,height"
    rows = [f"{k},{x},{y},{x + w if corners else w},{y + h if corners else h}" for k, (x, y, w, h) in lines.items()]
    (pictures / "boxes.csv").write_text("\n".join([head, *rows]), encoding="utf-8")
    found = load_boxed(pictures, pictures / "boxes.csv", size=(8, 8))
    assert found.data.y.tolist() == [0, 1, 1]
    assert found.boxes[:2].tolist() == [[2, 2, 2, 2], [2, 2, 2, 2]]
    assert found.boxes[2].isnan().all()
    assert found.masks.shape == (3, 8, 8)
    for k in range(2):
        assert found.data.x[k].mean(0)[found.masks[k] > 0].mean() > 0.5
        assert found.data.x[k].mean(0)[found.masks[k] == 0].mean() < 0.2
    assert found.masks[2].sum() == 0


def test_several_objects_are_their_union(pictures: Path) -> None:
    rows = ["test/cat/a.png,0,0,2,2", "train/cat/d.png,0,0,4,4", "./test/cat/a.png,1,1,2,9", "test/cat/a.png,6.5,0,9,1"]
    (pictures / "boxes.csv").write_text("\n".join(["file,x,y,w,h", *rows]), encoding="utf-8")
    found = load_boxed(pictures, pictures / "boxes.csv", size=(4, 8), labels=["dog", "cat"])
    assert found.data.classes == ["dog", "cat"]
    assert found.data.y.tolist() == [1, 0, 0]
    want = [[1, 1, 0, 0, 0, 0, 0.5, 1], [1, 1, 1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]]
    assert found.masks[0].tolist() == want
    assert found.boxes[0].tolist() == [0, 0, 15.5, 10]
    assert found.boxes[1:].isnan().all()
    assert found.masks[1:].sum() == 0


def test_a_wrong_csv_is_named(pictures: Path) -> None:
    path = pictures / "boxes.csv"
    for text, said in (
        ("file,left,top\n", "it needs file, left, top, width, height"),
        ("file,x,y,w,h\ntest/cat/a.png,1,2,x,4", "line 2 of .* holds a value that is not a number"),
        ("file,x,y,w,h\ntest/cat/a.png,1,2,0,4", "is an empty box"),
        ("file,x,y,w,h\ntest/cat/a.png,1,nan,3,4", "line 2 of .* holds NaN or infinity"),
        ("file,x,y,w,h\ntest/cat/a.png,1,2,inf,4", "line 2 of .* holds NaN or infinity"),
        ("file,xmin,ymin,xmax,ymax\ntest/cat/a.png,3,2,3,4", "is an empty box"),
        ("file,xmin,ymin,xmax,ymax\ntest/cat/a.png,1,4,3,2", "is an empty box"),
        ("x,y,w,h,file\n1,2,3,4", "line 2 of .* names no file"),
        ("file,x,y,w,h\ntrain/cat/d.png,1,2,3,4", "names none of the images read"),
        (
            "file,x,y,w,h\ntest/cat/a.png,1,2,3,4\nelse.png,1,2,3,4\n/test/dog/b.png,1,2,3,4",
            "2 of the 3 files in .* are no images below .*, the first is 'else.png'",
        ),
        ("file,x,y,w,h\ntest/cat/a.png,8,0,3,4", r"box of test/cat/a.png in .*outside of the image, 8 x 4"),
        ("file,x,y,w,h\ntest/cat/a.png,0,4,3,4", "lies outside of the image"),
        ("file,x,y,w,h\ntest/cat/a.png,-3,0,3,4", "lies outside of the image"),
        ("file,x,y,w,h\ntest/cat/a.png,1,2,3,2\ntest/cat/a.png,0,-4,3,4", "left 0, top -4, 3 x 4, lies outside"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(BadInput, match=said):
            load_boxed(pictures, path, size=8)
    with pytest.raises(BadInput, match="there is no file"):
        load_boxed(pictures, pictures / "none.csv", size=8)
    with pytest.raises(BadInput, match="there is no folder"):
        load_boxed(pictures / "none", path)


def miniature(folder: Path) -> None:
    """Three images in CUB's own files."""
    import io

    from PIL import Image

    coded = []
    for k in range(3):
        pixels = np.zeros((128, 128, 3), np.uint8)
        pixels[32:64, 32 : 64 + 8 * k] = 255
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        coded.append(np.frombuffer(buffer.getvalue(), np.uint8))
    np.savez(
        folder / "cub10_images128_jpeg.npz", jpeg=np.concatenate(coded), length=np.array([len(c) for c in coded]),
        y=np.array([0, 1, 1]), image_id=np.array([2, 1, 3]), orig_wh=np.array([[256, 128], [128, 128], [512, 256]]),
        is_train=np.array([False, True, False]), filename=np.array(["a/1.jpg", "b/2.jpg", "b/3.jpg"]),
    )  # fmt: skip
    np.savez(folder / "cub_meta.npz", bbox=np.array([[32, 32, 40, 32], [64, 32, 64, 32], [128, 64, 192, 64.0]]))


def test_cub_s_boxes_lie_on_the_birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cub200").mkdir()
    monkeypatch.setenv("UNFOOLED_DATA", str(tmp_path))
    with pytest.raises(BadInput, match="CUB needs the file"):
        load_cub()
    miniature(tmp_path / "cub200")
    found = load_cub("test", size=64)
    assert found.data.y.tolist() == [0, 1]
    assert found.boxes.tolist() == [[16, 16, 16, 16], [16, 16, 24, 16]]
    for x, mask in zip(found.data.x, found.masks, strict=True):
        assert x.mean(0)[mask == 1].mean() > 0.9
        assert x.mean(0)[mask == 0].mean() < 0.1
    assert load_cub("train").boxes.tolist() == [[32, 32, 40, 32]]
    plain = load_dataset("cub", "test", size=64)
    assert (plain.name, plain.classes) == ("cub", ["a", "b"])
    assert torch.equal(plain.x, found.data.x)
    assert load_cub(labels=["b", "a"]).data.y.tolist() == [1, 0]


@pytest.mark.skipif(
    not Path(os.environ.get("UNFOOLED_DATA", "../shared/data"), "cub200").is_dir(), reason="CUB is not in UNFOOLED_DATA"
)
def test_the_real_birds() -> None:
    found = load_cub("test", 12)
    assert found.data.x.shape == (12, 3, 128, 128)
    inside = (found.boxes[:, :2] >= 0).all(1) & ((found.boxes[:, :2] + found.boxes[:, 2:]) <= 129).all(1)
    assert inside.all()
    area = found.masks.mean((1, 2))
    assert 0.05 < area.min() < area.max() < 1


def test_the_attention_study_knows_where_the_object_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cub200").mkdir()
    miniature(tmp_path / "cub200")
    monkeypatch.setenv("UNFOOLED_DATA", str(tmp_path))
    birds = known_samples("cub", 2, size=64)
    assert birds.mask is not None
    assert torch.equal(birds.mask, load_cub("test", 2, size=64).masks)
    assert torch.equal(birds.x, load_cub("test", 2, size=64).data.x)
    assert list(birds.classes) == ["a", "b"]
    canvas, made = known_samples("digits-canvas", 6), load_digits_canvas(6, split="test")
    assert canvas.mask is not None
    assert torch.equal(canvas.x, made.x)
    assert torch.equal(canvas.mask, made.masks.float())
    half = known_samples("digits-canvas", 3, split="train", size=20)
    assert half.mask is not None
    assert torch.equal(half.mask, F.avg_pool2d(load_digits_canvas(3, split="train").masks[:, None].float(), 2)[:, 0])
    shapes, truth = known_samples("shapes:0.9", 4, size=(16, 32)), load_shapes(4, split="test", rho=0.9)
    assert shapes.mask is not None
    assert shapes.parts is not None
    assert torch.equal(shapes.mask, F.avg_pool2d(truth.masks["object"][:, None].float(), (2, 1))[:, 0])
    assert torch.equal(shapes.parts, F.avg_pool2d(truth.parts.float(), (2, 1)))
    assert known_samples("digits", 4).mask is None


def test_digits_on_canvases() -> None:
    found = load_digits_canvas(600, split="train")
    assert found.x.shape == (600, 1, 40, 40)
    assert 0 <= found.x.min() < found.x.max() <= 1
    again = load_digits_canvas(5, split="train")
    assert torch.equal(again.x, found.x[:5]), "the same whatever the number"
    assert not torch.equal(load_digits_canvas(5, seed=1).x, again.x)
    # The mask is dilated ink: it lies around the digit's square, and takes some of it.
    area = found.masks.flatten(1).sum(1)
    assert 30 < area.min() < area.max() < 18 * 18
    for k in range(20):
        i, j = found.corner[k].tolist()
        outside = found.masks[k].clone()
        outside[max(i - 1, 0) : i + 17, max(j - 1, 0) : j + 17] = False
        assert not outside.any()
    # Where it lies says nothing of what it is.
    from scipy.stats import f_oneway

    groups = [[found.corner[found.y == c, axis].double().numpy() for c in range(10)] for axis in range(2)]
    assert min(f_oneway(*g).pvalue for g in groups) > 1e-3
    data = load_dataset("digits-canvas", "test", n=8)
    assert torch.equal(data.x, load_digits_canvas(8, split="test").x)
    assert torch.equal(data.y, load_digits_canvas(8, split="test").y)
    with pytest.raises(BadInput, match="n is 0"):
        load_digits_canvas(0)
