"""Loading models: every kind of source, and one sentence for everything that can be wrong with it."""

from __future__ import annotations

import argparse
import builtins
import importlib.machinery
import json
import math
import os
import re
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.models import ARCHITECTURES, CifarResnet, Lenet5, SmallCnn, load_model
from unfooled.models.readers.huggingface import _names, _preprocessing

DATA = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"))
X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net() -> SmallCnn:
    return SmallCnn(width=4).eval()


def same(classifier: Classifier, net: nn.Module, x: torch.Tensor = X) -> bool:
    return not classifier.training and torch.allclose(classifier(x), net(x), atol=1e-5)


# Checkpoints


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pth.tar", "", ".safetensors"])
def test_a_bare_state_dict_needs_its_architecture_alone(tmp_path: Path, suffix: str) -> None:
    net = SmallCnn((3, 32, 32), 43, width=8).eval()
    path = tmp_path / f"signs{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(net.state_dict(), path)
    classifier = load_model(path, "small-cnn")
    assert same(classifier, net, torch.rand(2, 3, 32, 32))
    assert classifier.name.startswith("signs")


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.model."])
def test_wrappers_and_prefixes_are_stripped(tmp_path: Path, net: SmallCnn, key: str, prefix: str) -> None:
    state = {prefix + name: value for name, value in net.state_dict().items()}
    torch.save({key: state, "epoch": 3, "best": np.float64(0.5), "args": argparse.Namespace(a=1)}, tmp_path / "a.pt")
    assert same(load_model(tmp_path / "a.pt", "small-cnn"), net)


def test_the_weights_of_a_training_module_are_picked_out(tmp_path: Path, net: SmallCnn) -> None:
    state = {f"model.{name}": value for name, value in net.state_dict().items()} | {"loss.weight": torch.ones(10)}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    assert same(load_model(tmp_path / "a.ckpt", "small-cnn"), net)


FACTS: dict[str, Any] = {
    "arch": "small-cnn",
    "input_shape": [1, 8, 8],
    "num_classes": 10,
    "mean": [0.25],
    "std": 0.5,
    "classes": [f"digit {k}" for k in range(10)],
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_our_own_checkpoints_say_it_all(tmp_path: Path, net: SmallCnn, suffix: str) -> None:
    path = tmp_path / f"own{suffix}"
    if suffix == ".pt":
        torch.save({"model": net.state_dict(), **FACTS}, path)
    else:
        save_file(net.state_dict(), path, {k: v if k == "arch" else json.dumps(v) for k, v in FACTS.items()})
    classifier = load_model(path)
    assert same(classifier, lambda x: net((x - 0.25) / 0.5))  # type: ignore[arg-type]
    assert classifier.classes == FACTS["classes"]
    assert classifier.input_shape == (1, 8, 8)
    told = load_model(path, mean=0.0, std=1.0, classes=list("abcdefghij"), input_shape=(1, 9, 9), name="mine")
    assert same(told, net, torch.rand(2, 1, 9, 9))
    assert told.classes == list("abcdefghij")
    assert told.name == "mine"


def test_the_state_of_a_classifier_keeps_its_normalisation(tmp_path: Path) -> None:
    whole = Classifier(SmallCnn((3, 8, 8), width=4), mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]).eval()
    x = torch.rand(2, 3, 8, 8)
    torch.save(whole.state_dict(), tmp_path / "bare.pt")
    assert same(load_model(tmp_path / "bare.pt", "small-cnn"), whole, x)
    torch.save({"model": whole.state_dict(), "arch": "small-cnn", "mean": None, "std": None}, tmp_path / "own.pt")
    assert same(load_model(tmp_path / "own.pt"), whole, x)
    plain = Classifier(SmallCnn(width=4)).eval()
    torch.save({"model": plain.state_dict(), "arch": "small-cnn"}, tmp_path / "plain.pt")
    assert not load_model(tmp_path / "plain.pt").normalises


def test_other_pickle_protocols_load(tmp_path: Path, net: SmallCnn) -> None:
    torch.save({"model": net.state_dict()}, tmp_path / "a.pt", pickle_protocol=3)
    assert same(load_model(tmp_path / "a.pt", "small-cnn"), net)


def test_counters_of_batches_may_lack(tmp_path: Path) -> None:
    net = CifarResnet(classes=4).eval()
    torch.save({k: v for k, v in net.state_dict().items() if "num_batches" not in k}, tmp_path / "old.pt")
    assert same(load_model(tmp_path / "old.pt", "cifar-resnet20"), net, torch.rand(2, 3, 32, 32))


def test_a_fixed_size_network_knows_its_input_shape(tmp_path: Path) -> None:
    torch.save(Lenet5().state_dict(), tmp_path / "a.pt")
    classifier = load_model(tmp_path / "a.pt", "lenet5")
    assert classifier.input_shape == (1, 28, 28)
    with pytest.raises(BadInput, match="28, 28"):
        classifier(torch.rand(1, 1, 32, 32))


def test_loading_leaves_the_global_generator_alone(tmp_path: Path, net: SmallCnn) -> None:
    torch.save(net.state_dict(), tmp_path / "a.pt")
    before = torch.get_rng_state()
    load_model(tmp_path / "a.pt", "small-cnn")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_goes_into_a_module_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_net.py").write_text("import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Linear(4, 3))\n")
    module = nn.Sequential(nn.Linear(4, 3))
    torch.save(module.state_dict(), "a.pt")
    x = torch.rand(2, 4)
    assert same(load_model("a.pt", "own_net.py:build"), module, x)
    # A file may not choose which code runs: what it states is never taken for a factory.
    torch.save({"model": module.state_dict(), "arch": "own_net.py:build"}, "b.pt")
    with pytest.raises(BadInput, match=re.escape("states the architecture 'own_net.py:build', which is not known")):
        load_model("b.pt")


# What can be wrong with a checkpoint


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, legacy: bool) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"model": {"w": torch.zeros(2)}, "e": Evil(marker)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(BadInput, match=r"refused: .* imports and may run \w+\.mkdir; .*save_file.*trust_pickle=True"):
        load_model(path, "small-cnn")
    assert not marker.exists()
    with pytest.raises(BadInput, match="do not fit small-cnn"):
        load_model(path, "small-cnn", trust_pickle=True)
    assert marker.exists()


def test_a_bare_pickle_is_refused_by_what_it_imports(tmp_path: Path) -> None:
    # Protocol 4 of subprocess.getoutput("touch ran"), as `pickle.dump` writes it.
    text = b"\x80\x04\x8c\x0asubprocess\x8c\x09getoutput\x93\x8c\x09touch ran\x85R."
    (tmp_path / "a.pt").write_bytes(text)
    with pytest.raises(BadInput, match=r"refused: .* subprocess\.getoutput"):
        load_model(tmp_path / "a.pt", "small-cnn")
    (tmp_path / "b.pt").write_bytes(b"(dp0\nVa\np1\ncsubprocess\ngetoutput\np2\n(Vtouch ran\np3\ntp4\nRp5\ns.")
    with pytest.raises(BadInput, match=r"refused: .* subprocess\.getoutput"):
        load_model(tmp_path / "b.pt", "small-cnn")


def test_a_whole_module_loads_where_it_is_trusted(tmp_path: Path, net: SmallCnn) -> None:
    torch.save(net, tmp_path / "whole.pt")
    with pytest.raises(BadInput, match=r"may run unfooled\.models\.nets\.small_cnn\.SmallCnn"):
        load_model(tmp_path / "whole.pt")
    assert same(load_model(tmp_path / "whole.pt", trust_pickle=True), net)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, net: SmallCnn, suffix: str, share: float) -> None:
    path = tmp_path / f"cut{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BadInput, match=rf"cut{suffix} .*(cut off|not a whole)"):
        load_model(path, "small-cnn")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello, I am text " * 20, "damaged or no checkpoint"),
        (bytes(range(256)) * 4, "damaged or no checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer.*git lfs pull"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        load_model(tmp_path / "a.pt", "small-cnn")


def test_a_torchscript_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name in ("constants.pkl", "data.pkl", "version"):
            archive.writestr(f"a/{name}", b"3\n" if name == "version" else b"\x80\x02).")
    with pytest.raises(BadInput, match=r"TorchScript archive.*\.pt2"):
        load_model(tmp_path / "a.pt", "small-cnn")


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    for name in ("resnet_best.pt", "resnet_last.pt", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(BadInput, match=r"no file .*resnet_bset\.pt; that folder holds resnet_best\.pt") as error:
        load_model(tmp_path / "resnet_bset.pt", "lenet5")
    assert "notes" not in str(error.value)
    with pytest.raises(BadInput, match="nor a folder"):
        load_model(tmp_path / "no" / "a.pt")
    with pytest.raises(BadInput, match=r"not a model file; known are \.safetensors"):
        load_model(tmp_path / "notes.txt")


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    state = SmallCnn(width=4).state_dict()
    state["fc1.weight"] = torch.zeros(3, 3)
    state["extra.a"], state["extra.b"] = state.pop("conv2.weight"), torch.zeros(1)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(BadInput) as error:
        load_model(tmp_path / "a.pt", "small-cnn")
    for part in (
        "do not fit small-cnn: 1 missing (the first: conv2.weight)",
        "2 unexpected (the first: extra.a)",
        "1 of another shape (the first: fc1.weight, (3, 3) in the file and (16, 128) in the model)",
    ):
        assert part in str(error.value)


def test_another_architecture_that_fits_is_suggested(tmp_path: Path) -> None:
    torch.save(CifarResnet(depth=32).state_dict(), tmp_path / "a.pt")
    with pytest.raises(BadInput, match="names of cifar-resnet32"):
        load_model(tmp_path / "a.pt", "cifar-resnet20")
    with pytest.raises(BadInput, match=r"does not say its architecture; give arch: .* names of cifar-resnet32"):
        load_model(tmp_path / "a.pt")
    torch.save(Lenet5((1, 32, 32)).state_dict(), tmp_path / "b.pt")
    with pytest.raises(BadInput, match=r"linear1\.weight.*give the input_shape"):
        load_model(tmp_path / "b.pt", "lenet5")
    assert load_model(tmp_path / "b.pt", "lenet5", input_shape=(1, 32, 32)).input_shape == (1, 32, 32)


def test_unknown_architectures_and_empty_checkpoints(tmp_path: Path, net: SmallCnn) -> None:
    torch.save(net.state_dict(), tmp_path / "a.pt")
    with pytest.raises(BadInput, match="no architecture 'smal-cnn'; did you mean small-cnn") as error:
        load_model(tmp_path / "a.pt", "smal-cnn")
    assert all(name in str(error.value) for name in ARCHITECTURES)
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "b.pt")
    with pytest.raises(BadInput, match=r"holds no weights \(it holds epoch, loss"):
        load_model(tmp_path / "b.pt", "small-cnn")
    torch.save({"model": net.state_dict(), "arch": "small-cnn", "mean": "grey"}, tmp_path / "c.pt")
    with pytest.raises(BadInput, match="states mean = 'grey'"):
        load_model(tmp_path / "c.pt")
    with pytest.raises(BadInput, match=r"small-cnn is an architecture, .*and arch='small-cnn'"):
        load_model("small-cnn")
    with pytest.raises(BadInput, match="3 class names for 10 classes"):
        load_model(tmp_path / "a.pt", "small-cnn", classes=["a", "b", "c"], num_classes=10)


# Models that the user's own code builds


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("helper.py").write_text("SIZE = 3\n")
    code = """
        from __future__ import annotations
        from dataclasses import dataclass
        import torch
        from torch import nn
        from helper import SIZE
        @dataclass
        class Settings:  # looks its own module up
            size: int = SIZE
        class Net(nn.Linear):
            def __init__(self): super().__init__(4, SIZE)
        def build(): return Net()
        def function(): return lambda x: x.flatten(1)[:, :2]
        def breaks(): raise RuntimeError("the weights are on the moon")
        def needs(width): return Net()
        def nothing(): return None
        ready = Net()
        number = 3
    """
    (tmp_path / "own_models.py").write_text("\n".join(line.removeprefix(" " * 8) for line in code.splitlines()))
    yield tmp_path
    sys.modules.pop("own_models", None)
    sys.modules.pop("helper", None)


@pytest.mark.parametrize("place", ["own_models", "own_models.py", "./own_models.py"])
@pytest.mark.parametrize("name", ["Net", "build", "ready"])
def test_factories_by_module_and_by_file(own: Path, place: str, name: str) -> None:
    before = list(sys.path)
    classifier = load_model(f"{place}:{name}", mean=0.5)
    assert classifier(torch.rand(2, 4)).shape == (2, 3)
    assert not classifier.training
    assert sys.path == before
    assert load_model(f"{place}:function")(torch.rand(2, 4)).shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_models:breaks", r"own_models:breaks: breaks\(\) raised RuntimeError: the weights are on the moon"),
        ("own_models:needs", r"raised TypeError: .*width.*called without arguments"),
        ("own_models:nothing", r"nothing\(\) returned a NoneType"),
        ("own_models:number", "is a int; name a module or a function"),
        ("own_models:bild", "has no 'bild'; did you mean build"),
        ("own_modles:build", "importing own_modles failed with ModuleNotFoundError"),
        ("elsewhere.py:build", "there is no file elsewhere.py"),
        ("own_models.py", r"not a model file; name its factory: own_models\.py:factory"),
    ],
)
def test_what_fails_in_a_factory_is_reported(own: Path, name: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_model(name)


def test_a_file_that_fails_to_import_can_be_mended_and_loaded(own: Path) -> None:
    path = own / "broken.py"
    path.write_text("from torch import nn\nboom\n")
    with pytest.raises(BadInput, match=r"failed with NameError: .*boom"):
        load_model(f"{path}:net")
    path.write_text("from torch import nn\nnet = nn.Linear(2, 2)\n")
    assert load_model(f"{path}:net")(torch.rand(1, 2)).shape == (1, 2)


def test_arch_goes_with_checkpoints_alone(own: Path) -> None:
    with pytest.raises(BadInput, match="arch 'lenet5' goes with a checkpoint"):
        load_model("own_models:build", "lenet5")


# Modules and callables in Python


def test_callables_are_wrapped_and_classifiers_returned() -> None:
    weight = torch.rand(3, 4)
    classifier = load_model(lambda x: x @ weight.T, mean=0.5, std=0.25, classes=["a", "b", "c"], input_shape=(4,))
    x = torch.rand(2, 4)
    assert torch.allclose(classifier(x), (x - 0.5) / 0.25 @ weight.T)
    assert load_model(classifier) is classifier
    with pytest.raises(BadInput, match=r"a normalisation of its own; leave mean and std out"):
        load_model(classifier, std=0.5)
    with pytest.raises(BadInput, match="the model is a int"):
        load_model(3)  # type: ignore[arg-type]


def test_the_callers_module_is_not_changed() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2)).train()
    classifier = load_model(net)
    assert net.training and net[1].training
    assert not classifier.training and not any(m.training for m in classifier.modules())
    x = torch.rand(3, 4)
    assert torch.equal(classifier(x), classifier(x))
    net.eval()
    assert load_model(net).module is net


# Exported programs


def export(net: nn.Module, path: Path, batch: Any = None, x: torch.Tensor = X[:3]) -> Path:
    shapes = None if batch is None else ({0: batch},)
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=shapes), path)
    return path


@pytest.mark.parametrize("bounds", [None, {}, {"max": 4}, {"min": 3, "max": 4}])
def test_an_exported_program_takes_any_batch(tmp_path: Path, net: SmallCnn, bounds: dict[str, int] | None) -> None:
    batch = None if bounds is None else torch.export.Dim("batch", **bounds)
    classifier = load_model(export(net, tmp_path / "net.pt2", batch))
    assert classifier.input_shape == (1, 8, 8)
    for b in (1, 3, 5):
        assert same(classifier, net, X[:b])
    x = X.clone().requires_grad_()
    (g,) = torch.autograd.grad(classifier(x).sum(), x)
    assert torch.allclose(g, torch.autograd.grad(net(x).sum(), x)[0], atol=1e-5)
    assert not any(p.requires_grad for p in classifier.parameters())


def test_programs_that_are_no_classifier(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    torch.export.save(torch.export.export(Two(), (X, X)), tmp_path / "two.pt2")
    with pytest.raises(BadInput, match="takes 2 inputs"):
        load_model(tmp_path / "two.pt2")
    dropping = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 2)).train()
    with pytest.raises(BadInput, match=r"exported in training mode \(dropout\)"):
        load_model(export(dropping, tmp_path / "train.pt2"))
    (tmp_path / "cut.pt2").write_bytes((tmp_path / "two.pt2").read_bytes()[:-200])
    with pytest.raises(BadInput, match="cut off, damaged"):
        load_model(tmp_path / "cut.pt2")


def edited(path: Path, out: Path, edit: Callable[[str, bytes], bytes], extra: dict[str, bytes] | None = None) -> Path:
    """The archive at `path` with each entry's content passed through `edit(name, content)`."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for item in old.infolist():
            new.writestr(item.filename, edit(item.filename.partition("/")[2], old.read(item)))
        for name, content in (extra or {}).items():
            new.writestr(f"{path.stem}/{name}", content)
    return out


def in_graph(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def edit(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        assert old in content.decode()
        return content.decode().replace(old, new).encode()

    return edit


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("torch.ops.aten.relu.default", "torch.hub.os.system", "a call of torch.hub.os.system"),
        ("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default", "a call of torch.ops.aten.from_file"),
        ("torch.ops.aten.relu.default", "torch.ops.aten.save.default", "a call of torch.ops.aten.save"),
        ("torch.ops.aten.relu.default", "_operator.attrgetter", "a call of _operator.attrgetter"),
        ('"relu"', '"relu=print(1)"', "the name 'relu=print"),
        ("Symbol('", "__import__('os').system('", "the expression"),
        ("Symbol('", "Max('1+", "the expression"),
        ("builtins.tuple", "some.Thing", "a container some.Thing"),
    ],
)
def test_a_graph_that_could_run_code_is_refused(tmp_path: Path, old: str, new: str, found: str) -> None:
    small = nn.Sequential(nn.Flatten(), nn.ReLU()).eval()
    path = export(small, tmp_path / "net.pt2", torch.export.Dim("batch"))
    assert same(load_model(path), small)
    with pytest.raises(BadInput, match=f"refused: it holds {re.escape(found)}.*trust_pickle=True"):
        load_model(edited(path, tmp_path / "evil.pt2", in_graph(old, new)))


def test_pickles_and_libraries_in_an_exported_program_are_refused(tmp_path: Path, net: SmallCnn) -> None:
    path, marker, evil = export(net, tmp_path / "net.pt2"), tmp_path / "ran", tmp_path / "evil.pt2"
    torch.save(((Evil(marker),), {}), tmp_path / "inputs")
    pickled = (tmp_path / "inputs").read_bytes()
    edited(path, evil, lambda name, content: pickled if name == "data/sample_inputs/model.pt" else content)
    with pytest.raises(BadInput, match="a pickle, data/sample_inputs"):
        load_model(evil)
    assert not marker.exists()
    assert same(load_model(evil, trust_pickle=True), net)
    assert marker.exists()  # the loader alone would have run it
    edited(path, evil, lambda _, content: content.replace(b'"use_pickle": false', b'"use_pickle": true'))
    with pytest.raises(BadInput, match=r"the pickled weight conv1\.weight"):
        load_model(evil)
    edited(path, evil, lambda _, content: content, {"data/aotinductor/model/a.so": b"code"})
    with pytest.raises(BadInput, match=r"an entry 'data/aotinductor/model/a\.so'"):
        load_model(evil)
    with pytest.warns(UserWarning, match="Duplicate name"):
        edited(path, evil, lambda _, content: content, {"models/model.json": b"{}"})
    with pytest.raises(BadInput, match="entries of the same name"):
        load_model(evil)


def test_guards_are_dropped_since_they_are_source(tmp_path: Path, net: SmallCnn) -> None:
    path, marker = export(net, tmp_path / "net.pt2"), tmp_path / "ran"
    code = json.dumps([f"open({str(marker)!r}, 'w') is not None"])

    def edit(name: str, content: bytes) -> bytes:
        held = json.loads(content) if name == "models/model.json" else None
        return content if held is None else json.dumps(held | {"guards_code": json.loads(code)}).encode()

    assert same(load_model(edited(path, tmp_path / "evil.pt2", edit)), net, X[:3])
    assert not marker.exists()


# Optional libraries


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, BaseException], None]:
    real = builtins.__import__

    def block(blocked: str, error: BaseException) -> None:
        def fake(name: str, *args: Any, **options: Any) -> Any:
            if name.split(".")[0] == blocked:
                raise error
            return real(name, *args, **options)

        monkeypatch.setattr(builtins, "__import__", fake)

    return block


@pytest.mark.parametrize(
    "error",
    [ImportError("no torchvision"), RuntimeError("operator torchvision::nms does not exist"), OSError("cudart")],
)
def test_a_missing_timm_is_named(absent: Callable[[str, BaseException], None], error: BaseException) -> None:
    absent("timm", error)
    with pytest.raises(BadInput, match=rf"need the timm extra \(pip install -e '\.\[timm\]'\).*{error}"):
        load_model("timm:resnet18")


def hf_folder(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    facts = {"model_type": "resnet", "id2label": {"2": "c", "1": "b", "0": "a"}, "num_channels": 1, **config}
    (folder / "config.json").write_text(json.dumps(facts))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_a_missing_transformers_is_named(tmp_path: Path, absent: Callable[[str, BaseException], None]) -> None:
    absent("transformers", ImportError("No module named 'transformers'"))
    with pytest.raises(BadInput, match=r"needs the hf extra \(pip install -e '\.\[hf\]'\)"):
        load_model(hf_folder(tmp_path / "a"))
    (tmp_path / "a" / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"has a config\.json but no weights"):
        load_model(tmp_path / "a")
    with pytest.raises(BadInput, match=r"folder without a config\.json"):
        load_model(tmp_path)


class Headed(nn.Module):
    """Model as libraries build it: weights by name, an output that holds its logits."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(4, classes)
        self.pretrained_cfg = {"mean": (0.5,), "std": (0.25,), "input_size": (1, 2, 2), "classifier": "fc"}

    def forward(self, x: torch.Tensor) -> Any:
        return types.SimpleNamespace(logits=self.fc(x.flatten(1)))


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


def test_hugging_face_folders_bring_classes_and_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Headed()
    asked: dict[str, Any] = {}
    lacking: list[str] = []

    def from_pretrained(folder: Path, **options: Any) -> Any:
        asked.update(options)
        return net, {"missing_keys": lacking, "mismatched_keys": []}

    stand_in(
        monkeypatch,
        "transformers",
        AutoModelForImageClassification=types.SimpleNamespace(from_pretrained=from_pretrained),
    )
    folder = hf_folder(tmp_path / "resnet-tiny")
    preprocessing = {
        "image_mean": [0.5],
        "image_std": [0.25],
        "size": {"shortest_edge": 9},
        "crop_size": {"height": 2, "width": 2},
        "do_center_crop": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    classifier = load_model(folder)
    x = torch.rand(2, 1, 2, 2)
    assert torch.allclose(classifier(x), net((x - 0.5) / 0.25).logits)
    assert (classifier.name, classifier.classes) == ("resnet-tiny", ["a", "b", "c"])
    assert classifier.input_shape == (1, 2, 2)
    assert asked == {
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing | {"do_normalize": False, "size": 5}))
    assert not load_model(folder).normalises
    lacking.append("fc.weight")
    with pytest.raises(BadInput, match=r"no weights for 1 parts .*fc\.weight"):
        load_model(folder)


PROCESSORS: dict[str, tuple[dict[str, Any], Callable[[torch.Tensor], torch.Tensor]]] = {
    "plain": ({"do_rescale": True, "rescale_factor": 0.00392156862745098}, lambda x: (x - 0.5) / 0.25),
    "bytes": ({"do_rescale": False}, lambda x: (255 * x - 0.5) / 0.25),
    "twice as large": ({"rescale_factor": 1 / 127.5}, lambda x: (2 * x - 0.5) / 0.25),
    "from -1 on": ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, lambda x: (2 * x - 1 - 0.5) / 0.25),
    "only from -1 on": (
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}, lambda x: 2 * x - 1,
    ),
    "divided twice": ({"include_top": True}, lambda x: (x - 0.5) / 0.25 / 0.25),
    "bytes without normalisation": ({"do_rescale": False, "do_normalize": False}, lambda x: 255 * x),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_an_image_processor_does_is_done(name: str) -> None:
    options, expected = PROCESSORS[name]
    mean, std, _ = _preprocessing({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, **options}, {"image_size": 4})
    x = torch.rand(2, 3, 4, 4)
    net = nn.Flatten()
    got = Classifier(net, mean=mean, std=std)(x)
    torch.testing.assert_close(got, net(expected(x)))


def test_processors_and_names_that_would_be_misread_are_refused() -> None:
    with pytest.raises(BadInput, match="order blue, green, red"):
        _preprocessing({"do_flip_channel_order": True}, {})
    with pytest.raises(BadInput, match=r"preprocessor_config\.json cannot be read"):
        _preprocessing({"rescale_factor": "a"}, {})
    assert _names({"id2label": {str(k): f"c{k}" for k in (10, 9, 2, 1, 0, 3, 4, 5, 6, 7, 8)}}) == [
        f"c{k}" for k in range(11)
    ]
    with pytest.raises(BadInput, match=r"has the indices 1, 2, 3; the outputs are 0, 1, 2"):
        _names({"id2label": {"1": "a", "2": "b", "3": "c"}})


def test_timm_models_with_their_weights_and_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def create_model(name: str, *, pretrained: bool, num_classes: int = 3) -> nn.Module:
        made.append({"name": name, "pretrained": pretrained, "num_classes": num_classes})
        if pretrained and name == "offline":
            raise OSError("Name or service not known")
        if name not in ("tiny", "offline"):
            raise RuntimeError(f"Unknown model ({name})")
        return Headed(num_classes)

    stand_in(
        monkeypatch,
        "timm",
        create_model=create_model,
        list_models=lambda: ["tiny", "offline"],
        models=types.SimpleNamespace(get_pretrained_cfg_value=lambda name, key: Headed().pretrained_cfg[key]),
    )
    classifier = load_model("timm:tiny")
    x = torch.rand(2, 1, 2, 2)
    assert torch.allclose(classifier(x), classifier.module((x - 0.5) / 0.25).logits)
    assert classifier.input_shape == (1, 2, 2)
    with pytest.raises(BadInput, match="timm has no model 'tinny'; did you mean tiny"):
        load_model("timm:tinny")
    with pytest.raises(BadInput, match=r"Name or service not known.*arch='timm:offline'"):
        load_model("timm:offline")
    trained = Headed(7).eval()
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "a.pt")
    loaded = load_model(tmp_path / "a.pt", "timm:offline")
    assert made[-1] == {"name": "offline", "pretrained": False, "num_classes": 7}
    assert torch.allclose(loaded(x), trained((x - 0.5) / 0.25).logits)


# The published checkpoints


@pytest.fixture(scope="session")
def mnist() -> tuple[torch.Tensor, torch.Tensor]:
    if not (DATA / "mnist.npz").is_file():
        pytest.skip(f"no mnist.npz in {DATA} (UNFOOLED_DATA)")
    with np.load(DATA / "mnist.npz") as held:
        x, y = held["x_test"][:500], held["y_test"][:500]
    return torch.from_numpy(x)[:, None].float() / 255, torch.from_numpy(y).long()


@pytest.mark.parametrize(
    ("file", "arch"), [("mnist_lenet5_clntrained.pt", "lenet5"), ("mnist_trades_smallcnn.pt", "trades-small-cnn")]
)
def test_published_checkpoints(mnist: tuple[torch.Tensor, torch.Tensor], file: str, arch: str) -> None:
    path = DATA / "models" / file
    if not path.is_file():
        pytest.skip(f"no {path} (UNFOOLED_DATA)")
    x, y = mnist
    classifier = load_model(path, arch)
    with torch.no_grad():
        accuracy = float((classifier(x).argmax(1) == y).double().mean())
    assert accuracy >= 0.98
    assert not math.isclose(accuracy, 1.0, abs_tol=1e-9)


@pytest.mark.parametrize("name", ["net.keras", "net.H5"])
def test_files_of_keras_are_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"name a function that loads it by Keras 3 .* file.py:build"):
        load_model(tmp_path / name)


def test_timm_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadInput, match=r"timm: models need the timm extra \(pip install -e '.\[timm\]'\)") as raised:
        load_model("timm:inception_v3.tf_adv_in1k")
    assert "\n" not in str(raised.value)
