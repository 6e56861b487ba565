"""The cascade against AutoAttack-standard on the first 1,000 MNIST test images, Linf, eps .3.

    python benchmarks/cascade_vs_autoattack.py peer trades          AutoAttack, kept chunk by chunk; resumes. The first
                                                                    chunk of a start is also timed against ours
    python benchmarks/cascade_vs_autoattack.py peer trades --images 200   the first chunk alone: times both again, and
                                                                    says whether it left whom the record left
    python benchmarks/cascade_vs_autoattack.py ours trades          three seeds of `normal`, and `thorough`
    python benchmarks/cascade_vs_autoattack.py table                what is in the results, as a table

AutoAttack runs from its own source (github.com/fra31/auto-attack), which must be on the path given by --peer-path;
it runs as shipped, version "standard", on chunks of 200 images, one stage after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import unfooled as uf
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.core.model.wrappers import Counted
from unfooled.data import load_dataset
from unfooled.runs.files import write_whole
from unfooled.runs.progress import Progress
from unfooled.runs.records import Environment
from unfooled.statistics import mcnemar, share

RESULTS = Path(__file__).parent / "results"
EPS, N, CHUNK = 0.3, 1000, 200
STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")


def network(name: str) -> nn.Module:
    """One of the three networks, in eval mode."""
    folder = Path(os.environ.get("UNFOOLED_DATA", "../shared/data")) / "models"
    files = {
        "trades": (folder / "mnist_trades_smallcnn.pt", "trades-small-cnn"),
        "lenet5": (folder / "mnist_lenet5_clntrained.pt", "lenet5"),
        "pgd-at": (Path("runs/pgd-at-mnist.pt"), "small-cnn"),
    }
    path, arch = files[name]
    return uf.load_model(str(path), arch=arch, input_shape=(1, 28, 28), num_classes=10)


def images() -> tuple[Tensor, Tensor]:
    """The first thousand test images and their labels."""
    data = load_dataset("mnist", split="test")
    return data.x[:N], data.y[:N]


def autoattack(model: nn.Module, x: Tensor, y: Tensor, path: str) -> dict[str, Any]:
    """AutoAttack-standard on one chunk: who stands after each stage, passes and seconds."""
    if path not in sys.path:
        sys.path.insert(0, path)
    from autoattack import AutoAttack

    counted = Counted(model)
    survivors, spent = {}, {}
    with contextlib.redirect_stdout(io.StringIO()):
        judge = AutoAttack(counted, norm="Linf", eps=EPS, seed=0, version="standard", device="cpu", verbose=False)
        standing = torch.ones(len(x), dtype=torch.bool)
        for stage in STAGES:
            judge.attacks_to_run = [stage]
            wall, cpu, before = time.perf_counter(), time.process_time(), (counted.forwards, counted.backwards)
            rows = standing.nonzero()[:, 0]
            if len(rows):
                z = judge.run_standard_evaluation(x[rows], y[rows], bs=CHUNK)
                verdict = uf.verify(model, x[rows], y[rows], z, uf.Linf(EPS), tol=1e-5)
                standing[rows] &= ~verdict.success
            spent[stage] = {
                "seconds": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "forwards": counted.forwards - before[0],
                "backwards": counted.backwards - before[1],
            }
            survivors[stage] = standing.clone()
    return {"survivors": survivors, "spent": spent}


def together(model: nn.Module, x: Tensor, y: Tensor, path: str, *, timed: bool) -> dict[str, Any]:
    """AutoAttack on a chunk; when timed, with our own runs before and after it."""
    before = [attacked(model, x, y, uf.NORMAL, seed) for seed in (0, 1) if timed]
    found = autoattack(model, x, y, path)
    after = [attacked(model, x, y, uf.NORMAL, 2)] if timed else []
    return found | {"ours": before + after, "load": list(os.getloadavg())}


def timing(part: dict[str, Any], start: int) -> dict[str, Any]:
    """Seconds of both on one chunk, and their ratios (median of our runs)."""
    peer = {k: sum(s[k] for s in part["spent"].values()) for k in ("seconds", "cpu")}
    own = {k: float(np.median([r[k] for r in part["ours"]])) for k in ("seconds", "cpu_seconds")}
    left = [r["robust_accuracy"]["value"] for r in part["ours"]]
    return {
        "images": [start, start + CHUNK],
        "threads": torch.get_num_threads(),
        "load": part["load"],
        "autoattack": peer | {"robust_accuracy": float(part["survivors"]["square"].double().mean())},
        "ours": own | {"robust_accuracy": left},
        "wall_ratio": peer["seconds"] / own["seconds"],
        "cpu_ratio": peer["cpu"] / own["cpu_seconds"],
    }


def peer(name: str, path: str, last: int) -> None:
    """AutoAttack over the chunks of the images before `last`; finished ones are found again."""
    model, (x, y) = network(name), images()
    folder = Path("runs") / f"autoattack-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    parts, first = [], True
    for start in range(0, last, CHUNK):
        file = folder / f"{start}.pt"
        if not file.exists():
            buffer = io.BytesIO()
            torch.save(together(model, x[start : start + CHUNK], y[start : start + CHUNK], path, timed=first), buffer)
            first = False
            write_whole(file, buffer.getvalue())
            print(name, start, flush=True)
        parts.append(torch.load(file, weights_only=True))
    alive = {stage: torch.cat([p["survivors"][stage] for p in parts]) for stage in STAGES}
    recorded = json.loads(results(name).read_text()).get("autoattack") if results(name).exists() else None
    if recorded:
        differ = int((standing(recorded["survivors"])[:last] ^ alive["square"]).sum())
        print(f"{name}: {differ} of {last} verdicts differ from the record")
    total = {
        k: sum(p["spent"][s][k] for p in parts for s in STAGES) for k in ("seconds", "cpu", "forwards", "backwards")
    }
    record(name, "timed", [timing(p, i * CHUNK) for i, p in enumerate(parts) if p.get("ours")])
    if last < N:
        return
    record(
        name,
        "autoattack",
        {
            "version": "standard, seed 0, chunks of 200",
            "robust_accuracy": {stage: share(alive[stage]).model_dump() for stage in STAGES},
            "forwards": total["forwards"] / N,
            "backwards": total["backwards"] / N,
            "cpu_seconds": total["cpu"],
            "survivors": np.packbits(alive["square"].numpy()).tobytes().hex(),
        },
    )


def attacked(model: nn.Module, x: Tensor, y: Tensor, effort: Effort, seed: int) -> dict[str, Any]:
    """One run of the cascade, judged by `verify`."""
    log: list[Progress] = []
    counted = Counted(model)
    wall, cpu = time.perf_counter(), time.process_time()
    z = uf.cascade(counted, x, y, uf.Linf(EPS), effort=effort, seed=seed, log=log)
    seconds, cpu = time.perf_counter() - wall, time.process_time() - cpu
    standing = ~uf.verify(model, x, y, z, uf.Linf(EPS)).success
    return {
        "seed": seed,
        "robust_accuracy": share(standing).model_dump(),
        "forwards": counted.forwards / len(x),
        "backwards": counted.backwards / len(x),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "survivors": np.packbits(standing.numpy()).tobytes().hex(),
        "curve": [[p.stage, round(p.forward + p.backward, 2), round(p.accuracy, 5)] for p in log],
    }


def ours(name: str, efforts: list[str], seeds: int) -> None:
    """The cascade with every seed."""
    model, (x, y) = network(name), images()
    for effort in efforts:
        rows = [attacked(model, x, y, getattr(uf, effort.upper()), seed) for seed in range(seeds)]
        for row in rows:
            print(
                name,
                effort,
                row["seed"],
                row["robust_accuracy"]["value"],
                row["forwards"],
                row["backwards"],
                flush=True,
            )
        record(name, effort, rows)


def results(name: str) -> Path:
    """The network's result file."""
    return RESULTS / f"cascade-vs-autoattack-{name}.json"


def record(name: str, key: str, value: Any) -> None:
    """Add to the network's result file."""
    file = results(name)
    whole = json.loads(file.read_text()) if file.exists() else {}
    whole |= {"n": N, "eps": EPS, "environment": Environment.here("cpu").model_dump()}
    whole[key] = value
    whole.setdefault("commands", {})[key] = "python benchmarks/cascade_vs_autoattack.py " + " ".join(
        a for a in sys.argv[1:] if not a.startswith(("/", "--peer-path"))
    )
    write_whole(file, json.dumps(whole, indent=1).encode())


def standing(survivors: str) -> Tensor:
    """Return which samples withstood, (N,) bool."""
    return torch.from_numpy(np.unpackbits(np.frombuffer(bytes.fromhex(survivors), np.uint8))[:N].astype(bool))


def table() -> None:
    """Print what was found."""
    for file in sorted(RESULTS.glob("cascade-vs-autoattack-*.json")):
        whole = json.loads(file.read_text())
        peer = whole.get("autoattack")
        if peer:
            cost = peer["forwards"] + peer["backwards"]
            left = " ".join(f"{k} {v['value']:.3f}" for k, v in peer["robust_accuracy"].items())
            print(f"{file.stem}: AutoAttack {left}, {peer['forwards']:.0f} F + {peer['backwards']:.0f} B")
            theirs = ~standing(peer["survivors"])
            for effort in ("quick", "normal", "thorough"):
                for row in whole.get(effort, []):
                    fooled = ~standing(row["survivors"])
                    own = row["forwards"] + row["backwards"]
                    print(
                        f"  {effort} seed {row['seed']}: {row['robust_accuracy']['value']:.3f}, "
                        f"{row['forwards']:.1f} F + {row['backwards']:.1f} B, 1/{cost / own:.1f} of the passes; only "
                        f"ours {int((fooled & ~theirs).sum())}, only AutoAttack {int((theirs & ~fooled).sum())}, "
                        f"McNemar p {mcnemar(fooled, theirs):.2f}"
                    )
        for row in whole.get("timed", []):
            print(f"  images {row['images']}: wall / {row['wall_ratio']:.1f}, processor time / {row['cpu_ratio']:.1f}")


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("peer", "ours", "table"))
    parser.add_argument("network", nargs="?", choices=("trades", "pgd-at", "lenet5"))
    parser.add_argument("--effort", nargs="+", default=["normal"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=N, help="of `peer`: a multiple of 200")
    parser.add_argument("--peer-path", default="../auto-attack")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    match options.part:
        case "peer":
            peer(options.network, options.peer_path, options.images)
        case "ours":
            ours(options.network, options.effort, options.seeds)
        case "table":
            table()


if __name__ == "__main__":
    main()
