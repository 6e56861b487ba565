"""Robust and non-robust features of CIFAR-10: ResNet-18, hardened in L2 .5, all four sets, networks trained on each.

    python benchmarks/cifar10_features.py --out runs/cifar10-features                 a GPU; several hours
    python benchmarks/cifar10_features.py --out runs/cifar10-features-small --small   a CPU; minutes, no real figures

The study `robust-features` with the networks, the threat and the training of CIFAR-10. Resumes where it was stopped:
kept are weights after every `--piece` of training, every `--shard` of a set, every network's verdict. Choose pieces and
shards of well under 8 minutes: the record tells the longest work that was not kept meanwhile. Writes the study's folder
and page, and cifar10-features.json.

CIFAR-10 is read from UNFOOLED_DATA. The copy at hand is recompressed (JPEG, quality 75): the published figures stand in
the record for their order, not for comparison.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from unfooled.core.threats import L2
from unfooled.report.study_page import render_study
from unfooled.runs.files import write_whole
from unfooled.studies.robust_features import FeatureScale, FeatureTask, run_robust_features

EPOCH = 49_000 // 128
FULL = FeatureScale(
    (
        FeatureTask(
            "cifar10", L2(0.5), (L2(0.5),), 30 * EPOCH, 30 * EPOCH, 30 * EPOCH, batch=128, arch="resnet18",
            options={"width": 64}, fresh_options={"width": 64}, flip=True, crop=4, ramp=0.2,
            optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True),
        ),
    ),
    rebuilt=49_000, held_out=1000, robust_n=1000, gradients=200, piece=200, shard=2000,
)  # fmt: skip
NARROW = {"width": 8}
SMALL = FeatureScale(
    (replace(FULL.tasks[0], natural=8, hardened=4, fresh=8, batch=32, options=NARROW, fresh_options=NARROW, steps=2),),
    rebuilt=96, held_out=32, robust_n=10, effort="quick", gradients=4, moving=4, piece=4, shard=48, train_n=160,
    test_n=200,
)  # fmt: skip
PUBLISHED = [
    {"trained on": "robust set", "clean": 0.84, "robust, l2 0.25": 0.48},
    {"trained on": "non-robust set", "clean": 0.88, "robust, l2 0.25": 0.0},
    {"trained on": "D_rand", "clean": 0.63, "robust, l2 0.25": 0.0},
    {"trained on": "D_det", "clean": 0.44, "robust, l2 0.25": 0.0},
]
"""Ilyas et al. 2019, arXiv:1905.02175: ResNet-50, original images, PGD."""
NOT_RUN = [
    "more than the seeds given: a claim needs three",
    "ResNet-50 and the published length of training, of inversion and of the attacks that make D_rand and D_det",
    "transfer to other architectures, MNIST-C and CIFAR-10-C",
]


class Told:
    """Prints what is done, and remembers the longest time between two results that are kept."""

    def __init__(self) -> None:
        self.before, self.longest, self.what = time.perf_counter(), 0.0, ""

    def __call__(self, what: str, done: int, of: int) -> None:
        """As the study calls it."""
        now = time.perf_counter()
        if now - self.before > self.longest:
            self.longest, self.what = now - self.before, what
        print(f"{time.strftime('%H:%M:%S')}  {what}: {done} of {of}, {now - self.before:.0f} s", flush=True)
        self.before = now


def main() -> None:
    """Do what is not there yet, then write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder; a second start continues it")
    parser.add_argument("--small", action="store_true", help="a few steps of a narrow network")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--epochs", type=int, help="of every network")
    parser.add_argument("--piece", type=int, help="updates between two checkpoints")
    parser.add_argument("--shard", type=int, help="images of a set between two")
    parser.add_argument("--judge", type=int, help="test images under attack")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    size = SMALL if options.small else FULL
    if options.epochs:
        updates = options.epochs * EPOCH
        size = replace(size, tasks=(replace(size.tasks[0], natural=updates, hardened=updates, fresh=updates),))
    given = {"piece": options.piece, "shard": options.shard, "robust_n": options.judge}
    size = replace(size, **{name: value for name, value in given.items() if value})
    told = Told()
    found = run_robust_features(
        size, out=options.out, seeds=options.seeds, device=options.device, progress=told,
        command=shlex.join(["python", *sys.argv]),
    )  # fmt: skip
    page = render_study(options.out)
    task = size.tasks[0]
    record = {
        "benchmark": "cifar10_features", "label": "small: figures mean nothing" if options.small else "full",
        "data": "CIFAR-10, JPEG-recompressed (quality 75, 4:2:0): comparable with no published figure",
        "network": f"ResNet-18, width {task.options['width']}", "hardened at": str(task.threat),
        "inner steps": task.steps, "updates": task.fresh, "images of each set": size.rebuilt,
        "seeds": options.seeds, "seconds": found.seconds, "tables": found.tables,
        "claims": [claim.model_dump() for claim in found.claims], "published": PUBLISHED, "not run": NOT_RUN,
        "longest work that a kill would have lost": {"what": told.what, "seconds": round(told.longest, 1)},
        "environment": found.environment.model_dump(), "command": found.command,
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu",
    }  # fmt: skip
    write_whole(options.out / "cifar10-features.json", (json.dumps(record, indent=2) + "\n").encode())
    for line in next(iter(found.tables.values())):
        print(line)
    print(f"page: {page}")


if __name__ == "__main__":
    main()
