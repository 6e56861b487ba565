"""Minimal-norm attacks against their peers on MNIST: how near the nearest adversarial point is, pass for pass.

    python benchmarks/minimal_norms_vs_peers.py peer lenet5         every peer, 1,000 steps; what is done is kept
    python benchmarks/minimal_norms_vs_peers.py ours lenet5         `envelope` at 1,000 passes per sample, three seeds
    python benchmarks/minimal_norms_vs_peers.py table               the results, as a table and as JSON

The score is AttackBench's optimality, exact instead of on a grid: with A the area under robust accuracy on [0, E],
E the largest best distance and A* the area of the per-sample best of all attacks,

    optimality = 1 - (A - A*) / (clean accuracy E - A*),   A = mean_i min(d_i, E)

Peers have 1,000 steps of one forward and one backward; ours has half of that, 1,000 passes in all. Peers are
adversarial-library (`pip install adv-lib --no-deps`) and foolbox; torchvision and visdom, which adversarial-library
imports and these attacks do not use, are replaced by empty modules.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import io
import json
import math
import os
import sys
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import unfooled as uf
from unfooled.core.ascent.nearest import NORMS
from unfooled.core.model.wrappers import Counted
from unfooled.data import load_dataset
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment

RESULTS = Path(__file__).parent / "results" / "minimal-norms.json"
STEPS, BUDGET, SEEDS = 1000, 1000, (0, 1, 2)
NAMES = {0.0: "L0", 1.0: "L1", 2.0: "L2", math.inf: "Linf"}
NETWORKS = {
    "lenet5": ("mnist_lenet5_clntrained.pt", "lenet5"),
    "trades": ("mnist_trades_smallcnn.pt", "trades-small-cnn"),
}

Run = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, x, y) -> adversarial points."""


def network(name: str) -> nn.Module:
    """One of the networks, in eval mode, without gradients of its parameters."""
    file, arch = NETWORKS[name]
    path = Path(os.environ.get("UNFOOLED_DATA", "../shared/data")) / "models" / file
    model = uf.load_model(str(path), arch=arch, input_shape=(1, 28, 28), num_classes=10)
    return model.requires_grad_(False)


def images(first: int, n: int) -> tuple[Tensor, Tensor]:
    """MNIST test images and their labels."""
    data = load_dataset("mnist", split="test")
    return data.x[first : first + n], data.y[first : first + n]


def adv_lib() -> types.ModuleType:
    """adversarial-library's attacks, with empty modules for what they import and do not use."""
    for name in ("visdom", "torchvision"):
        if name not in sys.modules:
            stub = types.ModuleType(name)
            stub.__getattr__ = lambda _: object  # type: ignore[method-assign]
            sys.modules[name] = stub
    from adv_lib import attacks

    return attacks


def without_zeros(attack: Run, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Attack what is classified rightly; the rest stays (some peers fail on it)."""
    with torch.no_grad():
        right = model(x).argmax(1) == y
    z = x.clone()
    z[right] = attack(model, x[right], y[right])
    return z


def foolbox_run(make: Callable[[Any], Any]) -> Run:
    """An attack of foolbox with no limit on the size."""

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        import foolbox

        # Counted is no module, which foolbox insists on.
        class Wrapped(nn.Module):
            def forward(self, z: Tensor) -> Tensor:
                return model(z)

        seen = foolbox.PyTorchModel(Wrapped().eval(), bounds=(0, 1), device="cpu")
        raw, _, _ = make(foolbox.attacks)(seen, x, y, epsilons=None)
        return raw

    return run


def peers() -> dict[float, dict[str, Run]]:
    """Attacks by norm; adversarial-library's are loaded when called."""

    def of(name: str, **options: Any) -> Run:
        def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            attacks = adv_lib()
            home = attacks if hasattr(attacks, name) else importlib.import_module("adv_lib.attacks.auto_pgd")
            return getattr(home, name)(model, x, y, **options)

        return run

    found: dict[float, dict[str, Run]] = {
        0.0: {
            "adv-lib sigma-zero": of("sigma_zero", num_steps=STEPS),
            "adv-lib fmn": of("fmn", norm=0, steps=STEPS),
            "adv-lib pdpgd": of("pdpgd", norm=0, proximal_operator=23, num_steps=STEPS),
        },
        1.0: {
            "adv-lib fmn": of("fmn", norm=1, steps=STEPS),
            "adv-lib pdpgd": of("pdpgd", norm=1, num_steps=STEPS),
            "adv-lib alma": of("alma", distance="l1", num_steps=STEPS, init_lr_distance=0.5, α=0.5),
            "foolbox ead": foolbox_run(
                lambda a: a.EADAttack(binary_search_steps=5, steps=STEPS // 5, decision_rule="L1", abort_early=False)
            ),
        },
        2.0: {
            "adv-lib ddn": of("ddn", steps=STEPS, levels=None),
            "adv-lib fmn": of("fmn", norm=2, steps=STEPS),
            "adv-lib pdgd": of("pdgd", num_steps=STEPS),
            "adv-lib alma": of("alma", distance="l2", num_steps=STEPS, init_lr_distance=0.1),
            "foolbox ddn": foolbox_run(lambda a: a.DDNAttack(steps=STEPS)),
        },
        math.inf: {
            "adv-lib fmn": of("fmn", norm=math.inf, steps=STEPS),
            "adv-lib pdpgd": of("pdpgd", norm=math.inf, num_steps=STEPS),
            "adv-lib apgd": of("minimal_apgd", norm=math.inf, max_eps=1.0, binary_search_steps=10, n_iter=STEPS // 10),
        },
    }
    return {norm: {name: partial(without_zeros, run) for name, run in of.items()} for norm, of in found.items()}


def own() -> dict[float, dict[str, Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]]]:
    """The envelope, norm by norm."""
    from unfooled.attacks.ensembles.envelope import envelope

    def one(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, norm: float) -> Tensor:
        return envelope(model, x, y, (norm,), budget=BUDGET, generator=generator)[norm]

    return {norm: {"envelope": partial(one, norm=norm)} for norm in NAMES}


def measured(file: Path, attack: Run, model: nn.Module, x: Tensor, y: Tensor, norm: float) -> dict[str, Any]:
    """Return one run's distances, passes per sample and seconds, from the file if they are there."""
    if file.exists():
        return torch.load(file, weights_only=True)
    counted = Counted(model)
    start, cpu = time.perf_counter(), time.process_time()
    z = attack(counted, x, y)  # type: ignore[arg-type]
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    verdict = uf.verify(model, x, y, z.detach(), NORMS[norm](math.inf))
    result = {
        "distance": verdict.distance,
        "forwards": counted.forwards / len(x),
        "backwards": counted.backwards / len(x),
        "seconds": seconds,
        "cpu_seconds": cpu,
    }
    buffer = io.BytesIO()
    torch.save(result, buffer)
    write_whole(file, buffer.getvalue())
    far = verdict.distance
    print(
        file.stem,
        f"mean {float(far[far.isfinite()].mean()):.5g}, missed {int((~far.isfinite()).sum())},",
        f"{result['forwards']:.1f} F {result['backwards']:.1f} B, {seconds:.0f} s",
        flush=True,
    )
    return result


def file_of(options: argparse.Namespace, who: str, norm: float, name: str, seed: int | None = None) -> Path:
    """Return the file of a run."""
    part = f"{options.network}-{options.first}-{options.n}-{NAMES[norm]}-{who}-{name.replace(' ', '-')}"
    return Path(options.out) / (part + ("" if seed is None else f"-{seed}") + ".pt")


def norms_of(options: argparse.Namespace) -> list[float]:
    """Return the norms that the options name."""
    return [norm for norm, name in NAMES.items() if name in options.norms]


def run_peers(options: argparse.Namespace) -> None:
    """Every peer; a failure is told and the next one runs."""
    model, (x, y) = network(options.network), images(options.first, options.n)
    for norm in norms_of(options):
        for name, attack in peers()[norm].items():
            torch.manual_seed(0)
            try:
                measured(file_of(options, "peer", norm, name), attack, model, x, y, norm)
            except Exception as e:  # a peer's defect must not end the others
                print(NAMES[norm], name, "failed:", repr(e)[:300], flush=True)


def run_ours(options: argparse.Namespace) -> None:
    """The envelope with every seed."""
    model, (x, y) = network(options.network), images(options.first, options.n)
    for seed in SEEDS[: options.seeds]:
        for norm in norms_of(options):
            for name, attack in own()[norm].items():
                source = torch.Generator().manual_seed(seed)

                def go(m: nn.Module, x: Tensor, y: Tensor, attack: Any = attack, source: Any = source) -> Tensor:
                    return attack(m, x, y, source)

                measured(file_of(options, "ours", norm, name, seed), go, model, x, y, norm)


def optimality(d: Tensor, best: Tensor) -> float:
    """AttackBench's score of distances d against the best known ones; 0 marks samples that are wrong from the start."""
    d, best = d.double(), best.double()
    end = float(best[best.isfinite()].max())
    area, least = (float(v.clamp(max=end).mean()) for v in (d, best))
    return 1 - (area - least) / (float((best > 0).double().mean()) * end - least)


def table(options: argparse.Namespace) -> None:
    """Score every run that is kept; print, and write the JSON unless other images were used."""
    whole: dict[str, Any] = {
        "command": [
            "python benchmarks/minimal_norms_vs_peers.py " + p for p in ("peer NETWORK", "ours NETWORK", "table")
        ],
        "images": f"MNIST test, {options.first} to {options.first + options.n - 1}",
        "n": options.n,
        "threads": 1,
        "peer_steps": STEPS,
        "budget": BUDGET,
        "environment": Environment.here("cpu").model_dump(),
        "versions": {n: importlib.metadata.version(n) for n in ("adv-lib", "foolbox", "torch")},
        "networks": {},
    }
    for net in NETWORKS:
        options.network = net
        for norm in NAMES:
            theirs = {n: file_of(options, "peer", norm, n) for n in peers()[norm]}
            mine = {(n, s): file_of(options, "ours", norm, n, s) for n in own()[norm] for s in SEEDS}
            load = partial(torch.load, weights_only=True)
            a = {n: load(f) for n, f in theirs.items() if f.exists()}
            b = {k: load(f) for k, f in mine.items() if f.exists()}
            if not a:
                continue
            best = torch.stack([r["distance"] for r in a.values()]).amin(0)
            every = torch.stack([best, *[r["distance"] for r in b.values()]]).amin(0)
            rows = [scored(r, best, every, {"attack": n}) for n, r in a.items()]
            rows += [scored(r, best, every, {"attack": f"unfooled {n}", "seed": s}) for (n, s), r in b.items()]
            whole["networks"].setdefault(net, {})[NAMES[norm]] = rows
            print(f"\n{net} {NAMES[norm]}")
            for row in rows:
                name = f"{row['attack']} {row.get('seed', '')}"
                print(
                    f"  {name:24} {row['optimality_peers']:8.2%} {row['optimality_all']:8.2%}  "
                    f"{row['passes']:7.1f} passes  {row['seconds']:6.0f} s  mean {row['mean']:.5g}"
                )
    if options.first == 0:
        write_whole(RESULTS, json.dumps(whole, indent=1).encode())


def scored(run: dict[str, Any], best: Tensor, every: Tensor, row: dict[str, Any]) -> dict[str, Any]:
    """A row of the results. A score against the peers alone passes 100 % where a run is nearer than all of them."""
    d = run["distance"]
    return row | {
        "optimality_peers": optimality(d, best),
        "optimality_all": optimality(d, every),
        "passes": run["forwards"] + run["backwards"],
        "forwards": run["forwards"],
        "backwards": run["backwards"],
        "missed": int((~d.isfinite()).sum()),
        "mean": float(d[d.isfinite()].mean()),
        "seconds": run["seconds"],
        "cpu_seconds": run["cpu_seconds"],
    }


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("peer", "ours", "table"))
    parser.add_argument("network", nargs="?", choices=tuple(NETWORKS))
    parser.add_argument("--norms", nargs="+", default=list(NAMES.values()), choices=list(NAMES.values()))
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--first", type=int, default=0, help="index of the first image; 2000 for tuning")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--out", default="runs/minimal-norms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    {"peer": run_peers, "ours": run_ours, "table": table}[options.part](options)


if __name__ == "__main__":
    main()
