"""The published way of judging a purifier beside the audit's: static, and under every attack on the guarded network.

    python benchmarks/purifier_rule.py --out benchmarks/results/purifier-rule.json --runs runs/rule

networks    PGD-AT at eps .3 on MNIST (300 updates of a strided-cnn after 300 plain ones, 6,000 images), and the
            published TRADES network where the data folder has its checkpoint
purifiers   SRD: semantic dictionaries fitted to the plain network, mu 5, sparsity .3, 64 atoms, stride 4; and a weak
            one, one dictionary for all clusters, mu 1, sparsity .1
audit       `uf.audit(guard(network, purify), ..., Linf(.3))`, quick effort, the first test images; its rows are those
            of the page. "bare": the same cascade on the network alone

For PGD-AT behind SRD the page must show static above bare by 5 points or more, and the worst attack below static by 10
or more. Both differences are of the same images. Finished audits lie in `--runs` and are not repeated; the JSON has
those that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import unfooled as uf
from unfooled import Linf, __version__
from unfooled.evaluation.audit.records import Summary
from unfooled.purification import SemanticPurifier, fit_purifier, guard, learn_patches, split
from unfooled.statistics.intervals import Estimate, Mean
from unfooled.studies.purification.bench import PurificationBench
from unfooled.studies.purification.scale import AT, MNIST, SRD, TRADES, PurificationScale

EPS = 0.3
WEAK = "one weak dictionary"
RISE, FALL = 0.05, 0.10
"""Least figures of static minus bare, and of static minus worst."""


def opened(folder: Path) -> PurificationBench:
    """Networks and data, those of the study's small scale; networks are stored in a folder."""
    task = replace(MNIST, checkpoint=("mnist_trades_smallcnn.pt", "trades-small-cnn"))
    return PurificationBench(task, PurificationScale((task,), n=1000, few=100, networks=(AT, TRADES)), 0, folder=folder)


def purifier(bench: PurificationBench, name: str) -> SemanticPurifier:
    """A purifier, fitted to the plain network."""
    own = bench.semantic()
    if name == SRD:
        return own
    x, y = bench.train
    high = split(x, smooth=1.0)[1]
    one = learn_patches(
        high,
        torch.zeros(len(x), dtype=torch.int64),
        sparsity=0.1,
        clusters=1,
        generator=torch.Generator().manual_seed(0),
    )
    weak = fit_purifier(own.encode, x, y, seed=0, smooth=1.0, sparsity=0.1, max_clusters=1)
    return replace(weak, dictionaries=one.expand(len(weak.clusters), -1, -1, -1, -1).contiguous(), stride=own.stride)


def audited(bench: PurificationBench, network: nn.Module, purify: SemanticPurifier, n: int, out: Path) -> Summary:
    """The audit of a guarded network, without explanations and nearest points."""
    x, y = (part[:n] for part in bench.test)
    plan = uf.Plan(effort=uf.QUICK, nearest_n=1, explain_n=1, reasons=None, gallery=1)
    return uf.audit(guard(network, purify), x, y, Linf(EPS), plan=plan, out=out, seed=0)


def shown(figure: Estimate | Mean | None) -> list[Any]:
    """Value, interval and number of a figure."""
    return [] if figure is None else [figure.value, figure.low, figure.high, figure.n]


def row(network: str, name: str, summary: Summary, seconds: float) -> dict[str, Any]:
    """The figures of one audit."""
    record = summary.guard
    assert record is not None
    static, bare, worst = (e.value if e else None for e in (record.static, record.bare_robust, record.worst))
    known = static is not None and bare is not None and worst is not None
    return {
        "network": network, "purifier": name, "n": summary.n, "verdict": summary.verdict, "missing": record.missing,
        "clean, bare": shown(record.bare_clean), "clean": shown(summary.clean_accuracy),
        "bare": shown(record.bare_robust), "static": shown(record.static),
        **{one.name: shown(one.accuracy) for one in record.rows if one.key != "static"},
        "worst": shown(record.worst), "adds": shown(record.adds),
        "static minus worst": shown(record.static_minus_worst),
        "static minus bare": static - bare if static is not None and bare is not None else None,
        "perturbation left": record.left,
        "misleading": bool(known and static - bare >= RISE and static - worst >= FALL),  # type: ignore[operator]
        "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="images; of the TRADES network a quarter")
    parser.add_argument("--only", nargs="*", help="rows, such as 'PGD-AT/SRD'; all if not given")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = opened(options.runs)
    cells = [(AT, SRD), (TRADES, SRD), (AT, WEAK), (TRADES, WEAK)]
    cells = [
        cell for cell in cells if cell[0] in bench.networks and (not options.only or "/".join(cell) in options.only)
    ]
    file, load = options.runs / "rows.json", os.getloadavg()[0]
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    for network, name in cells:
        if any((one["network"], one["purifier"]) == (network, name) for one in rows):
            continue
        n, began = options.n if network == AT else max(1, options.n // 4), time.process_time()
        folder = options.runs / f"{network}-{name}-{n}".replace(" ", "-")
        summary = audited(bench, bench.network(network), purifier(bench, name), n, folder)
        rows.append(row(network, name, summary, time.process_time() - began))
        file.write_text(json.dumps(rows, indent=2))
        write(rows, load, options.out)


def write(rows: Sequence[dict[str, Any]], load: float, out: Path | None) -> None:
    """Print the record, and store it."""
    first = next((one for one in rows if (one["network"], one["purifier"]) == (AT, SRD)), None)
    record = {
        "benchmark": "purifier-rule", "version": __version__, "torch": torch.__version__, "machine": platform.machine(),
        "cores": os.cpu_count(), "load": {"before": round(load, 1), "after": round(os.getloadavg()[0], 1)}, "eps": EPS,
        "figures": "value, low, high, n", "seconds": "of the processor, one thread",
        "least": {"static minus bare": RISE, "static minus worst": FALL},
        "met": None if first is None else first["misleading"],
        "rows": list(rows),
    }  # fmt: skip
    text = json.dumps(record, indent=2)
    print(text, flush=True)
    if out is not None:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
