"""`unfooled train`: train, or harden, a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unfooled.cli import catalog, options
from unfooled.cli.errors import Refused
from unfooled.cli.losses import BASES, make_loss

AUGMENT = ("shifts", "corruptions")


def train(
    data: options.DataOpt = "digits",
    arch: Annotated[str, typer.Option("--arch", help="Architecture to train from scratch.")] = "small-cnn",
    model: Annotated[str | None, typer.Option("--model", help="Weights to start from, read with --arch.")] = None,
    loss: Annotated[str, typer.Option("--loss", help=f"{', '.join(catalog.TRAINING)}.")] = "standard",
    threat: Annotated[str | None, typer.Option("--threat", help="What the network is hardened against.")] = None,
    attack_steps: Annotated[int | None, typer.Option("--attack-steps", help="Of the inner attack: 7, or 10.")] = None,
    beta: Annotated[float, typer.Option("--beta", help="Of TRADES.")] = 6.0,
    ramp: Annotated[
        float | None, typer.Option("--ramp", help="Epochs in which eps grows from 0; a fifth of them if not given.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="Of the inner attack (madry, trades): random or warm.")
    ] = None,
    remove: Annotated[
        float | None, typer.Option("--remove", help="Margin in logits at which a sample leaves it (madry, trades).")
    ] = None,
    replays: Annotated[int | None, typer.Option("--replays", help="Steps on each batch (free): 4.")] = None,
    align: Annotated[float | None, typer.Option("--align", help="Weight of GradAlign (fast, n-fgsm): 0.")] = None,
    weight: Annotated[
        float | None, typer.Option("--weight", help="Of the regulariser (ig-norm, ig-sum-norm, igr, r2et, ...).")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help=f"What is regularised: {', '.join(BASES)}; igr: madry, else standard.")
    ] = None,
    path: Annotated[
        int | None, typer.Option("--path", help="Nodes of the path integral: 10 (ig-norm, ig-sum-norm), 8 (igr).")
    ] = None,
    inner: Annotated[
        str | None, typer.Option("--inner", help="What finds the points of ig-norm, ig-sum-norm: ascent, or pgd.")
    ] = None,
    explain: Annotated[
        str | None, typer.Option("--explain", help="What igr keeps together: integrated-gradients, saliency, ...")
    ] = None,
    smooth: Annotated[
        float | None, typer.Option("--smooth", help="Sharpness of softplus for ReLU in explanations (igr, r2et).")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="Rank that r2et defends: 100.")] = None,
    rectify: Annotated[float | None, typer.Option("--rectify", help="Weight of rectification (arp): 0.5.")] = None,
    preserve: Annotated[float | None, typer.Option("--preserve", help="Weight of preservation (arp): 1.")] = None,
    watch: Annotated[
        int, typer.Option("--watch", help="Held-out samples watched for catastrophic overfitting; 0 for none.")
    ] = 256,
    out: Annotated[Path, typer.Option("--out", help="Checkpoint; a second start continues it.")] = Path("model.pt"),
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the data.")] = 20,
    batch: Annotated[int, typer.Option("--batch", help="Samples a step.")] = 128,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 2e-3,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Decoupled (AdamW).")] = 1e-4,
    augment: Annotated[
        str | None,
        typer.Option("--augment", help="shifts (up to an eighth, and mirrored) or corruptions (one of five)."),
    ] = None,
    n: options.NOpt = None,
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start again; do not continue --out.")] = False,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    devices: Annotated[int, typer.Option("--devices", help="Processes, one device each.")] = 1,
    precision: Annotated[
        str, typer.Option("--precision", help="32-true; bf16-mixed or 16-mixed on a GPU.")
    ] = "32-true",
    threads: options.ThreadsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Train a classifier: plainly, against an adversary, or so that its reasons stay (ig-norm, igr, r2et, ...),
    or on the worst of five corruptions (group-worst).

    For example, a hardened network for the digits:

        unfooled train --data digits --loss madry --threat linf:0.15 --epochs 25 --out runs/hardened.pt
    """
    if epochs < 1 or batch < 2 or not lr > 0:
        raise Refused(f"--epochs is {epochs}, --batch {batch}, --lr {lr}; they must be at least 1, at least 2, above 0")
    if watch < 0:
        raise Refused(f"--watch is {watch}; it must be at least 0")
    objective = make_loss(
        loss, threat, attack_steps, beta, ramp=epochs / 5 if ramp is None else ramp, start=start, remove=remove,
        replays=replays, align=align, weight=weight, base=base, path=path, inner=inner, explain=explain, smooth=smooth,
        k=k, rectify=rectify, preserve=preserve,
    )  # fmt: skip
    if augment is not None:
        catalog.choose(dict.fromkeys(AUGMENT), augment, "choice for --augment")
    if augment == "corruptions" and loss in ("free", "group-worst"):
        kept = "repeats each batch" if loss == "free" else "sees all five of them"
        raise Refused(f"--loss {loss} {kept}; leave out --augment corruptions, or choose another loss")
    if start == "warm" and (augment or devices > 1):
        raise Refused("--start warm knows a sample by its bytes, in one process; leave out --augment and --devices")
    if augment == "corruptions":
        random_group = catalog.resolve("features.corruptions:random_group")
        objective = catalog.resolve("training.group_worst:Augmented")(random_group, objective)
    where = options.machine(device, threads, seed=seed)
    from unfooled.cli import show

    settings = {
        "data": data, "arch": arch, "loss": str(objective), "batch": batch, "epochs": epochs, "lr": lr,
        "weight_decay": weight_decay, "augment": augment or False, "n": n, "seed": seed, "size": size, "start": model,
        "mean": mean, "std": std, "watch": watch if threat else 0,
    }  # fmt: skip
    if fresh:
        out.unlink(missing_ok=True)
    last = None
    with show.bars(quiet or json) as progress:
        task = progress.add_task(f"{loss}", total=epochs)
        for epoch in run(objective, settings, out, where, devices=devices, precision=precision):
            last = epoch
            said = f"{loss}: loss {epoch.loss:.3f}"
            said += "" if epoch.accuracy is None else f", held out {100 * epoch.accuracy:.1f} %"
            said += "" if epoch.pgd is None else f", under attack {100 * epoch.pgd:.1f} %"
            progress.update(task, completed=epoch.index + 1, description=said)
    record: dict[str, Any] = {"out": str(out), "epochs": epochs, "loss": loss, "threat": threat}
    record["held_out_accuracy"] = last.accuracy if last else None
    record["stopped"] = last.stopped if last else None
    if loss == "group-worst" or augment == "corruptions":
        record["corruptions"] = corrupted(out, settings, where)
    tell(record, done=last is None, json=json, quiet=quiet)


def tell(record: dict[str, Any], *, done: bool, json: bool, quiet: bool) -> None:
    """What came of it: the record as JSON, or a few lines."""
    from unfooled.cli import show

    if json:
        import json as lib

        typer.echo(lib.dumps(record, indent=2))
        return
    if record["stopped"]:
        show.err.print(record["stopped"], soft_wrap=True)
    if quiet:
        return
    accuracy = record["held_out_accuracy"]
    said = "" if accuracy is None else f", held out {100 * accuracy:.1f} %"
    show.out.print(f"{record['out']}{said}{' (was finished already)' if done else ''}", soft_wrap=True)
    for name, (value, low, high, n) in record.get("corruptions", {}).items():
        line = f"  {name:<19} {100 * value:5.1f} % [dim]\\[{100 * low:.1f}, {100 * high:.1f}], n = {n}"
        show.out.print(line, soft_wrap=True)


def corrupted(out: Path, settings: dict[str, Any], device: str) -> dict[str, tuple[float, float, float, int]]:
    """Held-out accuracy under each of the five corruptions and under all at once, with intervals and n; or nothing."""
    import torch

    from unfooled.data.load import load_dataset
    from unfooled.features.corruptions import FIVE, groups
    from unfooled.models.load import load_model
    from unfooled.statistics import intervals

    try:
        held = load_dataset(
            settings["data"], split="test", n=1000, seed=settings["seed"], size=catalog.size(settings["size"])
        )
    except ValueError:
        return {}
    if held.split == "all":
        return {}
    model = load_model(str(out), settings["arch"], device)
    with torch.no_grad():
        right = torch.stack(
            [
                torch.cat([model(x.to(device)).argmax(1).cpu() for x in version.split(200)]) == held.y
                for version in groups(held.x).unbind(1)
            ]
        )
    names = [str(getattr(corrupt, "__name__", corrupt)).replace("_", " ") for corrupt in FIVE]
    shares = [intervals.share(row) for row in (*right, right.all(0))]
    return {name: (s.value or 0.0, s.low, s.high, s.n) for name, s in zip([*names, "all five"], shares, strict=True)}


def run(
    objective: Any, settings: dict[str, Any], out: Path, device: str, *, devices: int = 1, precision: str = "32-true"
) -> Any:
    """Build network, data and optimiser from plain settings, and yield the epochs."""
    import torch
    from lightning_fabric import Fabric

    from unfooled.core.model.classifier import Classifier
    from unfooled.data.load import load_dataset
    from unfooled.models.architectures import build
    from unfooled.models.load import load_model
    from unfooled.training import Batches, Checkpoint, train
    from unfooled.training.monitor import Monitor
    from unfooled.training.progress import threat_of

    seed, arch = settings["seed"], settings["arch"]
    sizes = {"seed": seed, "size": catalog.size(settings["size"])}
    whole = load_dataset(settings["data"], split="train", n=settings["n"], shuffle=settings["n"] is not None, **sizes)
    try:
        held = load_dataset(settings["data"], split="test", n=1000, **sizes)
        # A source without splits is read whole both times; what was trained on is not held out.
        held_out = None if held.split == "all" else (held.x, held.y)
    except ValueError:
        held_out = None
    shape = tuple(whole.x.shape[1:])
    k = max(len(whole.classes or []), int(whole.y.max()) + 1)
    mean, std = catalog.numbers(settings["mean"], "--mean"), catalog.numbers(settings["std"], "--std")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = (
            load_model(settings["start"], arch, device, mean=mean, std=std)
            if settings["start"]
            else Classifier(build(arch, shape, k), mean=mean, std=std)
        )
    fabric = Fabric(accelerator=device.split(":")[0], devices=devices, precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    crop = max(1, min(shape[1:]) // 8) if settings["augment"] == "shifts" and len(shape) == 3 else 0
    batches = Batches(
        whole.x, whole.y, settings["batch"], seed, flip=bool(crop), crop=crop, rank=fabric.global_rank,
        world=fabric.world_size,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])
    about = {
        "arch": arch, "input_shape": list(shape), "num_classes": k, "mean": mean, "std": std, "classes": whole.classes,
    }  # fmt: skip
    monitor = None
    against = threat_of(objective)
    if settings.get("watch") and against is not None:
        # Without a part of their own, the samples trained on: a collapse shows there too.
        x, y = held_out or (whole.x, whole.y)
        # Spread over the file, which may be in the order of the classes.
        rows = torch.linspace(0, len(x) - 1, min(settings["watch"], len(x))).long()
        monitor = Monitor(against, x[rows], y[rows])
    return train(
        net,
        batches,
        objective,
        optimizer,
        epochs=settings["epochs"],
        seed=seed,
        checkpoint=Checkpoint(out, about, settings),
        held_out=held_out,
        fabric=fabric,
        clip=5.0,
        monitor=monitor,
    )
