"""ONNX files: the conversion agrees with the runtime, gives gradients, and what cannot be converted is a black box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unfooled as uf
from unfooled.core.errors import BadInput
from unfooled.models import Access, load_model
from unfooled.models.black_boxes import access_of

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

rng = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / max(1.0, np.prod(shape[1:]) ** 0.5)).astype(np.float32)


def saved(path: Path, nodes: list[Any], arrays: dict[str, Any], shape: tuple[Any, ...], opset: int = 17) -> Path:
    """Write a graph from "x" to "y"."""
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()]
    source = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [source], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def small_cnn(path: Path, batch: Any = "n") -> Path:
    """Conv, BatchNormalization, Relu, MaxPool, AveragePool, Flatten, Gemm."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w", "b"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["a", "s", "t", "m", "v"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2], strides=[2, 2]),
        node("AveragePool", ["e"], ["f"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Flatten", ["f"], ["g"]),
        node("Gemm", ["g", "q", "r"], ["y"], transB=1),
    ]
    arrays = {"w": weights(4, 1, 3, 3), "b": weights(4), "s": weights(4) + 1, "t": weights(4), "m": weights(4)}
    arrays |= {"v": np.abs(weights(4)) + 0.5, "q": weights(10, 16), "r": weights(10)}
    return saved(path, nodes, arrays, (batch, 1, 8, 8))


def test_file_is_audited_with_the_gradients_of_its_conversion(tmp_path: Path) -> None:
    path = small_cnn(tmp_path / "net.onnx")
    model, x = load_model(path), torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert access_of(model) is Access.GRADIENTS
    assert model.input_shape == (1, 8, 8)
    with torch.no_grad():
        values = model(x)
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    assert torch.equal(logits, values)  # the runtime's, with and without a gradient
    (g,) = torch.autograd.grad(logits[:, 0].sum(), leaf)
    h, u = 1e-2, torch.zeros_like(x)
    u[:, 0, 3, 4] = h
    with torch.no_grad():
        apart = (model(x + u)[:, 0] - model(x - u)[:, 0]) / (2 * h)
    assert torch.allclose(apart, g[:, 0, 3, 4], atol=2e-3)
    plan = uf.Plan(effort=uf.QUICK, nearest_budget=100, nearest_n=1, explain_n=1, reasons=None, floor=2000, gallery=1)
    summary = uf.audit(model, x, values.argmax(1), uf.Linf(0.6), plan=plan)
    assert summary.access == "gradients"
    assert not any(f.fired for f in summary.diagnostics if f.id in ("D5", "D6", "D7", "D8"))
    assert summary.robust_accuracy.value is not None and summary.robust_accuracy.value < 1


def test_fixed_batch_is_padded(tmp_path: Path) -> None:
    free, fixed = load_model(small_cnn(tmp_path / "a.onnx")), load_model(small_cnn(tmp_path / "b.onnx", 4))
    assert fixed(torch.rand(6, 1, 8, 8)).shape == free(torch.rand(6, 1, 8, 8)).shape == (6, 10)


N = helper.make_node
CASES: dict[str, tuple[list[Any], dict[str, Any], tuple[Any, ...], int]] = {
    "same padding": (
        [N("Conv", ["x", "w"], ["y0"], auto_pad="SAME_UPPER", strides=[2, 2]), N("Flatten", ["y0"], ["y"])],
        {"w": weights(2, 2, 3, 3)},
        ("n", 2, 7, 6),
        17,
    ),
    "one dimension": (
        [
            N("Conv", ["x", "w"], ["a"], pads=[2, 0], dilations=[2]),
            N("GlobalMaxPool", ["a"], ["b"]),
            N("Squeeze", ["b", "ax"], ["y"]),
        ],
        {"w": weights(3, 2, 2), "ax": np.array([2])},
        ("n", 2, 9),
        17,
    ),
    "groups and shapes": (
        [
            N("Conv", ["x", "w"], ["a"], group=2),
            N("Shape", ["a"], ["s"]),
            N("Gather", ["s", "i"], ["k"]),
            N("Unsqueeze", ["k", "z"], ["k1"]),
            N("Concat", ["k1", "m"], ["to"], axis=0),
            N("Reshape", ["a", "to"], ["y"]),
        ],
        {"w": weights(4, 1, 2, 2), "i": np.array(0), "z": np.array([0]), "m": np.array([-1])},
        ("n", 2, 4, 4),
        17,
    ),
    "reduce, new": (
        [N("ReduceMean", ["x", "ax"], ["a"], keepdims=0), N("Softmax", ["a"], ["y"])],
        {"ax": np.array([2, 3])},
        ("n", 3, 4, 4),
        18,
    ),
    "reduce, old": (
        [N("ReduceMean", ["x"], ["a"], axes=[2, 3], keepdims=0), N("LogSoftmax", ["a"], ["y"])],
        {},
        ("n", 3, 4, 4),
        12,
    ),
    "softmax over all": ([N("Softmax", ["x"], ["a"], axis=1), N("Flatten", ["a"], ["y"])], {}, ("n", 2, 3), 11),
    "arithmetic": (
        [
            N("Sub", ["x", "m"], ["a"]),
            N("Div", ["a", "s"], ["b"]),
            N("Pow", ["b", "two"], ["c"]),
            N("Sqrt", ["c"], ["d"]),
            N("Clip", ["d", "lo", "hi"], ["e"]),
            N("MatMul", ["e", "w"], ["y"]),
        ],
        {
            "m": np.array([0.5] * 5, dtype=np.float32),
            "s": np.array([2] * 5, dtype=np.float32),
            "two": np.float32(2),
            "lo": np.float32(0.01),
            "hi": np.float32(0.2),
            "w": weights(5, 3),
        },
        ("n", 5),
        17,
    ),
    "pad and slice": (
        [
            N("Pad", ["x", "p"], ["a"], mode="reflect"),
            N("Slice", ["a", "b0", "b1", "ax"], ["c"]),
            N("Transpose", ["c"], ["d"], perm=[0, 3, 2, 1]),
            N("Flatten", ["d"], ["y"]),
        ],
        {"p": np.array([0, 0, 1, 2, 0, 0, 1, 0]), "b0": np.array([1]), "b1": np.array([1000]), "ax": np.array([2])},
        ("n", 1, 4, 5),
        17,
    ),
    "average that counts": (
        [
            N("AveragePool", ["x"], ["a"], kernel_shape=[2, 2], pads=[1, 0, 0, 1], count_include_pad=1),
            N("Flatten", ["a"], ["y"]),
        ],
        {},
        ("n", 1, 3, 3),
        17,
    ),
    "activations": (
        [
            N("LeakyRelu", ["x"], ["a"], alpha=0.2),
            N("Elu", ["a"], ["b"]),
            N("Sigmoid", ["b"], ["c"]),
            N("HardSigmoid", ["c"], ["d"]),
            N("Tanh", ["d"], ["e"]),
            N("PRelu", ["e", "s"], ["f"]),
            N("Max", ["f", "x"], ["y"]),
        ],
        {"s": np.array([0.3], dtype=np.float32)},
        ("n", 6),
        17,
    ),
    "transformer": (
        [
            N("LayerNormalization", ["x", "g", "h"], ["a"]),
            N("Split", ["a"], ["b", "c"], axis=2),
            N("Transpose", ["c"], ["ct"], perm=[0, 2, 1]),
            N("MatMul", ["b", "ct"], ["d"]),
            N("Softmax", ["d"], ["e"]),
            N("MatMul", ["e", "b"], ["f"]),
            N("Erf", ["f"], ["i"]),
            N("ReduceSum", ["i", "ax"], ["y"], keepdims=0),
        ],
        {"g": weights(6), "h": weights(6), "ax": np.array([1])},
        ("n", 4, 6),
        17,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_conversion_agrees_with_the_runtime(tmp_path: Path, name: str) -> None:
    from unfooled.models.readers.onnx_files import Judged

    nodes, arrays, shape, opset = CASES[name]
    model = load_model(saved(tmp_path / "net.onnx", nodes, arrays, shape, opset))
    judged = model.module
    assert isinstance(judged, Judged)
    x = torch.rand(3, *shape[1:], generator=torch.Generator().manual_seed(1))
    leaf = x.clone().requires_grad_()
    assert torch.allclose(judged.converted(leaf), judged(x), atol=1e-5)
    (g,) = torch.autograd.grad(judged(leaf)[:, 0].sum(), leaf)
    assert bool(torch.isfinite(g).all()) and float(g.abs().sum()) > 0


def test_what_cannot_be_converted_is_a_black_box_and_said(tmp_path: Path) -> None:
    nodes = [N("Det", ["x"], ["a"]), N("Unsqueeze", ["a", "ax"], ["b"]), N("MatMul", ["b", "w"], ["y"])]
    path = saved(tmp_path / "net.onnx", nodes, {"ax": np.array([1]), "w": weights(1, 3)}, ("n", 2, 2))
    with pytest.warns(UserWarning, match="as a black box, without gradients: the operation Det has no conversion"):
        model = load_model(path)
    assert access_of(model) is Access.SCORES
    assert model(torch.rand(5, 2, 2)).shape == (5, 3)


def test_a_wrong_conversion_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unfooled.models.readers import onnx_ops

    monkeypatch.setitem(onnx_ops.OPERATIONS, "Relu", lambda n, x: x.abs())
    with pytest.warns(UserWarning, match=r"black box, without gradients: the conversion differs from the runtime by"):
        load_model(small_cnn(tmp_path / "net.onnx"))


def test_without_one_of_the_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, modules = small_cnn(tmp_path / "net.onnx"), __import__("sys").modules
    x = torch.rand(2, 1, 8, 8)
    expected = load_model(path)(x)
    with monkeypatch.context() as patch:
        patch.setitem(modules, "onnxruntime", None)
        with pytest.warns(
            UserWarning, match="onnxruntime is not installed, so that net.onnx was judged by its conversion"
        ):
            assert torch.allclose(load_model(path)(x), expected, atol=1e-5)
        patch.setitem(modules, "onnx", None)
        with pytest.raises(BadInput, match=r"onnx, which reads the graph, is not installed.*pip install onnxruntime"):
            load_model(path)
    monkeypatch.setitem(modules, "onnx", None)
    with pytest.warns(UserWarning, match="black box, without gradients: onnx, which reads the graph"):
        assert torch.allclose(load_model(path)(x), expected)


def test_files_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(BadInput, match="cannot be read as ONNX"):
        load_model(tmp_path / "bad.onnx")
    source = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 3)) for name in ("x", "z")]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([N("Add", ["x", "z"], ["y"])], "g", source, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "two.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadInput, match="takes 2 inputs; a classifier takes one"):
        load_model(tmp_path / "two.onnx")


def test_network_that_torch_exports(tmp_path: Path) -> None:
    """As a stand-in for an export: the same layers, built by hand and in torch."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.from_numpy(weights(3, 8)))

        def forward(self, x: Tensor) -> Tensor:
            return F.gelu(x) @ self.w.T

    net = Net()
    path = saved(
        tmp_path / "net.onnx", [N("Gelu", ["x"], ["a"]), N("Gemm", ["a", "w"], ["y"], transB=1)],
        {"w": net.w.detach().numpy()}, ("n", 8), 20,
    )  # fmt: skip
    x = torch.rand(4, 8)
    assert torch.allclose(load_model(path)(x), net(x), atol=1e-5)
