"""Bad inputs over all subcommands: each is refused in one sentence, before any work.

    python -m benchmarks.reliability.bad_inputs --out benchmarks/results/reliability_bad_inputs.json

Every call runs in a process of its own. It is wrong if it does not end with code 2 and one sentence with the expected
words, prints a traceback or an escape code, leaves a file behind, or takes longer than training would (`LATE`).
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.reliability.calls import call, hidden, warmed_up
from PIL import Image

from unfooled.models import SmallCnn
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment

LATE = 20  # processor seconds

NETS = """
import torch
from torch import nn
def net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
def nothing(): return None
def raises(): raise RuntimeError("boom [/red] \\x1b[31m")
def leaves(): raise SystemExit(0)
def two():
    class Two(nn.Module):
        def forward(self, x, other): return x
    return Two().eval()
def nan(): return lambda x: x.flatten(1)[:, :10] * float("nan")
def one(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).eval()
def colour(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10)).eval()
def five(): return 5
def own(inputs): return [[0.5, 0.5] for _ in inputs]
def negative(): return torch.rand(20, 1, 8, 8), -torch.ones(20).long()
def same(): return torch.rand(20, 1, 8, 8), torch.zeros(20).long()
"""

M, T = "--model nets.py:net", "--threat linf:0.1"
B = f"audit {M} {T} --effort quick -q"
A = f"{B} --n 8 --reasons none"
HUGE = "1" + 30 * "0"
CALLS: list[tuple[str, str]] = [
    # models
    ("audit --model absent.pt --threat linf:0.1", "absent.pt"),
    (f"audit --model nets.py:absent {T}", "absent"),
    (f"audit --model nets.py:nothing {T}", "NoneType"),
    (f"audit --model nets.py:raises {T}", "boom [/red]"),
    (f"audit --model nets.py:leaves {T}", "SystemExit"),
    (f"audit --model nets.py:two {T} --n 8", "more inputs"),
    (f"audit --model nets.py:nan {T} --n 8", "NaN"),
    (f"audit --model nets.py:one {T} --n 8", "one output"),
    (f"audit --model nets.py:colour {T} --n 8", "--channels 3"),
    (f"audit --model . {T}", "config.json"),
    (f"audit --model nets.py {T}", "factory"),
    (f"audit --model names.txt {T}", "model file"),
    (f"audit --model '' {T}", "--model is empty"),
    (f"audit --model small-cnn {T}", "--arch small-cnn"),
    (f"audit --model bare.pt {T}", "--arch"),
    (f"audit --model net.pt --arch resnet999 {T}", "architecture"),
    (f"audit --model net.pt --arch lenet5 {T}", "fit"),
    # data
    (f"{A} --data absent", "absent"),
    (f"{A} --data nets.py:five", "int"),
    (f"{A} --data nets.py:negative", "label -1"),
    (f"{A} --data empty", "no images"),
    (f"{A} --data names.txt", "no data file"),
    (f"{A} --data shapes:7", "rho"),
    (f"{A} --data digits:3", "options"),
    (f"{A} --data bytes.npz", "int64"),
    (f"{A} --data outside.npz", "--mean"),
    (f"{A} --data nan.npz", "NaN"),
    (f"{A} --split training-set", "split"),
    (f"{A} --data ''", "--data is empty"),
    (f"{A} --size 0", "--size"),
    (f"{A} --size 8x", "--size"),
    (f"{A} --size 1000000", "--size"),
    (f"{A} --channels 2", "--channels"),
    (f"{B} --n 0", "--n is 0"),
    (f"{B} --n -3", "--n is -3"),
    (f"{B} --n three", "--n"),
    (f"{A} --labels absent.txt", "absent.txt"),
    (f"{A} --labels same.txt", "share a name"),
    (f"{A} --labels empty.txt", "no labels"),
    (f"{A} --labels empty", "labels"),
    (f"{A} --mean nan", "write a number"),
    (f"{A} --mean 127.5", "255"),
    (f"{A} --std 0", "positive"),
    (f"{A} --std -1", "positive"),
    (f"{A} --mean 0.1,0.2,0.3", "channels"),
    (f"{A} --max-pixels 0", "--max-pixels"),
    (f"{A} --max-bytes -1", "--max-bytes"),
    (f"{A} --max-classes 0", "--max-classes"),
    # local surrogates
    ("lime text --model nets.py:own --text absent.txt", "absent.txt"),
    ("lime text --model nets.py --text names.txt", "file.py:name"),
    ("lime text --model nets.py:raises --text names.txt", "boom [/red]"),
    ("lime text --model nets.py:own --text names.txt --of spam", "no class"),
    ("lime table --model nets.py:own --train absent.csv", "absent.csv"),
    ("lime table --model nets.py:own --train names.txt --label y", "no column 'y'"),
    ("lime pick --model nets.py:own", "--train"),
    (f"lime image {M} --segments squares", "segments"),
    # counterfactuals
    (f"counterfactual {M} --data digits --attributes absent.csv", "absent.csv"),
    (f"counterfactual {M} --data digits --attributes names.txt", "names.txt"),
    (f"counterfactual {M} --data digits --attributes absent.csv --steps 0", "--steps is 0"),
    (f"counterfactual {M} --data digits --attributes absent.csv --threat 0.3", "radius"),
    (f"counterfactual {M} --data digits --attributes absent.csv --index x", "--index"),
    # purifiers
    (f"purify fit {M} --out p --patch 9", "smaller --patch"),
    (f"purify fit {M} --out p --patch 4 --stride 5", "touch"),
    (f"purify fit {M} --out p --atoms 0", "--atoms is 0"),
    (f"purify fit {M} --out p --smooth 0", "--smooth"),
    (f"purify fit {M} --out p --layer fc9", "no layer"),
    (f"purify fit {M} --out names.txt", "cannot write"),
    ("purify apply empty --out q", "no purifier.npz"),
    ("purify apply absent --out q", "absent"),
    (f"{A} --purify absent", "absent"),
    (f"{A} --purify empty", "purifier"),
    # threats
    (f"audit {M} --threat linf", "radius"),
    (f"audit {M} --threat linf:nan", "write a number"),
    (f"audit {M} --threat l2:inf", "write a number"),
    (f"audit {M} --threat l2:-1", "at least 0"),
    (f"audit {M} --threat linf:8", "8/255"),
    (f"audit {M} --threat l0:3.5", "whole number"),
    (f"audit {M} --threat l0-pixel:0.5", "whole number"),
    (f"audit {M} --threat l3:1", "norm"),
    (f"audit {M} --threat linf:1/0", "write a number"),
    (f"audit {M}", "--threat"),
    # settings of an audit
    (f"{A} --seed -1", "--seed"),
    (f"{A} --seed 99999999999999999999", "--seed"),
    (f"{A} --device meta", "--device meta"),
    (f"{A} --device cuda:99", "--device"),
    (f"{A} --device toaster", "--device"),
    (f"{A} --device cpu:3", "--device"),
    (f"{A} --threads 0", "--threads"),
    (f"{A} --threads 10000000", "--threads"),
    (f"{A} --batch 0", "--batch"),
    (f"{A} --chunk 0 --out run", "--chunk"),
    (f"{A} --effort lazy", "effort"),
    (f"{A} --explain gut", "explanation"),
    (f"{B} --n 8 --reasons-n 0 --reasons saliency", "--reasons-n"),
    (f"audit {M} {T} --attack apgd-cw", "attack"),
    (f"audit {M} {T} --attack pgd --steps 0", "--steps"),
    (f"audit {M} {T} --attack pgd --restarts 0", "--restarts"),
    (f"audit {M} {T} --attack ddn", "L2"),
    (f"audit {M} {T} --attack fgsm --steps 3", "takes no --steps"),
    (f"{A} --attack pgd", "one of them"),
    (f"{A} --fail-under robustness=1", "robust_accuracy"),
    (f"{A} --fail-under robust_accuracy=40", "40 %"),
    (f"{A} --fail-under robust_accuracy=nan", "write a number"),
    (f"{A} --out ''", "--out is empty"),
    (f"{A} --out=", "--out is empty"),
    (f"{A} --title ''", "--title is empty"),
    (f"{A} --out names.txt", "cannot write"),
    (f"{A} --out names.txt/run", "cannot write"),
    (f"{A} --out run.json", "folder"),
    (f"{A} --out /proc/run", "cannot write"),
    (f"{A} --out {'x' * 300}", "cannot write"),
    (f"{A} --modle net", "No such option"),
    ("adit", "No such command"),
    # attack
    (f"certify {M} {T} --effort thorogh", "did you mean thorough"),
    (f"certify {M} {T} --effort smoothing:0.1", "L2, L1 or L0"),
    (f"certify {M} {T} --out proofs.npz", ".safetensors"),
    (f"certify {M} {T} --check none.safetensors", "no certificate"),
    (f"audit {M} {T} --certify quikc", "did you mean quick"),
    (f"attack {M} {T} --out adv.txt", ".npz"),
    (f"attack {M} {T} --out empty", "folder"),
    (f"attack {M} {T} --out own.npz --n 8", "no result of this command"),
    (f"attack {M} {T} --out /dev/null", "/dev/null"),
    (f"attack {M} {T} --effort quick --attack pgd", "one of them"),
    (f"attack {M} {T} --n 0 --out a.npz", "--n is 0"),
    # explain
    (f"explain {M} --method gut", "explanation"),
    (f"explain {M} --of class", "--of"),
    (f"explain {M} --steps 3", "--threat"),
    (f"explain {M} {T} --k 0", "--k"),
    (f"explain {M} {T} --k 64", "--k"),
    (f"explain {M} {T} --w -1", "--w"),
    (f"explain {M} {T} --attack region", "--region"),
    (f"explain {M} {T} --attack region --region absent.png", "absent.png"),
    (f"explain {M} --out names.txt", "cannot write"),
    (f"explain {M} --method grad-cam --n 2", "spatial"),
    # train
    ("train --loss madry", "--threat"),
    ("train --loss trades --threat linf:0.1 --beta -1", "--beta"),
    ("train --loss trades --threat linf:0.1 --beta nan", "--beta"),
    ("train --loss madry --threat linf:0.1 --beta 3", "--beta"),
    ("train --ramp 3", "--ramp"),
    ("train --loss madry --threat linf:0.1 --epochs 2 --ramp 9", "--ramp"),
    ("train --lr nan", "--lr"),
    ("train --lr inf", "--lr"),
    ("train --weight-decay -1", "--weight-decay"),
    ("train --epochs 0", "--epochs"),
    ("train --batch 1", "--batch"),
    ("train --watch -1", "--watch"),
    ("train --devices 0", "--devices"),
    ("train --precision 8-bit", "--precision"),
    ("train --augment colours", "--augment"),
    ("train --loss madry --threat linf:0.1 --attack-steps 0", "--attack-steps"),
    ("train --loss igr --threat linf:0.1 --weight -2", "--weight"),
    ("train --data nets.py:same", "one class"),
    ("train --arch mlp", "architecture"),
    ("train --n 0", "--n is 0"),
    ("train --out net.txt", ".pt"),
    ("train --out net.safetensors", ".pt"),
    ("train --out empty", "folder"),
    ("train --device meta", "--device"),
    ("train --loss standard --threat linf:0.1", "--threat"),
    # features
    (f"features {M} --out f.npz --kind sturdy", "kind"),
    (f"features {M} --out f.npz --kind d-rand", "--threat"),
    (f"features {M} --out f.npz --steps 0", "--steps"),
    (f"features {M} --out f.npz --tol 2", "--tol"),
    (f"features {M} --out f.npz --shard 0", "--shard"),
    (f"features {M} --out f.npz --layer nowhere --n 8", "nowhere"),
    (f"features {M} --out f.txt", "folder"),
    (f"features {M}", "--out"),
    # lens
    ("lens a.npy absent.npy --k 3", "absent.npy"),
    ("lens a.npy a.npy --k 0", "--k"),
    ("lens a.npy a.npy --k 100", "k"),
    ("lens a.npy a.npy --k many", "--k"),
    ("lens a.npy a.npy --k 3 --w x", "--w"),
    ("lens a.npy a.npy --k 3 --reduce sum", "reduction"),
    ("lens a.npy b.npy --k 3", "shape"),
    ("lens a.npy a.npy --k 3 --out names.txt", "cannot write"),
    # report
    ("report absent", "absent"),
    ("report empty", "summary.json"),
    ("report impossible", "summary"),
    ("report negative", "summary"),
    ("report perfect", "PERFECT"),
    ("report nan", "NaN"),
    ("report long", "summary"),
    ("report fine --out empty", "folder"),
    ("report", "RUNS"),
    # evidence
    ("evidence absent", "absent"),
    ("evidence empty", "summary.json"),
    ("evidence impossible", "summary"),
    ("evidence fine --format pdf", "format"),
    ("evidence", "RUN"),
    # demo, study
    ("demo --n 0", "--n is 0"),
    ("demo --out names.txt", "cannot write"),
    ("demo --seed -1", "--seed"),
    ("demo --device meta", "--device"),
    ("study", "which study"),
    ("study phrenology", "study"),
    ("study broken-defences --scale tiny", "scale"),
    ("study broken-defences --seeds 0", "--seeds"),
    ("study broken-defences --seeds 1000000000", "--seeds"),
    ("study broken-defences --seed -1", "--seed"),
    ("study broken-defences --model x", "--model"),
    ("study broken-defences --out names.txt", "cannot write"),
    ("study attention --data absent", "data set"),
    ("study attention --model nets.py:net --n 0 --data digits", "--n is 0"),
    # links in circles, empty files, folders named like files, other encodings
    (f"audit --model loop.npz {T}", "symbolic links"),
    (f"audit --model folder.pt {T}", "config.json"),
    (f"audit --model void.pt --arch small-cnn {T}", "cut off"),
    (f"audit --model void.safetensors --arch small-cnn {T}", "safetensors"),
    (f"audit --model own.npz {T}", "model file"),
    (f"audit --model fine {T}", "config.json"),
    (f"audit --model nets.py: {T}", "nets.py"),
    (f"audit --model :net {T}", "importing"),
    (f"audit --model nets.py:net:net {T}", "nets.py:net"),
    (f"audit --model \udcff.pt {T}", "no file"),
    (f"{A} --data loop.npz", "symbolic links"),
    (f"{A} --data folder.npz", "no images"),
    (f"{A} --data void.npz", "cut off"),
    (f"{A} --data cut.npz", "cut off"),
    (f"{A} --data void.csv", "void.csv is empty"),
    (f"{A} --data fine", "no images"),
    (f"{A} --data 'a\nb.npz'", "cut off"),
    (f"{A} --data /dev/null", "device"),
    (f"{A} --labels wide.txt", "wide.txt"),
    (f"{A} --labels folder.txt", "folder.txt"),
    (f"{A} --labels loop.npz", "symbolic links"),
    (f"{A} --out loop.npz", "leads nowhere"),
    (f"{A} --out old", "holds no settings"),
    (f"{A} --out fine/summary.json", "no folder"),
    (f"attack {M} {T} --out loop.npz", "leads nowhere"),
    (f"attack {M} {T} --out void.npz --n 8", "no result of this command"),
    (f"certify {M} {T} --out empty", "folder"),
    (f"certify {M} {T} --check void.safetensors", "no certificate"),
    (f"certify {M} {T} --check empty", "directory"),
    (f"features {M} --out loop", "leads nowhere"),
    (f"features {M} --out fine --n 8", "no result of this command"),
    (f"purify fit {M} --out loop", "leads nowhere"),
    ("purify apply fine --out q", "no purifier.npz"),
    ("train --out void.pt --epochs 1 --n 20", "EOFError"),
    ("train --out folder.pt", "folder"),
    ("train --model void.pt", "cut off"),
    ("report fine --out loop", "leads nowhere"),
    ("report net.pt", "run folder"),
    ("report old", "summary.json"),
    ("evidence loop", "run folder"),
    ("evidence fine --out empty", "folder"),
    ("lens void.npy a.npy --k 3", "no NumPy file"),
    ("lens folder.npy a.npy --k 3", "no file"),
    ("lens own.npz a.npy --k 3", "own.npz:x"),
    ("lime table --model nets.py:own --train void.csv", "is empty"),
    ("lime table --model nets.py:own --train wide.csv --label y", "UTF-8"),
    ("lime table --model nets.py:own --train head.csv --label y", "no rows"),
    ("lime table --model nets.py:own --train ragged.csv --label y", "3 columns"),
    ("lime table --model nets.py:own --train twice.csv --label y", "two columns"),
    ("lime table --model nets.py:own --train zeros.csv --label y", "zero bytes"),
    ("lime table --model nets.py:own --train folder.csv", "folder"),
    ("lime table --model nets.py:own --train fine.csv --label y --row 999", "20 rows"),
    ("lime text --model nets.py:own --text wide.txt", "UTF-8"),
    ("lime text --model nets.py:own --text net.pt", "UTF-8"),
    (f"lime image {M} --index 99999", "540 samples"),
    (f"counterfactual {M} --data digits --attributes wide.csv", "CSV"),
    (f"counterfactual {M} --data digits --attributes void.csv", "path"),
    (f"study attention {M} --data void.npz", "cut off"),
    ("demo --out loop", "leads nowhere"),
    # numbers that are none, are 0 by rounding, or that nothing counts
    (f"audit {M} --threat linf:1e-400", "single precision"),
    (f"audit {M} --threat linf:1e-50", "single precision"),
    (f"audit {M} --threat linf:1_0", "write a number"),
    (f"audit {M} --threat linf:\uff11", "write a number"),
    (f"audit {M} --threat linf:0x1", "write a number"),
    (f"audit {M} --threat linf:1/255/2", "write a number"),
    (f"audit {M} --threat linf:0.1,l2:1", "write a number"),
    (f"{A} --std 1e-400", "single precision"),
    (f"{A} --fail-under robust_accuracy=1e-400", "single precision"),
    (f"{A} --fail-under robust_accuracy=-1", "[0, 1]"),
    (f"{A} --budget 0s", "above 0"),
    (f"{A} --budget 10parsecs", "write a time"),
    (f"{A} --memory 0", "--memory"),
    (f"{A} --memory lots", "--memory"),
    (f"{A} --workers 0", "--workers"),
    # shares, stores, several labels
    ("merge", "runs"),
    ("merge fine", "--out"),
    ("merge absent --out run", "absent"),
    ("merge empty --out run", "share"),
    ("merge fine --out run", "share"),
    ("merge old --out run", "share"),
    ("merge loop --out run", "loop"),
    ("merge empty --out empty/", "share"),
    ("merge empty --out s3://bucket/run", "share"),
    (f"{A} --rows 5 --out run", "0:"),
    (f"{A} --rows 4:2 --out run", "rows"),
    (f"{A} --rows 0:0 --out run", "rows"),
    (f"{A} --rows 6:90 --out run", "rows"),
    (f"{A} --rows 0:4", "--out"),
    (f"{A} --rows 0:4 --out run --workers 2", "--workers"),
    (f"{A} --rows 0:4 --out run --fail-under robust_accuracy=0.5", "--fail-under"),
    (f"attack {M} {T} --n 8 --rows 9:12 --out share", "0:8"),
    (f"{A} --out memory://run", "memory"),
    (f"{A} --out s3://", "bucket"),
    (f"{A} --out gs://bucket/run", "gcsfs"),
    (f"{A} --out nowhere://bucket/run", "nowhere"),
    (f"{A} --out s3://name:word@bucket/run", "password"),
    (f"{A} --out run --store-options absent.json", "belongs to a URL"),
    (f"{A} --out s3://bucket/run --store-options absent.json", "absent.json"),
    (f"{A} --out s3://bucket/run --store-options names.txt", "JSON"),
    ("report gs://bucket/run", "gcsfs"),
    (f"{A} --label absent", "absent"),
    (f"{A} --label 99", "99"),
    (f"attack {M} {T} --n 8 --out q.npz --label absent", "absent"),
    (f"explain {M} --n 8 --workers 0", "--workers"),
    ("lens a.npy a.npy --k 3 --workers 0", "--workers"),
    (f"{A} --scheduler nowhere", "schedul"),
    ("train --nodes 2", "--nodes"),
    ("train --nodes 0", "--nodes"),
    (f"{A} --batch {HUGE}", "at most"),
    (f"{A} --chunk {HUGE} --out run", "at most"),
    (f"attack {M} {T} --out q.npz --steps {HUGE}", "at most"),
    (f"explain {M} {T} --w {HUGE}", "at most"),
    (f"train --epochs {HUGE}", "at most"),
    (f"study broken-defences --seeds {HUGE}", "at most"),
    ("lens a.npy a.npy --k 3,,4", "whole numbers"),
    # files of a gate
    (f"{A} --baseline fine", "--out"),
    (f"{A} --baseline fine --out run", "config.json"),
    (f"{A} --baseline net.pt --out run", "baseline"),
    (f"{A} --junit empty", "--junit is empty"),
    (f"{A} --sarif names.txt/x", "--sarif"),
    (f"{A} --junit x.xml --sarif ./x.xml", "both"),
]
"""A call, and words that its sentence must have."""


def summary(**changes: Any) -> str:
    """A record of an audit, of the smallest size."""
    share = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 10}
    mean: dict[str, Any] = {"value": None, "low": None, "high": None, "n": 0}
    passes = {"forward": 1.0, "backward": 1.0}
    plain: dict[str, Any] = {
        "title": "a", "model": "a", "data": "digits", "n": 10, "threat": "linf:0.1", "seed": 0,
        "clean_accuracy": {"value": 0.9, "low": 0.6, "high": 1.0, "n": 10}, "robust_accuracy": share,
        "verdict": "SOUND", "trusted": True, "attack_success_rate": share, "passes": passes,
        "explanation_passes": passes, "seconds": 1.0, "warnings": [], "attack": "a",
        "curve": [{"eps": 0.1, "accuracy": share}], "curve_n": 10, "confusion": [[5, 0], [0, 5]],
        "classes": ["a", "b"], "psnr": mean, "ssim": mean, "noise": mean, "noise_unit": "", "movements": [],
        "explanation": "a", "gallery": [], "limits": [], "command": "", "created": "2026-01-01T00:00:00+00:00",
        "options": {}, "environment": json.loads(Environment.here("cpu").model_dump_json()),
    }  # fmt: skip
    return json.dumps(plain | changes)


def furnished(home: Path) -> None:
    """Write the files that the calls name."""
    (home / "nets.py").write_text(NETS)
    (home / "names.txt").write_text("\n".join("abcdefghij"))
    (home / "same.txt").write_text("\n".join("a" * 10))
    (home / "empty.txt").write_text("")
    (home / "empty").mkdir()
    net = SmallCnn((1, 8, 8), 10)
    torch.save({"model": net.state_dict(), "arch": "small-cnn", "input_shape": [1, 8, 8]}, home / "net.pt")
    torch.save(net.state_dict(), home / "bare.pt")
    x, y = np.random.default_rng(0).random((20, 1, 8, 8), np.float32), np.arange(20) % 10
    np.savez(home / "own.npz", x=x, y=y)
    np.savez(home / "bytes.npz", x=(x * 255).astype(np.int64), y=y)
    np.savez(home / "outside.npz", x=x * 3 - 1, y=y)
    np.savez(home / "nan.npz", x=np.where(x > 0.9, np.float32("nan"), x), y=y)
    np.save(home / "a.npy", x[:, 0])
    np.save(home / "b.npy", x[:10, 0])
    Image.new("L", (8, 8)).save(home / "mask.png")
    odd(home)
    over = {"value": 7.0, "low": 0.2, "high": 0.8, "n": 10}
    share = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 10}
    records = {
        "fine": summary(),
        "impossible": summary(robust_accuracy=over),
        "negative": summary(n=-5),
        "perfect": summary(verdict="PERFECT"),
        "nan": summary(seconds=float("nan")),
        "long": summary(curve=[{"eps": 0.1, "accuracy": share}] * 1_000_000),
    }
    for name, text in records.items():
        (home / name).mkdir()
        (home / name / "summary.json").write_text(text)


def odd(home: Path) -> None:
    """Write links in circles, empty and cut files, folders named like files, and texts of other encodings."""
    for name in ("loop", "loop.npz"):
        (home / name).symlink_to(name)
    for name in ("void.csv", "void.npz", "void.npy", "void.pt", "void.safetensors"):
        (home / name).touch()
    for name in ("folder.npz", "folder.npy", "folder.pt", "folder.csv", "folder.txt", "old"):
        (home / name).mkdir()
    (home / "old/config.json").write_text("[]")
    (home / "cut.npz").write_bytes((home / "own.npz").read_bytes()[:500])
    (home / "a\nb.npz").write_bytes(b"other")
    rows = "a,b,y\n" + "".join(f"{k},{2 * k},{k % 2}\n" for k in range(20))
    (home / "fine.csv").write_text(rows)
    (home / "wide.csv").write_bytes(rows.encode("utf-16"))
    (home / "wide.txt").write_bytes("a\nb\n".encode("utf-16"))
    (home / "zeros.csv").write_bytes(rows.encode().replace(b"3", b"\0"))
    (home / "head.csv").write_text("a,b,y\n")
    (home / "ragged.csv").write_text("a,b,y\n1,2,0\n1\n")
    (home / "twice.csv").write_text("a,a,y\n1,2,0\n1,2,1\n")


def tried(home: Path, line: str, words: str) -> dict[str, Any]:
    """Make a call, and return a row of the result."""
    before = sorted(home.rglob("*"))
    done = call(home, shlex.split(line))
    faults = done.faults(words)
    if done.seconds > LATE:
        faults.append("late")
    left = sorted(set(home.rglob("*")) - set(before))
    if left := [path for path in left if "__pycache__" not in path.parts]:
        faults.append(f"left {left[0].relative_to(home)}")
    return {
        "call": line if len(line) < 200 else f"{line[:120]}...", "words": words, "code": done.code, "faults": faults,
        "says": hidden(" ".join(done.sentences), home), "seconds": round(done.seconds, 2),
        "stderr": hidden(done.err, home)[-1500:] if faults else "",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="part of a call")
    options = parser.parse_args()
    warmed_up()

    rows, started = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        furnished(home)
        for line, words in CALLS:
            if options.only in line:
                rows.append(tried(home, line, words))
                text = f"{', '.join(rows[-1]['faults']) or 'right':<24} {line}: {rows[-1]['says']}"
                print(text.encode(errors="backslashreplace").decode(), flush=True)
    record = {
        "command": "python -m benchmarks.reliability.bad_inputs",
        "environment": json.loads(Environment.here("cpu").model_dump_json()),
        "n": len(rows),
        "subcommands": sorted({line.split()[0] for line, _ in CALLS}),
        "tracebacks": sum("traceback" in row["faults"] for row in rows),
        "silently_accepted": sum("accepted" in row["faults"] for row in rows),
        "wrong": sum(bool(row["faults"]) for row in rows),
        "seconds": round(time.perf_counter() - started, 1),
        "rows": rows,
    }
    print({name: value for name, value in record.items() if isinstance(value, int)})
    if options.out is not None:
        write_whole(options.out, (json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
