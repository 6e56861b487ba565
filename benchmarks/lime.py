"""Cost of LIME beside its floor, the model alone on as many samples, and beside peers that are installed.

    python benchmarks/lime.py
    python benchmarks/lime.py --samples 500 --images 12 --repeats 5

LeNet-5 with random weights on 28 x 28 (the weights do not change the cost), a 7 x 7 grid. The floor and the methods
alternate in one run; figures are CPU seconds for one image, medians over images and repeats. "own" is what is above the
floor. Peers: Captum's Lime at its defaults and 128 at a time, lime's image explainer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.explanations import lime_image
from unfooled.explanations.lime import constant
from unfooled.explanations.lime.segments import grid_of

Timed = Callable[[Tensor, Tensor], Any]


def network() -> nn.Module:
    layers = [
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    head = [nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    torch.manual_seed(0)
    return nn.Sequential(*layers, *head).eval()


def floor(net: nn.Module, samples: int) -> Timed:
    def call(x: Tensor, y: Tensor) -> None:
        with torch.inference_mode():
            for part in x.expand(samples, -1, -1, -1).contiguous().split(128):
                net(part)

    return call


def captum(net: nn.Module, samples: int, together: int) -> Timed | None:
    try:
        from captum.attr import Lime
    except (ImportError, RuntimeError, OSError):
        return None
    method = Lime(net)

    def call(x: Tensor, y: Tensor) -> Any:
        ids = grid_of(x, cells=7)[:, None]
        return method.attribute(
            x, target=int(y), feature_mask=ids, n_samples=samples, perturbations_per_eval=together, baselines=0.0
        )

    return call


def lime(net: nn.Module, samples: int) -> Timed | None:
    try:
        from lime.lime_image import LimeImageExplainer
    except (ImportError, RuntimeError, OSError):
        return None
    explainer = LimeImageExplainer(random_state=0)

    def predict(images: Any) -> Any:
        with torch.inference_mode():
            grey = torch.as_tensor(np.asarray(images)[..., :1], dtype=torch.float32).permute(0, 3, 1, 2)
            return net(grey).softmax(1).numpy()

    def call(x: Tensor, y: Tensor) -> Any:
        ids = grid_of(x, cells=7)[0].numpy()
        return explainer.explain_instance(
            x[0, 0].double().numpy(), predict, labels=(int(y),), top_labels=None, hide_color=0, num_samples=samples,
            segmentation_fn=lambda _: ids, progress_bar=False,
        )  # fmt: skip

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    net, x = network(), torch.rand(options.images, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = net(x).argmax(1)
    methods: dict[str, Timed | None] = {
        "floor": floor(net, options.samples),
        "unfooled": lambda x, y: lime_image(net, x, y, samples=options.samples, baseline=constant(0.0)),
        "captum": captum(net, options.samples, 1),
        "captum, 128 at a time": captum(net, options.samples, 128),
        "lime": lime(net, options.samples),
    }
    seconds: dict[str, list[float]] = {name: [] for name, method in methods.items() if method is not None}
    for _ in range(options.repeats):
        for i in range(len(x)):
            for name in seconds:
                method = methods[name]
                assert method is not None
                began = time.process_time()
                method(x[i : i + 1], y[i : i + 1])
                seconds[name].append(time.process_time() - began)
    base = statistics.median(seconds["floor"])
    rows = [
        {"method": name, "total": (total := statistics.median(values)), "own": total - base, "floors": total / base}
        for name, values in seconds.items()
    ]
    print(json.dumps({"samples": options.samples, "images": options.images, "repeats": options.repeats, "rows": rows}))


if __name__ == "__main__":
    main()
