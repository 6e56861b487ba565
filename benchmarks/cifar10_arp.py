"""ARP on CIFAR-10: ResNet-18, Linf 8/255; PGD-AT, PGD-AT + ARP and the control with shuffled maps, at equal compute.

    python benchmarks/cifar10_arp.py --out runs/cifar10-arp                   a GPU; an hour or more for each network
    python benchmarks/cifar10_arp.py --out runs/cifar10-arp-small --small     a CPU; two minutes, figures mean nothing

Resumes where it was stopped: weights are kept after every `--piece` of training (choose it well under 8 minutes), a
network's verdict once it is there, for these weights and as it was judged (`--judge`): other settings are another file.
Judged like `unfooled study attention`: cascade, attention-guided attacks, ascent on
the ARP objective, and the attack that moves attention and keeps the label.

CIFAR-10 is read from UNFOOLED_DATA. The copy at hand is recompressed (JPEG, quality 75): compare with no published
figure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.attacks.ensembles.cascade import NORMAL, QUICK
from unfooled.core.threats import Linf
from unfooled.data import load_dataset
from unfooled.models.nets.resnet18 import ResNet18
from unfooled.runs.files import write_whole
from unfooled.runs.hashes import weights_hash
from unfooled.runs.records import Environment, read_record, write_record
from unfooled.runs.spelling import spelled
from unfooled.studies.attention.judging import Judging, judge
from unfooled.studies.attention.recipes import ARP, BASE, SHUFFLED, equal_compute
from unfooled.studies.attention.records import Judged, Results
from unfooled.studies.attention.samples import Samples
from unfooled.studies.attention.training_results import comparison_table, training_claims
from unfooled.training import Batches, Checkpoint, Ramp, Stepping, train

ARMS = (BASE, ARP, SHUFFLED)
THREAT = Linf(8 / 255)
DATA = "cifar10 (JPEG-recompressed) 8/255"
NOT_RUN = [
    "logit pairing, standard, Step-LL and the further arms of the full study",
    "more than the seed given: a claim needs three",
    "transfer between the networks, CIFAR-10-C, L2, other radii",
]


@dataclass(frozen=True)
class Size:
    """Size: epochs of PGD-AT + ARP (the others take more), width, inner steps, training samples, and the judge."""

    epochs: float
    width: int
    inner: int
    train_n: int | None
    piece: int
    judging: Judging


FULL = Size(30, 64, 10, None, 200, Judging(1000, NORMAL, (0.1, 1.0, 10.0), 50, 3, 50))
SMALL = Size(1, 8, 2, 256, 1, Judging(10, QUICK, (1.0,), 3, 1, 3))


def fitted(
    name: str, size: Size, data: tuple[Tensor, Tensor], out: Path, seed: int, device: str
) -> tuple[nn.Module, Any]:
    """Train an arm, or go on, or read it; the network in eval mode and its history."""
    x, y = data
    arm = {a.name: a for a in equal_compute(ARMS, size.inner)}[name]
    batch = min(128, len(x))
    steps = round(size.epochs * len(x) / batch * arm.share)
    batches = Batches(x, y, batch, seed, flip=True, crop=4, steps=size.piece)
    pieces = max(1, round(steps / len(batches)))
    torch.manual_seed(seed)
    net = ResNet18((3, 32, 32), 10, width=size.width).to(device)
    loss = Ramp(arm.loss(THREAT), 0.2 * pieces)
    about = {"arch": "resnet18", "input_shape": [3, 32, 32], "num_classes": 10}
    settings = {"arm": name, "loss": spelled(loss), "seed": seed, "pieces": pieces, "steps": len(batches), "n": len(x)}
    file = out / f"{name.replace(' ', '_')}-{seed}.pt"
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    keep = Checkpoint(file, about, settings)
    stepping = Stepping(clip=5.0)
    for epoch in train(net, batches, loss, optimizer, epochs=pieces, seed=seed, checkpoint=keep, stepping=stepping):
        notes = ", ".join(f"{k} {v:.3f}" for k, v in epoch.notes.items())
        print(f"{name}: {epoch.index + 1}/{pieces}, loss {epoch.loss:.3f}, {epoch.seconds:.0f} s {notes}", flush=True)
        if epoch.seconds > 480:
            print("a piece took more than 8 minutes: choose a smaller --piece", flush=True)
    state = torch.load(file, weights_only=True, map_location="cpu")
    return net.eval(), state["history"]


def judging_settings(judging: Judging) -> dict[str, Any]:
    """Return the effort of the judgement as plain values."""
    return {**vars(judging), "effort": judging.effort.name}


def verdict_file(out: Path, name: str, seed: int, net: nn.Module, judging: Judging) -> Path:
    """Return the file of a network's verdict; other weights and other judging have another name."""
    settings = json.dumps([judging_settings(judging), str(THREAT), weights_hash(net)], sort_keys=True)
    return out / f"{name.replace(' ', '_')}-{seed}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}.json"


def main() -> None:
    """Train and judge what is not there yet, then write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder; a second start continues it")
    parser.add_argument("--small", action="store_true", help="a few steps of a narrow network")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--epochs", type=float, help="of PGD-AT + ARP")
    parser.add_argument("--piece", type=int, help="steps between two checkpoints")
    parser.add_argument("--judge", type=int, help="test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    size = SMALL if options.small else FULL
    judging = Judging(**{**vars(size.judging), **({"n": options.judge} if options.judge else {})})
    size = Size(
        **{**vars(size), "judging": judging, **{k: v for k in ("epochs", "piece") if (v := getattr(options, k))}}
    )
    found = load_dataset("cifar10", "train", size.train_n)
    held = load_dataset("cifar10", "test", size.judging.n)
    device = options.device
    data = found.x.to(device), found.y.to(device)
    samples = Samples(held.x.to(device), held.y.to(device), held.classes)
    rows, networks = [], []
    for name in options.arms:
        started = time.perf_counter()
        net, history = fitted(name, size, data, options.out, options.seed, device)
        path = verdict_file(options.out, name, options.seed, net, size.judging)
        if path.exists():
            row = read_record(path, Judged)
        else:
            row, _ = judge(net, samples, THREAT, size.judging, data=DATA, arm=name, seed=options.seed)
            write_record(path, row)
        rows.append(row)
        networks.append(
            {
                "network": name, "seconds of training": round(sum(h["seconds"] for h in history), 1),
                "pieces": len(history), "notes of the last": history[-1]["notes"],
                "seconds of judging": row.seconds, "seconds of this start": round(time.perf_counter() - started, 1),
            }
        )  # fmt: skip
    results = Results(judged=rows)
    record = {
        "benchmark": "cifar10_arp", "label": "small: figures mean nothing" if options.small else "full",
        "data": "CIFAR-10, JPEG-recompressed (quality 75, 4:2:0): comparable with no published figure",
        "network": f"ResNet-18, width {size.width}", "threat": str(THREAT), "inner steps": size.inner,
        "judging": judging_settings(size.judging),
        "epochs of PGD-AT + ARP": size.epochs, "seed": options.seed, "networks": networks,
        "rows": comparison_table(results, DATA),
        "claims": [c.model_dump() for c in training_claims(results, DATA)], "not run": NOT_RUN,
        "environment": Environment.here(device).model_dump(),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
    }  # fmt: skip
    write_whole(options.out / "cifar10-arp.json", (json.dumps(record, indent=2) + "\n").encode())
    for line in record["rows"]:
        print(line)


if __name__ == "__main__":
    main()
