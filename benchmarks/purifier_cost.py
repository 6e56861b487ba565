"""Cost of the semantic purifier: the fit of 20 clusters, and 1,000 images.

    python benchmarks/purifier_cost.py --out benchmarks/results/purifier-cost.json
    python benchmarks/purifier_cost.py --convolutional --n 4 --out benchmarks/results/purifier-cost-sporco.json

fit     `fit_purifier` on 6,000 MNIST training images with the latents of a strided-cnn of two epochs, two clusters at
        most for each of ten classes; of it the clusters and the dictionaries. Target: 15 s of CPU
twin    scikit-learn's `MiniBatchDictionaryLearning(64, alpha=.3)` on the patches of one cluster; 20 of them would cost
        20 times as much
apply   1,000 test images at stride 2 and 4, 64 atoms, 15 steps. Target at stride 2: 2 s of CPU
sporco  with `--convolutional`: codes of high bands for 64 filters of 8x8, by `convolutional_codes`, by sporco's
        proximal gradients and by its ADMM, all on the same problem (a mask makes its circular convolutions ours).
        Steps and seconds until the objective is within 1 % of the lowest one found; needs sporco 0.2.2

Seconds are those of the processor, of one thread; the median over the rounds. The load of the machine is recorded,
since other work slows memory and caches down.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled import __version__, load_data
from unfooled.core.model.batching import batched
from unfooled.features import Encoder
from unfooled.models import StridedCnn
from unfooled.purification import fit_clusters, fit_purifier, learn_patches, split
from unfooled.purification.convolutional import convolutional_codes, convolutional_curvature, synthesis
from unfooled.purification.dictionaries import image_patches
from unfooled.training import Batches, Standard, train


def seconds(call: Callable[[], object], rounds: int) -> float:
    """Median seconds of the processor."""
    found = []
    for _ in range(rounds):
        before = time.process_time()
        call()
        found.append(time.process_time() - before)
    return round(statistics.median(found), 3)


def trained(x: Tensor, y: Tensor) -> StridedCnn:
    """The encoder's network."""
    torch.manual_seed(0)
    net = StridedCnn()
    for _ in train(net, Batches(x, y, 64), Standard(), torch.optim.AdamW(net.parameters(), 2e-3), epochs=2):
        pass
    return net.eval()


def costs(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the fit and of the use."""
    x, y = load_data(options.data, "train", n=options.train)
    test, _ = load_data(options.data, "test", n=options.n)
    encode = Encoder(trained(x, y), "fc1")
    made: list[Any] = []
    fit = seconds(lambda: made.append(fit_purifier(encode, x, y, seed=0, max_clusters=2)), 1)
    purify = made[0]
    with torch.no_grad():
        latents = batched(encode, 256)(x)
        high = split(x, smooth=5.0)[1]
        k = purify.clusters.nearest(latents.double(), y)
        clusters = seconds(lambda: fit_clusters(latents, y, max_clusters=2), 1)
        dictionaries = seconds(lambda: learn_patches(high, k), 1)
        apply = {
            f"stride {stride}": seconds(lambda stride=stride: replace(purify, stride=stride)(test), options.rounds)  # type: ignore[misc]
            for stride in (2, 4)
        }
    return {
        "clusters": len(purify.clusters), "fit": fit, "of it: clusters": clusters, "of it: dictionaries": dictionaries,
        "twin, one dictionary": twin(high[k == 0], options.rounds), "apply": apply,
        "targets": {"fit": 15, "apply, stride 2": 2},
        "met": {"fit": fit < 15, "apply, stride 2": apply["stride 2"] < 2},
    }  # fmt: skip


def twin(high: Tensor, rounds: int) -> float:
    """Seconds of scikit-learn's learner on one cluster."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    patches = image_patches(high, size=8, stride=4).flatten(0, 1)
    rows = patches[patches.std(1) >= 0.02][:1500].numpy()
    return seconds(lambda: MiniBatchDictionaryLearning(n_components=64, alpha=0.3, random_state=0).fit(rows), rounds)


STEPS = (50, 100, 200, 400)
SPARSITY = 0.05


def coding(options: argparse.Namespace) -> dict[str, Any]:
    """Steps and seconds of convolutional coders until they are within 1 % of the lowest objective."""
    test, _ = load_data(options.data, "test", n=options.n)
    high = split(test, smooth=5.0)[1]
    some = split(load_data(options.data, "train", n=600)[0], smooth=5.0)[1]
    atoms = learn_patches(some, torch.zeros(len(some), dtype=torch.int64), clusters=1, sparsity=SPARSITY)[0]
    found: dict[str, list[tuple[int, float, float]]] = {}
    for name, solve in coders(high, atoms).items():
        for steps in STEPS:
            before = time.process_time()
            codes = solve(steps)
            spent = round(time.process_time() - before, 3)
            residual = (synthesis(codes, atoms) - high).square().sum()
            found.setdefault(name, []).append((steps, spent, float(residual / 2 + SPARSITY * codes.abs().sum())))
    lowest = min(row[2] for rows in found.values() for row in rows)
    first = {name: next((row for row in rows if row[2] <= 1.01 * lowest), None) for name, rows in found.items()}
    return {
        "filters": list(atoms.shape), "sparsity": SPARSITY, "lowest objective": lowest,
        "steps, seconds, objective": {name: [list(row) for row in rows] for name, rows in found.items()},
        "within 1 %": {
            name: row and {"steps": row[0], "seconds": row[1], "objective": row[2]} for name, row in first.items()
        },
    }  # fmt: skip


def coders(high: Tensor, atoms: Tensor) -> dict[str, Callable[[int], Tensor]]:
    """Ours and sporco's coders, `(steps) -> codes (N, A, H + 7, W + 7)`."""
    from sporco.admm.cbpdn import ConvBPDNMaskDcpl  # type: ignore[import-not-found]
    from sporco.pgm.cbpdn import ConvBPDNMask  # type: ignore[import-not-found]

    n, _, h, w = high.shape
    edge = atoms.shape[-1] - 1
    lipschitz = convolutional_curvature(atoms, (1, h, w))
    padded, mask = np.zeros((h + edge, w + edge, n)), np.zeros((h + edge, w + edge, 1))
    padded[:h, :w], mask[:h, :w] = high[:, 0].permute(1, 2, 0).numpy(), 1
    filters = atoms[:, 0].permute(1, 2, 0).double().numpy()

    def unrolled(maps: Any) -> Tensor:
        codes = torch.from_numpy(np.array(maps)).reshape(h + edge, w + edge, n, len(atoms)).permute(2, 3, 0, 1)
        return codes.roll((edge, edge), (2, 3)).float()

    def proximal(steps: int) -> Tensor:
        chosen = {"Verbose": False, "MaxMainIter": steps, "RelStopTol": 0.0, "L": float(lipschitz)}
        return unrolled(ConvBPDNMask(filters, padded, SPARSITY, mask, ConvBPDNMask.Options(chosen), dimK=1).solve())

    def admm(steps: int) -> Tensor:
        chosen = {"Verbose": False, "MaxMainIter": steps, "RelStopTol": 0.0}
        solver = ConvBPDNMaskDcpl(filters, padded, SPARSITY, mask, ConvBPDNMaskDcpl.Options(chosen), dimK=1)
        solver.solve()
        return unrolled(solver.var_y1())  # the sparse one of its two copies

    return {
        "ours": lambda steps: convolutional_codes(high, atoms, sparsity=SPARSITY, steps=steps, lipschitz=lipschitz),
        "sporco, proximal gradients": proximal,
        "sporco, ADMM": admm,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--convolutional", action="store_true", help="only convolutional coding, beside sporco")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    measured = coding(options) if options.convolutional else costs(options)
    record = {
        "benchmark": "purifier-cost",
        "version": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": {"before": round(before, 1), "after": round(os.getloadavg()[0], 1)},
        "n": options.n,
        "train": 600 if options.convolutional else options.train,
        **measured,
    }
    text = json.dumps(record, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
