"""Explanations to be made by lime 0.2.0.1 and by `unfooled.compat.lime` alike, and the original's recorded answers.

With lime 0.2.0.1 installed, `python tests/reference/lime_cases.py` writes lime_recorded.json beside this file. Models
are plain numpy functions and data are drawn here, so that the figures depend on no other package's version.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy import sparse

RECORD = Path(__file__).with_name("lime_recorded.json")
MODULES = (
    "lime_base",
    "lime_image",
    "lime_text",
    "lime_tabular",
    "discretize",
    "explanation",
    "submodular_pick",
    "exceptions",
    "utils.generic_utils",
    "wrappers.scikit_image",
)
SAMPLES = 150
TEXT = "This is a good movie, and a good film; it's not too long. Really good movie!"


def modules(package: str) -> SimpleNamespace:
    """The public modules of a package with lime's names."""
    return SimpleNamespace(**{name: importlib.import_module(f"{package}.{name}") for name in MODULES})


def softmax(z: Any) -> Any:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# --- images: 8x8 pixels, 16 superpixels
_RNG = np.random.RandomState(0)
IMAGE = (_RNG.rand(8, 8, 3) * 255).astype(np.uint8)
PIXELS = _RNG.randn(8 * 8 * 3, 4) / 3


def pixel_model(x: Any) -> Any:
    return softmax(np.tanh(x.reshape(len(x), -1) / 255.0 @ PIXELS))


def squares(image: Any) -> Any:
    rows, columns = np.indices(image.shape[:2]) // 2
    return rows * ((image.shape[1] + 1) // 2) + columns


def from_one(image: Any) -> Any:
    return squares(image) + 1


# --- texts
def word_model(texts: Any) -> Any:
    scores = [
        [sum((zlib.crc32(w.encode()) >> 7 * c) % 7 - 3 for w in text.split()) / 5 for c in range(3)] for text in texts
    ]
    return softmax(np.array(scores))


def letter_model(texts: Any) -> Any:
    return softmax(np.array([[sum(ord(ch) * (c + 3) % 7 - 3 for ch in text) / 9 for c in range(3)] for text in texts]))


# --- tables: four continuous columns, a category, a rare flag
ROWS = np.column_stack(
    [_RNG.randn(120, 4) * [1, 2, 0.5, 1] + [0, 1, 5, -2], _RNG.randint(0, 3, 120), _RNG.rand(120) < 0.1]
)
NAMES = ["a", "b", "c", "d", "kind", "flag"]
LABELS = (ROWS[:, 0] + ROWS[:, 1] > 1).astype(int)
SPARSE = sparse.random(60, 30, 0.25, format="csr", random_state=np.random.RandomState(3))
SPARSE.data = np.round(SPARSE.data * 5) + 1
SEQUENCES = _RNG.randn(50, 4, 2)


def row_model(x: Any) -> Any:
    first = np.tanh(x[:, 0]) + 0.3 * x[:, 1] * (x[:, 2] > 5) - 0.5 * (x[:, 4] == 1) + x[:, 5]
    return softmax(np.stack([first, np.sin(x[:, 3]), 0.2 * x[:, 1]], axis=1))


def value_model(x: Any) -> Any:
    return x[:, 0] * 3 + np.abs(x[:, 1]) - x[:, 2] * (x[:, 4] == 2)


def sparse_model(x: Any) -> Any:
    z = np.asarray(x[:, :10].sum(axis=1)).ravel() / 9 - np.asarray(x[:, 12].todense()).ravel() / 4
    return softmax(np.stack([z, -z], axis=1))


def sequence_model(x: Any) -> Any:
    z = x[:, -1, 0] - x[:, 0, 1] * x[:, 2, 0]
    return softmax(np.stack([z, -z], axis=1))


def statistics(lime: Any) -> dict[str, Any]:
    """Statistics of the training table, in place of the table."""
    bins = lime.discretize.QuartileDiscretizer(ROWS, [], NAMES, random_state=1)
    binned = bins.discretize(ROWS)
    counts = [Counter(binned[:, column].tolist()) for column in range(6)]
    return {
        **{name: getattr(bins, name) for name in ("means", "stds", "mins", "maxs")},
        "bins": {column: ends.tolist() for column, ends in enumerate(bins.bins(ROWS, None))},
        "feature_values": {column: list(count) for column, count in enumerate(counts)},
        "feature_frequencies": {column: list(count.values()) for column, count in enumerate(counts)},
    }


def image(lime: Any, image: Any = IMAGE, options: Any = None, **call: Any) -> Any:
    explainer = lime.lime_image.LimeImageExplainer(random_state=5, **(options or {}))
    call = {"segmentation_fn": squares, "num_samples": SAMPLES, **call}
    return explainer.explain_instance(image, pixel_model, **call)


def text(lime: Any, text: str = TEXT, options: Any = None, **call: Any) -> Any:
    options = options or {}
    explainer = lime.lime_text.LimeTextExplainer(random_state=3, **options)
    model = letter_model if options.get("char_level") else word_model
    return explainer.explain_instance(text, model, num_samples=SAMPLES, **call)


def table(lime: Any, options: Any = None, row: int = 3, model: Any = row_model, **call: Any) -> Any:
    options = {"feature_names": NAMES, "random_state": 7, **(options or {})}
    if options.pop("categories", False):
        options |= {"categorical_features": [4, 5], "categorical_names": {4: ["x", "y", "z"]}}
    explainer = lime.lime_tabular.LimeTabularExplainer(options.pop("data", ROWS), **options)
    return explainer.explain_instance(ROWS[row], model, num_samples=SAMPLES, **call)


def csr(lime: Any, row: int = 4, options: Any = None, **call: Any) -> Any:
    explainer = lime.lime_tabular.LimeTabularExplainer(SPARSE, random_state=7, **(options or {}))
    return explainer.explain_instance(SPARSE[row], sparse_model, num_samples=SAMPLES, **call)


def recurrent(lime: Any, options: Any = None, **call: Any) -> Any:
    explainer = lime.lime_tabular.RecurrentTabularExplainer(
        SEQUENCES, feature_names=["u", "v"], random_state=2, **(options or {})
    )
    model = sequence_model
    if (options or {}).get("mode") == "regression":
        return explainer.explain_instance(SEQUENCES[3], lambda x: model(x)[:, 1], num_samples=SAMPLES, **call)
    return explainer.explain_instance(SEQUENCES[3], model, num_samples=SAMPLES, **call)


def pick(lime: Any, **call: Any) -> Any:
    explainer = lime.lime_tabular.LimeTabularExplainer(ROWS, feature_names=NAMES, random_state=1)
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(4)  # noqa: NPY002
    try:
        # With fewer features than there are, the gains of the greedy choice differ by more than rounding.
        call = {"sample_size": 12, "num_exps_desired": 4, "num_features": 3, **call}
        return lime.submodular_pick.SubmodularPick(explainer, ROWS[:20], row_model, num_samples=60, **call)
    finally:
        np.random.set_state(state)  # noqa: NPY002


def twice(lime: Any) -> Any:
    explainer = lime.lime_text.LimeTextExplainer(random_state=3)
    explainer.explain_instance(TEXT, word_model, num_samples=50)
    return explainer.explain_instance(TEXT, word_model, num_samples=50)


Case = Callable[[Any], Any]
CASES: dict[str, Case] = {
    "image": image,
    "image, four segments": lambda lime: image(lime, num_features=4, top_labels=2),
    "image, labels and a colour": lambda lime: image(lime, labels=(0, 2), top_labels=None, hide_color=0),
    "image, segments from 1": lambda lime: image(lime, segmentation_fn=from_one, top_labels=1),
    "image, wide kernel, lasso": lambda lime: image(
        lime, options={"kernel_width": 1.0, "feature_selection": "lasso_path"}, num_features=5, top_labels=1
    ),
    "image, float32": lambda lime: image(lime, (IMAGE / 2).astype(np.float32), top_labels=1),
    "image, hamming": lambda lime: image(lime, distance_metric="hamming", random_seed=1, top_labels=1),
    "text": text,
    "text, three words": lambda lime: text(lime, num_features=3, top_labels=2),
    "text, positions": lambda lime: text(lime, options={"bow": False}),
    "text, mask": lambda lime: text(lime, options={"bow": False, "mask_string": "[M]"}, num_features=4),
    "text, characters": lambda lime: text(lime, options={"char_level": True}),
    "text, character positions": lambda lime: text(lime, options={"char_level": True, "bow": False}),
    "text, own words": lambda lime: text(lime, options={"split_expression": str.split}),
    "text, all words": lambda lime: text(lime, options={"feature_selection": "none", "kernel_width": 5}),
    "text, second explanation": twice,
    "table, quartiles": table,
    "table, two columns": lambda lime: table(lime, num_features=2, top_labels=3),
    "table, deciles": lambda lime: table(lime, {"discretizer": "decile"}),
    "table, entropy": lambda lime: table(lime, {"discretizer": "entropy", "training_labels": LABELS}),
    "table, statistics": lambda lime: table(
        lime, {"training_data_stats": statistics(lime), "data": np.zeros((2, 6))}, num_features=3
    ),
    "table, no bins": lambda lime: table(lime, {"discretize_continuous": False}),
    "table, around": lambda lime: table(lime, {"discretize_continuous": False, "sample_around_instance": True}),
    "table, categories": lambda lime: table(lime, {"categories": True}, num_features=4),
    "table, categories, no bins": lambda lime: table(lime, {"categories": True, "discretize_continuous": False}),
    "table, regression": lambda lime: table(lime, {"mode": "regression"}, model=value_model),
    "table, regression, no bins": lambda lime: table(
        lime, {"mode": "regression", "discretize_continuous": False}, model=value_model, num_features=3
    ),
    "csr": csr,
    "csr, three columns": lambda lime: csr(lime, num_features=3),
    "csr, more columns than there are": lambda lime: csr(lime, row=6, num_features=20),
    "recurrent": recurrent,
    "recurrent, regression": lambda lime: recurrent(lime, {"mode": "regression", "discretizer": "decile"}),
    "pick": pick,
    "pick, three labels": lambda lime: pick(lime, top_labels=3, method="full"),
}


def summary(made: Any) -> dict[str, Any]:
    """What must agree, in plain Python."""
    if hasattr(made, "sp_explanations"):
        return {"V": [int(k) for k in made.V], "made": [summary(e) for e in made.explanations[:4]]}
    labels = list(made.local_exp)
    names = {}
    if hasattr(made, "domain_mapper"):
        names = {str(k): [str(n) for n, _ in made.domain_mapper.map_exp_ids(made.local_exp[k])] for k in labels}
    limits = [float(getattr(made, k, 0)) for k in ("predicted_value", "min_value", "max_value")]
    return {
        "features": {str(k): [int(f) for f, _ in made.local_exp[k]] for k in labels},
        "weights": {str(k): [float(w) for _, w in made.local_exp[k]] for k in labels},
        "names": names,
        "intercept": {str(k): float(np.ravel(made.intercept[k])[0]) for k in labels},
        "score": float(made.score),
        "local_pred": float(np.ravel(made.local_pred)[0]),
        "top_labels": [int(k) for k in getattr(made, "top_labels", None) or []],
        "value": limits,
    }


def parameters(function: Any) -> list[list[str]]:
    """Name, kind and default of each parameter."""
    return [
        [p.name, str(p.kind.name), "" if p.default is p.empty else repr(p.default)]
        for p in inspect.signature(function).parameters.values()
    ]


def signatures(lime: Any) -> dict[str, Any]:
    """Module -> public name -> parameters, or, for a class, its public methods' parameters."""
    found: dict[str, Any] = {}
    for module_name in MODULES:
        module = getattr(lime, module_name)
        own = {n: v for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__}
        for name, value in own.items():
            if inspect.isclass(value):
                members = {n: f for n, f in inspect.getmembers(value, callable) if defined(n, f)}
                found[f"{module_name}.{name}"] = {n: parameters(f) for n, f in members.items()}
            elif inspect.isfunction(value):
                found[f"{module_name}.{name}"] = parameters(value)
    return found


def defined(name: str, function: Any) -> bool:
    """Whether a member is the package's own, and public, or one of those that lime's own tests call."""
    named = name in ("__init__", "__call__", "_check_params", "_make_predict_proba") or not name.startswith("_")
    return named and inspect.isfunction(function)


if __name__ == "__main__":
    original = modules("lime")
    record = {"cases": {name: summary(case(original)) for name, case in CASES.items()}, "names": signatures(original)}
    RECORD.write_text(json.dumps(record, indent=None, sort_keys=True) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(record['cases'])} explanations, {len(record['names'])} names\n")
