"""PGD and APGD beside foolbox, torchattacks, adversarial-library and auto-attack: seconds, passes, robust accuracy.

Every case (network, attack, norm, loss) is run in two settings, for everybody on the same images in the same process:

    full      equal step sizes, parameters frozen, no early stopping of ours: the time of equal numbers of passes,
              beside a raw loop that does nothing but those passes; ours / raw is the overhead
    default   everybody's defaults at equal steps, the module as it was loaded: what a user waits for

Entrants take turns, in reversed order every other round; times are medians over the rounds, ratios are medians of the
ratios within a round. `cpu` is processor time, which busy neighbours disturb less than `seconds`; on one thread and an
idle machine they are equal. Passes are counted by hooks on the module, successes by `unfooled.evaluation.verify`.
The peers are optional: the JSON says why one is missing. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unfooled
from unfooled.attacks import apgd, pgd
from unfooled.core.ascent import Auto, Constant, ascend
from unfooled.core.goals import fooling
from unfooled.core.losses import cross_entropy, dlr, margin
from unfooled.core.model.modes import frozen
from unfooled.core.threats import L2, Linf, Threat
from unfooled.evaluation.verify import verify
from unfooled.models import CifarResnet, load_model

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("UNFOOLED_DATA", HERE.parent.parent / "shared" / "data"))
SEED = 0
LOSSES = {"ce": cross_entropy, "dlr": dlr}
RADII = {"lenet5": {math.inf: 0.1, 2.0: 1.0}, "trades": {math.inf: 0.3, 2.0: 1.5}}
STEP = {math.inf: 0.01 / 0.3, 2.0: 0.1}  # PGD's equal step sizes, in multiples of eps
# adv-lib imports these for a perceptual distance and for plots, which the attacks below do not use.
STAND_INS: dict[str, dict[str, Any]] = {"torchvision": {"models": None}, "visdom": {}}
CLOCKS = ("seconds", "cpu")
Run = Callable[[nn.Module, Tensor, Tensor], Tensor]
Times = list[tuple[float, float]]
Data = tuple[Tensor, Tensor]
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One comparison: who is attacked, how, within what."""

    network: str
    attack: str
    norm: float
    loss: str

    @property
    def steps(self) -> int:
        """Gradient steps."""
        return 40 if self.attack == "pgd" else 100

    @property
    def eps(self) -> float:
        """Radius."""
        return RADII[self.network][self.norm]

    @property
    def threat(self) -> Threat:
        """The ball of radius eps."""
        return Linf(self.eps) if self.norm == math.inf else L2(self.eps)

    @property
    def ball(self) -> str:
        """The peers' name of the norm."""
        return "Linf" if self.norm == math.inf else "L2"

    def __str__(self) -> str:
        return f"{self.network} {self.attack}-{self.loss} {self.ball}"


CASES = [
    Case(network, attack, norm, loss)
    for network in RADII
    for attack, norm, loss in (
        ("pgd", math.inf, "ce"),
        ("pgd", 2.0, "ce"),
        ("apgd", math.inf, "ce"),
        ("apgd", math.inf, "dlr"),
        ("apgd", 2.0, "ce"),
    )
]


def load_peers() -> tuple[dict[str, types.ModuleType], dict[str, str], dict[str, str]]:
    """The peers that import, their versions, and why the others do not."""
    names = {"foolbox": "foolbox", "torchattacks": "torchattacks", "adv-lib": "adv_lib.attacks"}
    names["auto-attack"] = "autoattack.autopgd_base"
    absent = [name for name in STAND_INS if importlib.util.find_spec(name) is None]
    for name in absent:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(STAND_INS[name])
    found: dict[str, types.ModuleType] = {}
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, module in names.items():
        try:
            found[name] = importlib.import_module(module)
        except Exception as error:  # whatever a peer's import raises is the reason it is left out
            missing[name] = f"{type(error).__name__}: {error}"
            continue
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            source = Path(str(found[name].__file__)).read_bytes()
            versions[name] = f"source, sha256 of {module} {hashlib.sha256(source).hexdigest()[:12]}"
    for name in absent:
        del sys.modules[name]
        versions[name] = "absent; an empty stand-in while the peers were imported"
    return found, versions, missing


def in_batches(attack: Run, batch: int) -> Run:
    """Run a peer's attack as its users do, in a loop over batches."""

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([attack(model, a, b) for a, b in zip(x.split(batch), y.split(batch), strict=True)])

    return run


def raw(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Nothing but the passes of an attack: one forward and backward per step, one forward at the end.

    To be run at attacked points: on clean digits, black around the stroke, the same passes are a tenth faster.
    """
    for _ in range(steps):
        z = x.detach().requires_grad_()
        torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)
    with torch.no_grad():
        model(x)
    return x


def apgd_all_steps(case: Case, model: nn.Module, x: Tensor, y: Tensor, batch: int) -> Tensor:
    """APGD that lets no sample go early."""
    with frozen(model):
        goal = fooling(model, y, LOSSES[case.loss], stop=False)
        start = case.threat.sample(x)
        return ascend(goal, x, case.threat, steps=case.steps, rule=Auto(), start=start, batch=batch).z


def ours(case: Case, batch: int, *, full: bool) -> dict[str, Run]:
    if case.attack == "pgd":
        options: dict[str, Any] = {"rule": Constant(STEP[case.norm]), "stop": False} if full else {}
        return {"unfooled": lambda m, x, y: pgd(m, x, y, case.threat, steps=case.steps, batch=batch, **options)}
    if full:
        return {"unfooled": lambda m, x, y: apgd_all_steps(case, m, x, y, batch)}
    loss = LOSSES[case.loss]
    runs: dict[str, Run] = {"unfooled": lambda m, x, y: apgd(m, x, y, case.threat, loss=loss, batch=batch)}
    if case.loss == "dlr":
        runs["unfooled (margin)"] = lambda m, x, y: apgd(m, x, y, case.threat, loss=margin, batch=batch)
    return runs


def foolbox_pgd(foolbox: Any, case: Case, *, full: bool) -> Run:
    kind = foolbox.attacks.LinfPGD if case.norm == math.inf else foolbox.attacks.L2PGD
    attack = kind(steps=case.steps, **({"rel_stepsize": STEP[case.norm]} if full else {}))

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        if full:  # without the grading that a call adds
            return attack.run(wrapped, x, foolbox.criteria.Misclassification(y), epsilon=case.eps)
        return attack(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=case.eps)[1]

    return run


def theirs(case: Case, peers: dict[str, Any], *, full: bool) -> dict[str, Run]:
    """Each peer's attack on one batch; `full` changes PGD's step sizes alone, APGD of the peers never stops early."""
    runs: dict[str, Run] = {}
    if case.attack == "pgd":
        if "foolbox" in peers:
            runs["foolbox"] = foolbox_pgd(peers["foolbox"], case, full=full)
        if "torchattacks" in peers:
            kind = peers["torchattacks"].PGD if case.norm == math.inf else peers["torchattacks"].PGDL2
            alpha = {"alpha": STEP[case.norm] * case.eps} if full else {}
            runs["torchattacks"] = lambda m, x, y: kind(m, eps=case.eps, steps=case.steps, **alpha)(x, y)
        if "adv-lib" in peers and case.norm == math.inf:
            size = {"relative_step_size": STEP[case.norm]} if full else {}
            runs["adv-lib"] = partial(peers["adv-lib"].pgd_linf, ε=case.eps, steps=case.steps, **size)
        return runs
    if "torchattacks" in peers:
        made = partial(peers["torchattacks"].APGD, norm=case.ball, eps=case.eps, steps=case.steps, loss=case.loss)
        runs["torchattacks"] = lambda m, x, y: made(m)(x, y)
    if "adv-lib" in peers:
        options: dict[str, Any] = {"norm": case.norm, "n_iter": case.steps, "loss_function": case.loss}
        runs["adv-lib"] = partial(peers["adv-lib"].apgd, eps=case.eps, **options)
    if "auto-attack" in peers:
        options = {"n_iter": case.steps, "norm": case.ball, "eps": case.eps, "loss": case.loss}
        auto = partial(peers["auto-attack"].APGDAttack, **options)
        runs["auto-attack"] = lambda m, x, y: auto(m).perturb(x, y)
    return runs


@contextmanager
def passes(module: nn.Module) -> Iterator[dict[str, int]]:
    """Count the samples that go forwards through the module, and those whose gradient comes back to its output."""
    seen = {"forward": 0, "backward": 0}

    def back(rows: int, _: Tensor) -> None:
        seen["backward"] += rows

    def forth(_: nn.Module, __: Any, out: Tensor) -> None:
        seen["forward"] += len(out)
        if out.requires_grad:
            out.register_hook(partial(back, len(out)))

    handle = module.register_forward_hook(forth)
    try:
        yield seen
    finally:
        handle.remove()


def clock(run: Run, model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Seconds and processor seconds of one run."""
    torch.manual_seed(SEED)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    run(model, x, y)
    return round(time.perf_counter() - begin, 4), round(time.process_time() - begin_cpu, 4)


def keep(kept: list[Tensor], x_adv: Tensor) -> Tensor:
    kept.append(x_adv.detach())
    return x_adv


def judge(case: Case, run: Run, model: nn.Module, x: Tensor, y: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Passes per sample and robust accuracy of one run, by the same counter and the same judge for everybody."""
    kept: list[Tensor] = []
    with passes(model) as seen:
        seconds, cpu = clock(lambda *given: keep(kept, run(*given)), model, x, y)
    model.zero_grad(set_to_none=True)
    verdict = verify(model, x, y, kept[0], case.threat)
    row = {
        "forwards_a_sample": round(seen["forward"] / len(x), 2),
        "backwards_a_sample": round(seen["backward"] / len(x), 2),
        "robust_accuracy": round(1 - float(verdict.success.float().mean()), 4),
        "outside_the_threat": int((~verdict.inside).sum()),
        "judged": {"n": len(x), "seconds": seconds, "cpu": cpu},
    }
    return row, kept[0]


def compare(runs: dict[str, Run], model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> dict[str, Times]:
    """Seconds and processor seconds of each entrant in each round."""
    times: dict[str, Times] = {name: [] for name in runs}
    for turn in range(repeats):
        for name in list(runs) if turn % 2 == 0 else reversed(runs):
            times[name].append(clock(runs[name], model, x, y))
    return times


def ratios(a: Times, b: Times) -> dict[str, float]:
    pairs = list(zip(a, b, strict=True))
    return {k: round(statistics.median(p[i] / q[i] for p, q in pairs), 3) for i, k in enumerate(CLOCKS)}


def run_setting(case: Case, setting: str, model: nn.Module, data: Data, peers: dict[str, Any], args: Any) -> Rows:
    """Everybody's row in one setting."""
    full = setting == "full"
    model.requires_grad_(not full)
    runs = ours(case, args.batch, full=full)
    runs |= {name: in_batches(run, args.batch) for name, run in theirs(case, peers, full=full).items()}
    # Robust accuracy is worth its time where everybody attacks as he likes. The judged run is the warm-up too.
    x, y = data if setting == "default" else (t[: args.timed] for t in data)
    judged = {name: judge(case, run, model, x, y) for name, run in runs.items()}
    rows = {name: row for name, (row, _) in judged.items()}
    x, y = (t[: args.timed] for t in data)
    if full:
        points = judged["unfooled"][1]
        passes_alone = in_batches(partial(raw, steps=case.steps), args.batch)
        runs["raw loop"] = lambda m, _, y: passes_alone(m, points, y)
        rows["raw loop"] = {"forwards_a_sample": case.steps + 1, "backwards_a_sample": case.steps}
        clock(runs["raw loop"], model, x, y)
    times = compare(runs, model, x, y, args.repeats)
    for name, row in rows.items():
        row |= {k: round(statistics.median(t[i] for t in times[name]), 4) for i, k in enumerate(CLOCKS)}
        row["rounds"] = times[name]
        made = row["forwards_a_sample"] + row["backwards_a_sample"]
        if full:
            row["cpu_us_a_pass"] = round(1e6 * row["cpu"] / made / args.timed, 1)
        row["over_unfooled"] = ratios(times[name], times["unfooled"])
        if full:
            row["over_raw"] = ratios(times[name], times["raw loop"])
        print(f"  {setting:8}{name:18}", {k: v for k, v in row.items() if k != "rounds"}, flush=True)
    return rows


def batch_sizes(models: dict[str, nn.Module], args: Any) -> dict[str, Any]:
    """Microseconds a sample of two forwards and one backward at several batch sizes, least and median of the rounds."""
    table: dict[str, Any] = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name, model in models.items():
            model.requires_grad_(False)
            shape = (3, 32, 32) if name == "resnet20" else (1, 28, 28)
            x = torch.rand(500, *shape, generator=torch.Generator().manual_seed(SEED))
            y = torch.zeros(500, dtype=torch.int64)
            runs = {str(b): in_batches(partial(raw, steps=1), b) for b in (25, 50, 100, 250, 500)}
            compare(runs, model, x, y, 1)
            spent = {b: [t[0] * 2000 for t in rounds] for b, rounds in compare(runs, model, x, y, args.repeats).items()}
            row: dict[str, Any] = {
                b: {"least": round(min(t), 1), "median": round(statistics.median(t), 1)} for b, t in spent.items()
            }
            row["fastest"] = min(spent, key=lambda b: min(spent[b]))
            table[f"{name}, {threads} threads"] = row
            print(f"  {name:10}{threads} threads", row, flush=True)
    torch.set_num_threads(args.threads)
    return table


def load_networks() -> dict[str, nn.Module]:
    networks: dict[str, nn.Module] = {
        "lenet5": load_model(DATA / "models" / "mnist_lenet5_clntrained.pt", "lenet5"),
        "trades": load_model(DATA / "models" / "mnist_trades_smallcnn.pt", "trades-small-cnn"),
    }
    torch.manual_seed(SEED)
    return networks | {"resnet20": CifarResnet().eval()}


def load_images(n: int) -> tuple[Tensor, Tensor]:
    with np.load(DATA / "mnist.npz") as file:
        images, labels = file["x_test"][:n], file["y_test"][:n]
    return torch.from_numpy(images).float()[:, None] / 255, torch.from_numpy(labels.astype(np.int64))


def environment() -> dict[str, Any]:
    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "unfooled": unfooled.__version__,
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=500, help="first test images, for passes and robust accuracy")
    parser.add_argument("--timed", type=int, default=50, help="of these, the ones the clock runs on")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--settings", nargs="+", choices=("full", "default"), default=("full", "default"))
    parser.add_argument("--only", default="", help='cases whose name holds this, e.g. "lenet5 pgd", or "batches"')
    parser.add_argument("--out", type=Path, default=HERE / "results" / "attacks_vs_peers.json")
    args = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"no data at {DATA}; set UNFOOLED_DATA to the folder that holds mnist.npz and models/")
    torch.set_num_threads(args.threads)
    peers, versions, missing = load_peers()
    networks, (x, y) = load_networks(), load_images(args.n)
    head: dict[str, Any] = {"environment": environment(), "peers": versions, "missing": missing, "seed": SEED}
    head |= {k: getattr(args, k) for k in ("n", "timed", "batch", "repeats", "threads")}
    head["command"] = "python benchmarks/attacks_vs_peers.py " + " ".join(sys.argv[1:])
    result: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {"cases": {}}

    def write(place: dict[str, Any], key: str, rows: dict[str, Any], load: float) -> None:
        place[key] = head | {"load": [round(load, 1), round(os.getloadavg()[0], 1)], "rows": rows}
        args.out.write_text(json.dumps(result, indent=1) + "\n")

    for case in (case for case in CASES if args.only in str(case)):
        block = result["cases"].setdefault(str(case), {"eps": case.eps, "steps": case.steps})
        for setting in args.settings:
            print(case, flush=True)
            load = os.getloadavg()[0]
            write(block, setting, run_setting(case, setting, networks[case.network], (x, y), peers, args), load)
    if args.only in "batches":
        load = os.getloadavg()[0]
        write(result, "batches", batch_sizes(networks, args), load)


if __name__ == "__main__":
    main()
