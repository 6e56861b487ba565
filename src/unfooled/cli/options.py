"""Options that several commands share, spelled once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unfooled.cli import catalog
from unfooled.cli.errors import Refused

if TYPE_CHECKING:
    from torch import Tensor

    from unfooled.core.model.classifier import Classifier

MOST = 1000
"""Samples that are used where no number is asked for."""

SOURCE = "Inputs"
SPEED = "Machine"
OUTPUT = "Output"

ModelOpt = Annotated[
    str,
    typer.Option(
        "--model",
        help="Checkpoint (.pt, .safetensors), package.module:factory, file.py:factory, exported program (.pt2), "
        "timm:NAME, or a Hugging Face folder.",
        rich_help_panel=SOURCE,
    ),
]
ArchOpt = Annotated[str | None, typer.Option("--arch", help="Architecture of a checkpoint.", rich_help_panel=SOURCE)]
DataOpt = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, mnist, fashion-mnist, gtsrb, cifar10, cub, an .npz, IDX files, an image folder, or "
        "package.module:factory.",
        rich_help_panel=SOURCE,
    ),
]
SplitOpt = Annotated[str, typer.Option("--split", help="Part of the data.", rich_help_panel=SOURCE)]
NOpt = Annotated[int | None, typer.Option("--n", help="How many samples; all if larger.", rich_help_panel=SOURCE)]
ShuffleOpt = Annotated[bool, typer.Option("--shuffle", help="Draw them at random (--seed).", rich_help_panel=SOURCE)]
MeanOpt = Annotated[
    str | None, typer.Option("--mean", help="Mean that the model expects, e.g. 0.49,0.48,0.45.", rich_help_panel=SOURCE)
]
StdOpt = Annotated[str | None, typer.Option("--std", help="Standard deviation, likewise.", rich_help_panel=SOURCE)]
SizeOpt = Annotated[str | None, typer.Option("--size", help="Resize images: 32 or 32x48.", rich_help_panel=SOURCE)]
LabelsOpt = Annotated[
    Path | None,
    typer.Option("--labels", help="Class names in the model's order, one a line or JSON.", rich_help_panel=SOURCE),
]
ThreatOpt = Annotated[str, typer.Option("--threat", help="linf:8/255, l2:0.5, l1:12, l0:10, l0-pixel:10.")]
SeedOpt = Annotated[int, typer.Option("--seed", help="Of every random number.")]
DeviceOpt = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel=SPEED)]
ThreadsOpt = Annotated[int | None, typer.Option("--threads", help="CPU threads.", rich_help_panel=SPEED)]
BatchOpt = Annotated[
    int | None,
    typer.Option("--batch", help="Samples at a time; from the free memory if not given.", rich_help_panel=SPEED),
]
JsonOpt = Annotated[
    bool, typer.Option("--json", help="Print the record as JSON, and nothing else.", rich_help_panel=OUTPUT)
]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars, no table.", rich_help_panel=OUTPUT)]


@dataclass(frozen=True)
class Inputs:
    """A model and its data, loaded."""

    model: Classifier
    x: Any
    y: Any
    classes: list[str]
    warnings: tuple[str, ...]
    options: dict[str, Any]


def machine(device: str, threads: int | None, *, seed: int = 0, batch: int | None = None) -> str:
    """Check what every command takes, set the number of threads and say which device to use.

    Raises:
        Refused: there is no such device, no thread, no batch, or a seed that no generator takes.
    """
    import torch

    if batch is not None and batch < 1:
        raise Refused(f"--batch is {batch}; it must be at least 1")
    if not 0 <= seed < 2**63:
        raise Refused(f"--seed is {seed}; it must be at least 0 and below 2^63")
    if threads is not None:
        if threads < 1:
            raise Refused(f"--threads is {threads}; it must be at least 1")
        torch.set_num_threads(threads)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as e:
        reason = str(e).splitlines()[0]
        raise Refused(f"--device {device} cannot be used here ({reason}); `unfooled doctor` lists what can") from None
    return device


def load_loose(
    *,
    model: str,
    arch: str | None,
    data: str,
    n: int | None,
    mean: str | None,
    std: str | None,
    size: str | None,
    labels: Path | None,
    device: str,
) -> Inputs | None:
    """A model, and images without labels, which then are the model's predictions; None where the data are none."""
    import torch

    from unfooled.core.goals import read_logits
    from unfooled.data.classes import read_names
    from unfooled.data.formats.folders import decode, loose

    files = loose(Path(data))
    if not files:
        return None
    x = decode(files[:n], catalog.size(size), None)
    given = load(
        model=model, arch=arch, data=(x, [0] * len(x)), split="all", n=None, shuffle=False, seed=0, mean=mean,
        std=std, size=None, labels=None, device=device, sized=size is not None,
    )  # fmt: skip
    with torch.no_grad():
        logits = torch.cat([read_logits(given.model, part) for part in given.x.split(256)])
    names = [item[-1] for item in read_names(labels)] if labels is not None else given.model.classes or []
    names = [*names, *(str(k) for k in range(len(names), logits.shape[1]))]
    return Inputs(given.model, given.x, logits.argmax(1), names, (), given.options)


def load(
    *,
    model: str,
    arch: str | None,
    data: Any,
    split: str,
    n: int | None,
    shuffle: bool,
    seed: int,
    mean: str | None,
    std: str | None,
    size: str | None,
    labels: Path | None,
    device: str,
    sized: bool = False,
) -> Inputs:
    """Load model and data as the options say (`sized`: resized already), and check that they fit each other."""
    from unfooled.core.checks import check_labels
    from unfooled.core.goals import read_logits
    from unfooled.core.model.outputs import ModelFails
    from unfooled.data.load import load_dataset
    from unfooled.models.load import load_model

    if n is not None and n < 1:
        raise Refused(f"--n is {n}; it must be at least 1")
    net = load_model(model, arch, device, mean=catalog.numbers(mean, "--mean"), std=catalog.numbers(std, "--std"))
    found = load_dataset(data, split=split, n=n, shuffle=shuffle, seed=seed, size=catalog.size(size), labels=labels)
    x, y = found.x.to(device), found.y.to(device)
    import torch

    try:
        with torch.no_grad():
            logits = read_logits(net, x[:1])
    except ModelFails as e:
        source = data if isinstance(data, str) else "these images"
        reason = str(e.__cause__).splitlines()[0] if str(e.__cause__) else type(e.__cause__).__name__
        raise Refused(
            f"{model} does not accept samples of shape {tuple(x.shape[1:])} from {source} ({reason}); "
            f"{_mend(net, x[:1], sized or size is not None)}"
        ) from e
    check_labels(y, len(x), logits.shape[1])
    classes = found.classes or net.classes or [str(k) for k in range(logits.shape[1])]
    classes = [*classes, *(str(k) for k in range(len(classes), logits.shape[1]))]
    options = {"split": split, "shuffle": shuffle, "arch": arch, "mean": mean, "std": std, "size": size}
    # The default is "up to so many": that there are fewer is only worth a warning to those who asked for a number.
    warnings = [w for w in found.warnings if n != MOST or "samples were asked for" not in w]
    return Inputs(net, x, y, classes, tuple(warnings), options)


def _mend(net: Any, x: Tensor, sized: bool) -> str:
    """What to do about a sample that the model does not take."""
    import torch

    from unfooled.core.errors import BadInput
    from unfooled.core.goals import read_logits

    if x.ndim == 4 and x.shape[1] in (1, 3):
        other, kind = (x.mean(1, keepdim=True), "grey") if x.shape[1] == 3 else (x.expand(-1, 3, -1, -1), "colour")
        try:
            with torch.no_grad():
                read_logits(net, other)
            return f"it takes {kind} images: convert them"
        except BadInput:
            pass
    return "give another --size or choose another model" if sized else "resize them (--size) or choose another model"
