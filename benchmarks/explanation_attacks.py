"""Attacks on explanations of a natural MNIST network, beside chance with the same means.

    python benchmarks/explanation_attacks.py
    python benchmarks/explanation_attacks.py --times --n 64 --threads 2     one attack alone, added to the record

LeNet-5 trained plainly, Linf .3, the first test images; saliency with 50 steps from one start for each of two
objectives, integrated gradients of 8 points with one. Every point that either side looks at is scored; the lowest
corrected LENS (k = 100, w = 1) of each image is kept and judged. The best of N has as many points as the attack takes
explanations, a map with its gradient counted three times. Differences are over the images where both are defined.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import unfooled as uf
from unfooled.attacks import Search, attack_explanation, out_of_lens, out_of_top_k
from unfooled.data import load_dataset
from unfooled.distances import chance, corrected, lens_recall, top_k_intersection
from unfooled.evaluation.explanations.robustness import explanation_robustness
from unfooled.explanations import integrated_gradients, saliency
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment
from unfooled.statistics import intervals

RESULTS = Path(__file__).parent / "results" / "explanation-attacks.json"
K, W, EPS = 100, 1, 0.3


def lens(a: Tensor, b: Tensor) -> Tensor:
    """LENS-recall, corrected for chance."""
    return corrected(lens_recall(a, b, k=K, w=W), chance(a, k=K, w=W))


def seconds(run: Callable[[], Any], n: int) -> dict[str, float]:
    """Seconds an image."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return {"wall": (time.perf_counter() - wall) / n, "processor": (time.process_time() - cpu) / n}


def main() -> None:
    """Attack, compare, time one attack alone, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="images for saliency; a quarter of them for the path")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--times", action="store_true", help="only the times of one attack, three rounds")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    path = Path(os.environ.get("UNFOOLED_DATA", "../shared/data")) / "models" / "mnist_lenet5_clntrained.pt"
    model = uf.load_model(str(path), arch="lenet5", input_shape=(1, 28, 28), num_classes=10)
    data, threat = load_dataset("mnist", split="test"), uf.Linf(EPS)
    looks = (
        ("saliency", saliency, (out_of_lens(K, W), out_of_top_k(K)), asked.n),
        ("integrated gradients, 8 points", partial(integrated_gradients, steps=8), (out_of_lens(K, W),), asked.n // 4),
    )
    rows: list[dict[str, Any]] = []
    for name, explain, objectives, n in looks:
        x, y = data.x[asked.first : asked.first + n], data.y[asked.first : asked.first + n]
        search = Search(restarts=1)
        alone = partial(attack_explanation, model, x, y, threat, explain, objective=objectives[0], search=search)
        if asked.times:
            rounds = [seconds(alone, n) for _ in range(3)]
            rows.append({"explanation": name, "n": n, "rounds": rounds})
            print(json.dumps(rows[-1], indent=1), flush=True)
            continue
        found = explanation_robustness(
            model, x, y, threat, explain, scores={"lens": lens, "top": partial(top_k_intersection, k=K)},
            objectives=objectives, search=search,
        )  # fmt: skip
        row: dict[str, Any] = {"explanation": name, "n": n, "random_points": found.n}
        for how, arm in (("attack", found.attack), ("best_of_n", found.best_of_n), ("random", found.random)):
            row[how] = {score: intervals.mean(v).model_dump() for score, v in arm.scores.items()}
            row[how]["status"] = arm.counts["lens"]
        gap = {s: found.best_of_n.scores[s] - v for s, v in found.attack.scores.items()}
        row["attack_below_best_of_n"] = {score: intervals.mean(v).model_dump() for score, v in gap.items()}
        row["one_attack_seconds_an_image"] = seconds(alone, n)
        rows.append(row)
        print(json.dumps(row, indent=1), flush=True)
    if asked.times:
        record = json.loads(RESULTS.read_text())
        record["times"] = {
            "command": f"python benchmarks/explanation_attacks.py --times --n {asked.n} --threads {asked.threads}",
            "threads": asked.threads, "load": list(os.getloadavg()), "rows": rows,
        }  # fmt: skip
        write_whole(RESULTS, json.dumps(record, indent=1).encode())
        return
    record = {
        "command": "python benchmarks/explanation_attacks.py", "images": f"MNIST test, from {asked.first}", "eps": EPS,
        "k": K, "w": W, "seed": 0, "rows": rows, "environment": Environment.here("cpu").model_dump(),
    }  # fmt: skip
    if asked.first == 0:
        write_whole(RESULTS, json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    main()
