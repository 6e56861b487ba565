"""Options that several commands share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from unfooled.cli.errors import Refused
from unfooled.core.limits import Limits

SOURCE = "Inputs"
SPEED = "Machine"
OUTPUT = "Output"

ModelOpt = Annotated[
    str,
    typer.Option(
        "--model",
        help="Model: checkpoint (.pt, .safetensors), package.module:factory, file.py:factory, exported program (.pt2), "
        "ONNX (.onnx), timm:NAME, a Hugging Face folder, an estimator (.skops, .joblib), or http://HOST:PORT/PATH.",
        rich_help_panel=SOURCE,
    ),
]
ModelKindOpt = Annotated[
    str | None,
    typer.Option(
        "--model-kind",
        help="Kind of the model, where its name suggests another one: checkpoint, exported, onnx, estimator, "
        "hugging-face, timm, factory, service.",
        rich_help_panel=SOURCE,
    ),
]
ArchOpt = Annotated[str | None, typer.Option("--arch", help="Architecture of a checkpoint.", rich_help_panel=SOURCE)]
DataOpt = Annotated[
    str,
    typer.Option(
        "--data",
        help="Data: digits, mnist, fashion-mnist, gtsrb, cifar10, cub, an .npz, IDX files, an image folder, a .csv "
        "of images and labels, or package.module:factory.",
        rich_help_panel=SOURCE,
    ),
]
SplitOpt = Annotated[str, typer.Option("--split", help="Part of the data.", rich_help_panel=SOURCE)]
NOpt = Annotated[int | None, typer.Option("--n", help="Number of samples; all if larger.", rich_help_panel=SOURCE)]
ShuffleOpt = Annotated[
    bool, typer.Option("--shuffle", help="Draw the samples at random (--seed).", rich_help_panel=SOURCE)
]
MeanOpt = Annotated[
    str | None, typer.Option("--mean", help="Mean that the model expects, e.g. 0.49,0.48,0.45.", rich_help_panel=SOURCE)
]
StdOpt = Annotated[
    str | None, typer.Option("--std", help="Standard deviation that the model expects.", rich_help_panel=SOURCE)
]
SizeOpt = Annotated[str | None, typer.Option("--size", help="Resize images: 32 or 32x48.", rich_help_panel=SOURCE)]
LabelsOpt = Annotated[
    Path | None,
    typer.Option(
        "--labels", help="File of class names in the model's order, one per line or JSON.", rich_help_panel=SOURCE
    ),
]
LabelOpt = Annotated[
    str | None,
    typer.Option(
        "--label",
        help="Label that counts where samples have several, by name or number from 0; any: a change of any of them.",
        rich_help_panel=SOURCE,
    ),
]
ChannelsOpt = Annotated[
    int | None,
    typer.Option("--channels", help="Convert images to 1 channel (grey) or 3 (colour).", rich_help_panel=SOURCE),
]
TrustOpt = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Let the model's file run its code when it is read; only for files whose author you trust.",
        rich_help_panel=SOURCE,
    ),
]
PixelsOpt = Annotated[int, typer.Option("--max-pixels", help="Pixels of one image at most.", rich_help_panel=SOURCE)]
BytesOpt = Annotated[
    int, typer.Option("--max-bytes", help="Bytes that one file may be unpacked to.", rich_help_panel=SOURCE)
]
ClassesOpt = Annotated[int, typer.Option("--max-classes", help="Number of classes at most.", rich_help_panel=SOURCE)]
PIXELS, BYTES, CLASSES = (getattr(Limits, name) for name in ("max_pixels", "max_bytes", "max_classes"))
StepsOpt = Annotated[
    int | None, typer.Option("--steps", help="Gradients per restart, or queries; the attack's default if not given.")
]
RestartsOpt = Annotated[int, typer.Option("--restarts", help="Number of random starts.")]
ThreatOpt = Annotated[
    str, typer.Option("--threat", help="Threat model: linf:8/255, l2:0.5, l1:12, l0:10, l0-pixel:10.")
]
SeedOpt = Annotated[int, typer.Option("--seed", help="Random seed.")]
DeviceOpt = Annotated[
    str, typer.Option("--device", help="Device: auto, cpu, cuda, cuda:1, mps.", rich_help_panel=SPEED)
]
ThreadsOpt = Annotated[int | None, typer.Option("--threads", help="Number of CPU threads.", rich_help_panel=SPEED)]
BatchOpt = Annotated[
    int | None,
    typer.Option("--batch", help="Samples computed at once; from the free memory if not given.", rich_help_panel=SPEED),
]
MemoryOpt = Annotated[
    str | None,
    typer.Option(
        "--memory",
        help="Memory for samples and points, 2GB or 500MB; half of what is free if not given.",
        rich_help_panel=SPEED,
    ),
]
WorkersOpt = Annotated[
    str,
    typer.Option(
        "--workers",
        help="Processes that share the work, this one included: a number, at most 4 per core, or auto, one per core.",
        rich_help_panel=SPEED,
    ),
]
SchedulerOpt = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="Dask scheduler whose workers help, tcp://HOST:PORT; they see --out under the same path or URL.",
        rich_help_panel=SPEED,
    ),
]
RowsOpt = Annotated[
    str | None,
    typer.Option(
        "--rows",
        help="Rows of a share, 0:500, the last excluded; --out is its folder, and `unfooled merge` joins the shares.",
        rich_help_panel=SPEED,
    ),
]
StoreOptionsOpt = Annotated[
    Path | None,
    typer.Option(
        "--store-options",
        help="JSON file of options and credentials for the store of a URL; none of them is recorded.",
        rich_help_panel=OUTPUT,
    ),
]
JsonOpt = Annotated[
    bool, typer.Option("--json", help="Print the record as JSON, and nothing else.", rich_help_panel=OUTPUT)
]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no table.", rich_help_panel=OUTPUT)]


def command() -> str:
    """Return the command line that reproduces this run."""
    return "unfooled " + shlex.join(sys.argv[1:])


def share_folder(out: str, store_options: Path | None) -> Path:
    """Return the folder of a share.

    Raises:
        BadInput: It is a URL, or options of one are given.
    """
    from unfooled.runs.share_records import check_local

    check_local(out)
    if store_options is not None:
        raise Refused("--store-options belongs to a URL, and a share lies in a folder; leave it out")
    return Path(out)
