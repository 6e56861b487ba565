"""Robust accuracy of networks as black boxes, by their scores or labels alone, beside that with their gradients.

    UNFOOLED_DATA=../shared/data python benchmarks/black_box.py --n 200 --networks lenet5-natural

The natural LeNet of advertorch at eps .1 and the hardened network of TRADES at eps .3 on MNIST; the same images and
seed, without the attack on explanations. `access` says what the attack could use of the network. A black box is
attacked by `--effort`, `quick` by default, as what counts is the extension by search; the network with its gradients
by `normal`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

import unfooled as uf
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment

FILE = Path(__file__).parent / "results" / "black-box.json"
DATA = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"))
NETWORKS = {
    "lenet5-natural": ("mnist_lenet5_clntrained.pt", "lenet5", 0.1),
    "trades": ("mnist_trades_smallcnn.pt", "trades-small-cnn", 0.3),
}


class Scores:
    """The network behind a function of arrays."""

    def __init__(self, net: torch.nn.Module, *, labels: bool) -> None:
        self.ask, self.labels = [net], labels  # in a list, so that it is not found

    def __call__(self, a: Any) -> Any:
        """Return scores or labels."""
        with torch.no_grad():
            logits = self.ask[0](torch.from_numpy(a)).numpy()
        return logits.argmax(1) if self.labels else logits


def measured(
    model: Any, x: torch.Tensor, y: torch.Tensor, eps: float, effort: uf.Effort, seed: int, out: Path | None
) -> dict[str, Any]:
    """Audit a model and return its figures; with a folder the audit goes on where it was stopped."""
    start = time.process_time()
    plan = uf.Plan(effort=effort, reasons=None, explain_n=1, nearest_n=1, nearest_budget=100)
    summary = uf.audit(model, x, y, uf.Linf(eps), plan=plan, seed=seed, out=out)
    return {
        "access": summary.access,
        "effort": effort.name,
        "clean_accuracy": summary.clean_accuracy.value,
        "robust_accuracy": summary.robust_accuracy.model_dump(),
        "verdict": summary.verdict,
        "because": summary.because,
        "passes": summary.passes.model_dump(),
        "processor_seconds": round(time.process_time() - start, 1),  # of the last start, where there were several
    }


def main() -> None:
    """Measure, and write the record after each audit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--access", nargs="+", default=["gradients", "scores", "labels"])
    parser.add_argument("--effort", default="quick", choices=["quick", "normal"])
    parser.add_argument("--runs", type=Path, help="folder of the audits, which can then be stopped and resumed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"command": "python benchmarks/black_box.py", "n": options.n, "seed": options.seed}
    record |= {"load": os.getloadavg(), "environment": Environment.here("cpu").model_dump(mode="json"), "rows": []}
    x, y = uf.load_data(DATA / "mnist.npz", n=options.n)
    for name in options.networks:
        file, arch, eps = NETWORKS[name]
        net = uf.load_model(DATA / "models" / file, arch)
        for access in options.access:
            labels = access == "labels"
            model = net if access == "gradients" else uf.BlackBox(Scores(net, labels=labels), classes=10, name=name)
            effort = uf.NORMAL if access == "gradients" or options.effort == "normal" else uf.QUICK
            out = options.runs and options.runs / f"{name}-{access}"
            row = {"network": name, "eps": eps} | measured(model, x, y, eps, effort, options.seed, out)
            record["rows"].append(row)
            print(json.dumps(row))
            write_whole(FILE, json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    main()
