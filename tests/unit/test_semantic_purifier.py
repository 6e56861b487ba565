"""The semantic purifier: fit, use, store."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.data import load_data
from unfooled.features import Encoder
from unfooled.models import SmallCnn
from unfooled.purification import Clusters, SemanticPurifier, fit_purifier, guard, load_purifier
from unfooled.training import Batches, Standard, train


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return load_data("digits", "train", n=500)


@pytest.fixture(scope="module")
def net(data: tuple[Tensor, Tensor]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(SmallCnn(width=8), mean=0.3, std=0.4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in train(model, Batches(*data, 50), Standard(), optimizer, epochs=6):
        pass
    return model.eval()


def fit(net: nn.Module, data: tuple[Tensor, Tensor], **options: Any) -> SemanticPurifier:
    given = {"seed": 0, "size": 4, "atoms": 16, "sparsity": 0.05, "max_clusters": 2, "min_size": 15, **options}
    return fit_purifier(Encoder(net, "fc1"), *data, **given)


@pytest.fixture(scope="module")
def purify(net: nn.Module, data: tuple[Tensor, Tensor]) -> SemanticPurifier:
    return fit(net, data)


def identity_purifier(**options: Any) -> SemanticPurifier:
    """Two clusters of the mean brightness, and the unit vectors as atoms."""
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    clusters = Clusters(
        torch.tensor([[0.3], [0.7]]).double(), one, torch.zeros(2).double(), torch.arange(2), one[0], torch.zeros(1)
    )
    atoms = torch.eye(16).reshape(1, 16, 1, 4, 4).expand(2, -1, -1, -1, -1).contiguous()
    return SemanticPurifier(lambda x: x.flatten(1).mean(1, keepdim=True), clusters, atoms, **options)


def test_clean_accuracy_is_lost_by_a_point_at_most(
    net: nn.Module, data: tuple[Tensor, Tensor], purify: SemanticPurifier
) -> None:
    x, y = data
    with torch.no_grad():
        before, after = ((net(z).argmax(1) == y).double().mean() for z in (x, purify(x)))
    assert before > 0.97
    assert after >= before - 0.01
    assert (purify(x) - x).abs().mean() > 0.01


def test_no_images_are_an_answer(purify: SemanticPurifier) -> None:
    assert purify(torch.zeros(0, 1, 8, 8)).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_of_other_precisions_are_converted_for_the_encoder(
    data: tuple[Tensor, Tensor], purify: SemanticPurifier, dtype: torch.dtype
) -> None:
    x = data[0][:6].to(dtype)
    made = purify(x)
    assert made.dtype == dtype
    torch.testing.assert_close(made.float(), purify(x.float()), atol=1e-5 if dtype == torch.float64 else 1e-2, rtol=0)
    assert torch.equal(purify.distance(x), purify.distance(x.float()))


def test_a_fit_to_doubles_is_that_to_floats(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    x, y = data[0][:60], data[1][:60] % 2
    single, double = (fit(net, (z, y), max_clusters=1) for z in (x, x.double()))
    assert torch.equal(single.clusters.mean, double.clusters.mean)
    torch.testing.assert_close(single.dictionaries, double.dictionaries.float(), atol=1e-3, rtol=0)


def test_output_is_in_the_box_and_independent_of_the_batch(
    data: tuple[Tensor, Tensor], purify: SemanticPurifier, net: nn.Module
) -> None:
    x = (data[0][:40] + 0.3 * torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    before, modes = x.clone(), [module.training for module in net.modules()]
    z = purify(x)
    assert z.min() >= 0
    assert z.max() <= 1
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(purify(x[order]), z[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat([purify(part) for part in x.split(7)]), z, rtol=0, atol=1e-5)
    assert torch.equal(x, before)
    assert [module.training for module in net.modules()] == modes


def test_the_soft_choice_becomes_the_hard_one(data: tuple[Tensor, Tensor], purify: SemanticPurifier) -> None:
    x = data[0][:50]
    hard, soft = purify(x), replace(purify, temperature=1e-4)(x)
    torch.testing.assert_close(soft, hard, rtol=0, atol=1e-5)
    assert (replace(purify, temperature=30.0)(x) - hard).abs().max() > 1e-3
    k, weight = replace(purify, temperature=30.0).weights(x)
    assert k.shape == weight.shape == (50, 3)
    torch.testing.assert_close(weight.sum(1), torch.ones(50))
    assert torch.equal(k[:, 0], purify.distance(x).argmin(1))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_unit_atoms_without_sparsity_return_the_input(stride: int) -> None:
    x = torch.rand(3, 1, 9, 10, generator=torch.Generator().manual_seed(0))
    purify = identity_purifier(sparsity=0.0, steps=1, stride=stride)
    torch.testing.assert_close(purify(x), x, rtol=0, atol=1e-6)
    low = replace(purify, sparsity=100.0)(x)
    assert (low - x).abs().max() > 0.1


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_end_to_end_gradients_are_finite_differences(temperature: float) -> None:
    x = 0.3 + 0.4 * torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    purify = identity_purifier(sparsity=0.05, steps=3, temperature=temperature)
    learnt = torch.randn(2, 6, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 4
    purify = replace(purify, dictionaries=learnt)
    assert torch.autograd.gradcheck(purify, (x.requires_grad_(),))
    if temperature:  # the choice itself has one, too
        assert torch.autograd.gradcheck(lambda x: purify.weights(x)[1], (x,))


def test_the_purifier_owns_its_encoder(net: nn.Module, data: tuple[Tensor, Tensor], purify: SemanticPurifier) -> None:
    x, own = data[0][:20], purify.encode.model  # type: ignore[attr-defined]
    assert own is not net
    assert not any(p.requires_grad for p in own.parameters())
    assert all(p.requires_grad for p in net.parameters())
    before = purify(x)
    with torch.no_grad():
        net.module.fc1.weight.add_(1)  # type: ignore[union-attr, operator]
    try:
        assert torch.equal(purify(x), before)
    finally:
        with torch.no_grad():
            net.module.fc1.weight.sub_(1)  # type: ignore[union-attr, operator]
    guarded = guard(net, purify).train()
    trainable = [p for p in guarded.parameters() if p.requires_grad]
    assert len(trainable) == len(list(net.parameters()))


def test_the_same_seed_gives_the_same_purifier(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    small = (data[0][:150], data[1][:150])
    a, b, c = (fit(net, small, seed=s, max_clusters=1) for s in (1, 1, 2))
    assert torch.equal(a.dictionaries, b.dictionaries)
    assert not torch.equal(a.dictionaries, c.dictionaries)
    assert a.about == {"seed": 1, "n": 150, "shape": [1, 8, 8]}


@pytest.mark.parametrize("coding", ["patches", "convolutional"])
def test_saved_and_loaded_agree_bit_for_bit(
    net: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path, coding: str
) -> None:
    x, y = data[0][:120], data[1][:120]
    options = {"max_clusters": 1, "min_size": 5, "atoms": 2, "coding": coding, "sparsity": 0.1}
    purify = replace(fit(net, (x, y % 2), **options), steps=5)
    purify.save(tmp_path / "p")
    assert {file.name for file in (tmp_path / "p").iterdir()} == {"purifier.npz", "purifier.json"}
    with np.load(tmp_path / "p" / "purifier.npz", allow_pickle=False) as stored:
        assert "encoder/0/module.fc1.weight" in stored.files
    for encode in (None, Encoder(net, "fc1"), purify.encode):
        loaded = load_purifier(tmp_path / "p", encode)
        assert torch.equal(loaded(x), purify(x))
        assert torch.equal(replace(loaded, temperature=3.0)(x), replace(purify, temperature=3.0)(x))
        assert loaded.about == purify.about
        assert repr(loaded.clusters.fits) == repr(purify.clusters.fits)
    other = SmallCnn(width=4).eval()  # any model may be guarded by it
    assert guard(other, load_purifier(tmp_path / "p"))(x).shape == (120, 10)


def test_weights_of_short_floats_are_saved_and_loaded(
    net: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    x, y = data[0][:60], data[1][:60] % 2
    for kind in (torch.bfloat16, torch.float16):
        encode = Encoder(copy.deepcopy(net).to(kind), "fc1")
        purify = fit_purifier(encode, x, y, seed=0, size=4, atoms=2, max_clusters=1, min_size=5)
        purify = replace(purify, dictionaries=purify.dictionaries.to(kind).float())
        purify.save(tmp_path / str(kind))
        for loaded in (load_purifier(tmp_path / str(kind)), load_purifier(tmp_path / str(kind), encode)):
            assert torch.equal(loaded(x), purify(x))
    mixed = Encoder(
        Classifier(SmallCnn((1, 8, 8), 10, width=4).to(torch.bfloat16), mean=[0.5], std=[0.5]).eval(), "fc1"
    )
    purify = fit_purifier(mixed, x, y, seed=0, size=4, atoms=2, max_clusters=1, min_size=5)
    purify.save(tmp_path / "mixed")
    assert torch.equal(load_purifier(tmp_path / "mixed")(x), purify(x))
    facts = json.loads((tmp_path / "torch.bfloat16" / "purifier.json").read_text())
    damaged: Any
    for damaged in (3, ["nothing"], ["clusters/mean"], [[]]):
        (tmp_path / "torch.bfloat16" / "purifier.json").write_text(json.dumps(facts | {"bfloat16": damaged}))
        with pytest.raises(BadInput):
            load_purifier(tmp_path / "torch.bfloat16")


def test_a_folder_that_holds_another_thing_of_the_name_is_refused(purify: SemanticPurifier, tmp_path: Path) -> None:
    (tmp_path / "purifier.json").mkdir()
    with pytest.raises(BadInput, match=r"purifier\.json cannot be written: .*; give another folder"):
        purify.save(tmp_path)


def test_encoders_of_other_code_are_given_again(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 6)).eval()
    x, y = data[0][:120], data[1][:120] % 2
    purify = fit_purifier(own, x, y, seed=0, size=4, atoms=4, max_clusters=1, min_size=5)
    purify.save(tmp_path)
    with pytest.raises(BadInput, match=r"architecture that unfooled does not have; give encode"):
        load_purifier(tmp_path)
    assert torch.equal(load_purifier(tmp_path, own)(x), purify(x))


def test_folders_and_encoders_that_do_not_fit(net: nn.Module, purify: SemanticPurifier, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    purify.save(folder)
    other = Classifier(SmallCnn(width=8), mean=0.3, std=0.4).eval()
    for encode in (Encoder(other, "fc1"), Encoder(net, "relu4")):
        with pytest.raises(BadInput, match=r"other weights, or another layer.*any model may be guarded"):
            load_purifier(folder, encode)
    with pytest.raises(BadInput, match=r"has no purifier.npz and no purifier.json; a purifier is a folder"):
        load_purifier(tmp_path)
    facts = json.loads((folder / "purifier.json").read_text())
    changes: list[dict[str, Any]] = [{"format": 9}, {"options": {}}, {"encoder": {}}, {"fits": 3}]
    for change in changes:
        (folder / "purifier.json").write_text(json.dumps({**facts, **change}))
        with pytest.raises(BadInput, match=r"save .*again"):
            load_purifier(folder)
    (folder / "purifier.json").write_text("{")
    with pytest.raises(BadInput, match="damaged"):
        load_purifier(folder)
    (folder / "purifier.json").write_text(json.dumps(facts))
    content = (folder / "purifier.npz").read_bytes()
    (folder / "purifier.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput, match=r"cut off|damaged"):
        load_purifier(folder)
    (folder / "purifier.npz").unlink()
    with pytest.raises(BadInput, match=r"has no purifier.npz;"):
        load_purifier(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be made"):
        purify.save(tmp_path / "file" / "p")


def test_images_that_the_purifier_does_not_fit(purify: SemanticPurifier) -> None:
    with pytest.raises(BadInput, match="images of 1 channel, these have 3"):
        purify(torch.rand(2, 3, 8, 8))
    with pytest.raises(BadInput, match="images are 8x3, patches 4x4"):
        purify(torch.rand(2, 1, 8, 3))
    with pytest.raises(BadInput, match="images are floating point"):
        purify(torch.rand(2, 8, 8))
    with pytest.raises(BadInput, match="give the encoder and the size of images"):
        identity_purifier_with_pixels()(torch.rand(2, 1, 8, 8))


def identity_purifier_with_pixels() -> SemanticPurifier:
    return replace(identity_purifier(), encode=lambda x: x.flatten(1))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"smooth": 0.0}, "smooth is 0.0; it must be above 0, since without it the high band is 0"),
        ({"size": 9}, "images are 8x8, patches 9x9; choose smaller patches"),
        ({"coding": "both"}, "coding is 'both'"),
        ({"seed": -1}, "seed is -1"),
        ({"batch": 0}, "batch is 0"),
        ({"atoms": 0}, "atoms is 0"),
    ],
)
def test_fits_that_cannot_be_made(
    net: nn.Module, data: tuple[Tensor, Tensor], change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence):
        fit(net, (data[0][:60], data[1][:60] % 2), max_clusters=1, **change)


def broken(x: Tensor) -> Tensor:
    raise ValueError("no images today")


@pytest.mark.parametrize(
    ("encode", "sentence"),
    [
        ("net", "encode is a str; give a callable"),
        (broken, r"the encoder fails on images of shape \(1, 8, 8\), torch.float32, with ValueError: no images today"),
        (lambda x: None, "the encoder returns a NoneType for 6 images"),
        (lambda x: x[:1], r"the encoder returns shape \(1, 1, 8, 8\) for 6 images; latents have one row for each"),
        (lambda x: x.sum(), r"the encoder returns shape \(\) for 6 images"),
    ],
)
def test_encoders_that_cannot_be_used(encode: Any, sentence: str, purify: SemanticPurifier) -> None:
    x = torch.rand(6, 1, 8, 8)
    with pytest.raises(BadInput, match=sentence):
        fit_purifier(encode, x, torch.arange(6) % 2, seed=0, size=4)
    with pytest.raises(BadInput, match=sentence):
        replace(purify, encode=encode)(x)


def test_images_that_teach_nothing(net: nn.Module) -> None:
    y = torch.arange(40) % 2
    with pytest.raises(BadInput, match="every image is constant"):
        fit(net, (torch.full((40, 1, 8, 8), 0.5), y))
    with pytest.raises(BadInput, match="class 1 has no image"):
        fit(net, (torch.rand(40, 1, 8, 8), 2 * y))
    with pytest.raises(BadInput, match="x lies in"):
        fit(net, (255 * torch.rand(40, 1, 8, 8), y))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sparsity": -1.0}, "sparsity is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"coding": "x"}, "coding is 'x'"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        identity_purifier(**options)
    with pytest.raises(BadInput, match="there are 1 dictionaries and 2 clusters"):
        replace(identity_purifier(), dictionaries=torch.zeros(1, 2, 1, 4, 4))
    with pytest.raises(BadInput, match=r"they are \(M, A, C, size, size\)"):
        replace(identity_purifier(), dictionaries=torch.zeros(2, 2, 16))


def test_another_function_is_not_taken_for_the_encoder_of_the_fit(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    x, y = data
    own = fit_purifier(lambda z: z.flatten(1)[:, ::7], x[:120], y[:120], seed=0, size=4, atoms=4, max_clusters=1)
    own.save(tmp_path / "plain")
    assert torch.equal(load_purifier(tmp_path / "plain", lambda z: z.flatten(1)[:, ::7])(x[:3]), own(x[:3]))
    with pytest.raises(BadInput, match="gives other latents than the encoder"):
        load_purifier(tmp_path / "plain", lambda z: 0 * z.flatten(1)[:, ::7] + 7)


def test_an_encoder_of_ones_own_is_not_said_to_lie_in_the_folder(data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    x, y = data

    def mine(seed: int) -> nn.Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh()).eval()

    own = fit_purifier(Encoder(mine(0), "1"), x[:120], y[:120], seed=0, size=4, atoms=4, max_clusters=1)
    own.save(tmp_path / "mine")
    with pytest.raises(BadInput, match="give the one that it was fitted with"):
        load_purifier(tmp_path / "mine", Encoder(mine(1), "1"))


def test_counts_that_are_no_whole_numbers(net: nn.Module, data: tuple[Tensor, Tensor]) -> None:
    for name, value in (("atoms", 2.5), ("max_clusters", "2"), ("size", 4.0), ("min_size", True)):
        with pytest.raises(BadInput, match=f"{name} is {value!r}; it must be a whole number"):
            fit(net, data, **{name: value})


def test_files_that_were_edited(purify: SemanticPurifier, tmp_path: Path) -> None:
    purify.save(tmp_path / "p")
    whole = dict(np.load(tmp_path / "p" / "purifier.npz"))
    for name, value, words in (
        ("dictionaries", whole["dictionaries"] * np.nan, "NaN or infinite"),
        ("clusters/mean", whole["clusters/mean"][0], "do not fit together"),
    ):
        np.savez(tmp_path / "p" / "purifier.npz", **(whole | {name: value}))
        with pytest.raises(BadInput, match=words):
            load_purifier(tmp_path / "p")
    np.savez(tmp_path / "p" / "purifier.npz", **whole)
    facts = json.loads((tmp_path / "p" / "purifier.json").read_text())
    facts["options"]["stride"] = 99
    (tmp_path / "p" / "purifier.json").write_text(json.dumps(facts))
    with pytest.raises(BadInput, match="stride is 99 and patches have a side of 4; they must touch"):
        load_purifier(tmp_path / "p")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("options",), None), (("options",), -1), (("options",), 1.5), (("options",), [1, "a"]), (("about",), 3),
        (("about",), "text"), (("about",), None), (("encoder",), []), (("encoder", "layer"), None),
        (("encoder", "layer"), 4), (("encoder", "layer"), ["fc1"]), (("options", "steps"), 1.5),
        (("options", "smooth"), "5"), (("options", "stride"), None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("given", [True, False])
def test_facts_of_another_kind(
    purify: SemanticPurifier, tmp_path: Path, place: tuple[str, ...], value: Any, given: bool
) -> None:
    purify.save(tmp_path / "p")
    facts = json.loads((tmp_path / "p" / "purifier.json").read_text())
    inner = facts
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (tmp_path / "p" / "purifier.json").write_text(json.dumps(facts))
    if given and place[0] == "encoder" and len(place) == 2:  # which is not read where an encoder is given
        load_purifier(tmp_path / "p", purify.encode)
        return
    with pytest.raises(BadInput, match=r"damaged|whole number|a number|no layer of a network"):
        load_purifier(tmp_path / "p", purify.encode if given else None)


def test_numbers_of_numpy_and_tensors_are_numbers(net: nn.Module, data: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    made = fit(net, data, smooth=np.float32(1), sparsity=torch.tensor(0.05), atoms=np.int64(3))
    assert made.dictionaries.shape[1] == 3
    made = replace(made, steps=np.int64(5))  # type: ignore[arg-type]
    made.save(tmp_path / "p")
    x = data[0][:4]
    assert torch.equal(load_purifier(tmp_path / "p", made.encode)(x), made(x))
    for value in (Fraction(1, 2), 10**400, True, 1j):
        with pytest.raises(BadInput, match="smooth is"):
            fit(net, data, smooth=value)


def test_numbers_of_another_kind(net: nn.Module, data: tuple[Tensor, Tensor], purify: SemanticPurifier) -> None:
    for name, value in (("smooth", "5"), ("sparsity", None), ("smooth", float("nan"))):
        with pytest.raises(BadInput, match=f"{name} is {value!r}; it must be a"):
            fit(net, data, **{name: value})
    with pytest.raises(BadInput, match="size is 1; it must be at least 2"):
        fit(net, data, size=1)
    for name in ("steps", "stride"):
        with pytest.raises(BadInput, match=f"{name} is 1.5; it must be a whole number"):
            replace(purify, **{name: 1.5})  # type: ignore[arg-type]
