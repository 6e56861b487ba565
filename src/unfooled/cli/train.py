"""`unfooled train`: train, or harden, a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unfooled.cli import options
from unfooled.cli.first_look import check_sources
from unfooled.workflows import catalog

if TYPE_CHECKING:
    from unfooled.training import Epoch
    from unfooled.workflows import TrainingRecord

BASES = ", ".join(catalog.Loss("").bases)


def train(
    data: options.DataOpt = "digits",
    arch: Annotated[str, typer.Option("--arch", help="Architecture to train from scratch.")] = "small-cnn",
    model: Annotated[str | None, typer.Option("--model", help="Weights to start from, read with --arch.")] = None,
    loss: Annotated[str, typer.Option("--loss", help=f"Training loss: {', '.join(catalog.LOSSES)}.")] = "standard",
    threat: Annotated[
        str | None, typer.Option("--threat", help="Threat model that the network is hardened against.")
    ] = None,
    attack_steps: Annotated[
        int | None, typer.Option("--attack-steps", help="Steps of the inner attack; 7 (10 with trades) if not given.")
    ] = None,
    beta: Annotated[float | None, typer.Option("--beta", help="TRADES trade-off weight; 6 if not given.")] = None,
    ramp: Annotated[
        float | None, typer.Option("--ramp", help="Epochs in which eps grows from 0; a fifth of them if not given.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="Start of the inner attack (madry, trades): random or warm.")
    ] = None,
    remove: Annotated[
        float | None,
        typer.Option("--remove", help="Margin in logits at which a sample leaves the inner attack (madry, trades)."),
    ] = None,
    replays: Annotated[
        int | None, typer.Option("--replays", help="Steps on each batch (free); 4 if not given.")
    ] = None,
    align: Annotated[
        float | None, typer.Option("--align", help="Weight of GradAlign (fast, n-fgsm); 0 if not given.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option("--weight", help="Weight of the regulariser (ig-norm, ig-sum-norm, igr, r2et, ...).")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", help=f"Loss that the regulariser is added to: {BASES}.")] = None,
    path: Annotated[
        int | None, typer.Option("--path", help="Nodes of the path integral: 10 (ig-norm, ig-sum-norm), 8 (igr).")
    ] = None,
    inner: Annotated[
        str | None,
        typer.Option("--inner", help="Points of ig-norm, ig-sum-norm: ascent (of the norm) or pgd (of the loss)."),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", help="Explanation that igr keeps stable: integrated-gradients, saliency, ..."),
    ] = None,
    smooth: Annotated[
        float | None, typer.Option("--smooth", help="Sharpness of softplus for ReLU in explanations (igr, r2et).")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="Rank that r2et defends; 100 if not given.")] = None,
    rectify: Annotated[
        float | None, typer.Option("--rectify", help="Weight of rectification (arp); 0.5 if not given.")
    ] = None,
    preserve: Annotated[
        float | None, typer.Option("--preserve", help="Weight of preservation (arp); 1 if not given.")
    ] = None,
    attributes: Annotated[
        Path | None,
        typer.Option("--attributes", help="CSV (concept, ...): path, and a column for each attribute."),
    ] = None,
    label: Annotated[
        float | None, typer.Option("--label", help="Weight of the label (concept, ...); 0.3 if not given.")
    ] = None,
    attribute: Annotated[
        float | None,
        typer.Option("--attribute", help="Weight of the attributes (concept, ...); 0.7 if not given."),
    ] = None,
    sparse: Annotated[
        float | None, typer.Option("--sparse", help="Weight of the head's absolute weights (concept); 0 if not given.")
    ] = None,
    rho: Annotated[
        float | None,
        typer.Option("--rho", help="Radius in attribute logits (concept-ball); 1 if not given."),
    ] = None,
    purify: Annotated[
        str | None,
        typer.Option(
            "--purify",
            help="Purifier to train through (madry, trades, ...), a folder or file.py:name; with latent-clusters the "
            "folder whose clusters it uses.",
        ),
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option("--sources", help="Network whose adversarial examples are trained on too (ensemble); repeatable."),
    ] = None,
    watch: Annotated[
        int, typer.Option("--watch", help="Held-out samples watched for catastrophic overfitting; 0 for none.")
    ] = 256,
    out: Annotated[Path, typer.Option("--out", help="Checkpoint; a second start continues it.")] = Path("model.pt"),
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the data.")] = 20,
    batch: Annotated[int, typer.Option("--batch", help="Samples per step.")] = 128,
    lr: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 2e-3,
    weight_decay: Annotated[float, typer.Option("--weight-decay", help="Decoupled weight decay (AdamW).")] = 1e-4,
    average: Annotated[
        float,
        typer.Option("--average", help="Share of the average of the weights that a step keeps, 0.995; 0 for none."),
    ] = 0.0,
    augment: Annotated[
        str | None,
        typer.Option(
            "--augment", help="Augmentation: shifts (up to an eighth, and mirrored) or corruptions (one of five)."
        ),
    ] = None,
    n: options.NOpt = None,
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    channels: options.ChannelsOpt = None,
    trust_pickle: options.TrustOpt = False,
    max_pixels: options.PixelsOpt = options.PIXELS,
    max_bytes: options.BytesOpt = options.BYTES,
    max_classes: options.ClassesOpt = options.CLASSES,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start again; do not continue --out.")] = False,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    devices: Annotated[int, typer.Option("--devices", help="Number of processes, one device each.")] = 1,
    nodes: Annotated[
        int, typer.Option("--nodes", help="Number of machines, with --devices processes each, started by torchrun.")
    ] = 1,
    precision: Annotated[
        str, typer.Option("--precision", help="Precision: 32-true; bf16-mixed or 16-mixed on a GPU.")
    ] = "32-true",
    threads: options.ThreadsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Train a classifier: plainly, against attacks, to keep its explanations stable (ig-norm, igr, r2et, ...),
    on the worst of five corruptions (group-worst), with attributes that the class is predicted from (concept, ...),
    through a purifier (--purify), or near the clusters of one (latent-clusters).

    For example, a hardened network for the digits:

        unfooled train --data digits --loss madry --threat linf:0.15 --epochs 25 --out runs/hardened.pt

    and one that predicts the attributes of photos first:

        unfooled train --data photos --attributes photos.csv --loss concept --arch concept-cnn --out runs/concepts.pt
    """
    check_sources(data=data)
    from unfooled import workflows
    from unfooled.cli import show
    from unfooled.workflows.recipe import is_first_process

    silent = not is_first_process()
    with show.stages(quiet or json or silent) as progress:
        progress(loss, 0, epochs)

        def trained(epoch: Epoch) -> None:
            figures = f"{loss}: loss {epoch.loss:.3f}"
            figures += "" if epoch.accuracy is None else f", held out {100 * epoch.accuracy:.1f} %"
            figures += "" if epoch.pgd is None else f", under attack {100 * epoch.pgd:.1f} %"
            progress(loss, epoch.index + 1, epochs, figures)

        record = workflows.train(
            data,
            loss,
            threat=threat,
            options=workflows.LossOptions(
                attack_steps, beta, ramp, start, remove, replays, align, weight, base, path, inner, explain, smooth, k,
                rectify, preserve, label, attribute, sparse, rho, attributes, purify, sources,
            ),
            network=workflows.Network(arch, model, mean, std, trust_pickle),
            recipe=workflows.Recipe(
                epochs, batch, lr, weight_decay, augment, watch, n, size, devices, precision, channels, average, nodes
            ),
            limits=workflows.Limits(max_pixels, max_bytes, max_classes),
            out=out,
            fresh=fresh,
            seed=seed,
            machine=workflows.Machine(device, threads),
            progress=trained,
        )  # fmt: skip
    if silent:
        return
    if json:
        show.record(record)
    else:
        print_record(record, quiet=quiet, sparse=bool(sparse))


def print_record(record: TrainingRecord, *, quiet: bool, sparse: bool = False) -> None:
    """Print a few lines; of a head that was made sparse, the number of its weights."""
    from unfooled.cli import show

    if record.stopped:
        show.err.print(show.plain(record.stopped), soft_wrap=True)
    if quiet:
        return
    accuracy = record.held_out_accuracy
    figure = "" if accuracy is None else f", held out {100 * accuracy:.1f} %"
    show.out.print(
        f"{show.plain(record.out)}{figure}{'' if record.trained else ' (was finished already)'}", soft_wrap=True
    )
    if record.purified_accuracy is not None:
        show.out.print(f"  behind the purifier {100 * record.purified_accuracy:.1f} %", soft_wrap=True)
    for warning in record.warnings:
        show.out.print(f"[yellow]{show.plain(warning)}", soft_wrap=True)
    if record.left_out:
        show.out.print(f"  left out, constant: {show.plain(', '.join(record.left_out))}", soft_wrap=True)
    if record.not_learnt:
        areas = ", ".join(f"{name} ({area:.2f})" for name, area in record.not_learnt.items())
        show.out.print(f"  not learnt (AUC below .95): {show.plain(areas)}", soft_wrap=True)
    if sparse and record.head_weights is not None:
        show.out.print("  weights of the head that are not 0: {} of {}".format(*record.head_weights), soft_wrap=True)
    for name, (value, low, high, n) in record.corruptions.items():
        line = f"  {show.plain(name):<19} {100 * value:5.1f} % [dim]\\[{100 * low:.1f}, {100 * high:.1f}], n = {n}"
        show.out.print(line, soft_wrap=True)
