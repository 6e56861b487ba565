"""`unfooled explain`: maps of why, as arrays and as a picture; with --threat also what an adversary makes of them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unfooled.cli import catalog, explain_attack, options

if TYPE_CHECKING:
    from torch import Tensor


def explain(
    model: options.ModelOpt,
    data: options.DataOpt = "digits",
    arch: options.ArchOpt = None,
    method: Annotated[
        str, typer.Option("--method", help=f"{', '.join(catalog.EXPLANATIONS)}.")
    ] = "integrated-gradients",
    of: Annotated[str, typer.Option("--of", help="Which class: the label, or the prediction.")] = "label",
    out: Annotated[Path, typer.Option("--out", help="Folder for maps.npz and maps.png.")] = Path("explanations"),
    threat: Annotated[
        str | None, typer.Option("--threat", help="Attack the maps, label kept: linf:8/255, l2:0.5, ...")
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option("--attack", help=f"What that maximises: {', '.join(catalog.OBJECTIVES)}; lens if not given."),
    ] = None,
    region: Annotated[
        Path | None, typer.Option("--region", help="Of --attack region: white on a grey image, or a .npy, (H, W).")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Of the attack: 50.")] = None,
    restarts: Annotated[int | None, typer.Option("--restarts", help="Of the attack: 2.")] = None,
    k: Annotated[int | None, typer.Option("--k", help="Pixels that are the top; a tenth of all if not given.")] = None,
    w: Annotated[int | None, typer.Option("--w", help="Reach of LENS in pixels: 1.")] = None,
    n: options.NOpt = 8,
    split: options.SplitOpt = "test",
    shuffle: options.ShuffleOpt = False,
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Explain what the model says of each sample: relevance of every input value.

    --data may also be one image, or a folder of images without labels; then predictions are explained. With --threat
    the maps are attacked, the label kept, and scored beside chance:

        unfooled explain --model net.pt --data picture.png --method saliency --threat linf:4/255
    """
    path = catalog.choose(catalog.EXPLANATIONS, method, "explanation")
    catalog.choose({"label": 0, "prediction": 0}, of, "choice for --of")
    how = explain_attack.asked(attack, threat, steps, restarts, k, w, region)
    where = options.machine(device, threads, seed=seed)
    given = options.load_loose(
        model=model, arch=arch, data=data, n=n, mean=mean, std=std, size=size, labels=labels, device=where
    )
    of = "prediction" if given is not None else of
    given = given or options.load(
        model=model, arch=arch, data=data, split=split, n=n, shuffle=shuffle, seed=seed, mean=mean, std=std, size=size,
        labels=labels, device=where,
    )  # fmt: skip
    import numpy as np
    import torch

    from unfooled.cli import show
    from unfooled.core.checks import check_mode
    from unfooled.core.goals import read_logits
    from unfooled.runs.files import write_whole

    check_mode(given.model)
    method_ = catalog.resolve(path)
    with torch.no_grad():
        prediction = torch.cat([read_logits(given.model, part).argmax(1) for part in given.x.split(256)])
    target = prediction if of == "prediction" else given.y
    maps = []
    with show.bars(quiet or json) as progress:
        for x, y in progress.track(list(zip(given.x.split(32), target.split(32), strict=True)), description=method):
            maps.append(method_(given.model, x, y))
    attribution = torch.cat(maps)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"x": given.x, "y": given.y, "prediction": prediction, "attribution": attribution}
    moved = explain_attack.search(given, target, method_, how, seed=seed) if how is not None else None
    if moved is not None:
        arrays |= {"x_adv": moved.x_adv, "attribution_adv": moved.attribution, **moved.arrays}
    plain: dict[str, Any] = {
        name: v.cpu().numpy() if isinstance(v, torch.Tensor) else np.array(v) for name, v in arrays.items()
    }
    np.savez_compressed(buffer, **plain)
    write_whole(out / "maps.npz", buffer.getvalue())
    files = [out / "maps.npz"]
    if given.x.ndim == 4:
        write_whole(out / "maps.png", picture(given, attribution, target, prediction, method, moved))
        files.append(out / "maps.png")
    record: dict[str, Any] = {"model": model, "data": data, "n": len(given.x), "method": method, "of": of}
    record["files"] = [str(f) for f in files]
    if moved is not None:
        record["attack"] = moved.record
    if json:
        import json as lib

        typer.echo(lib.dumps(record, indent=2))
    elif not quiet:
        if moved is not None:
            explain_attack.tell(moved.record)
        for f in files:
            show.out.print(str(f), soft_wrap=True)


def picture(
    given: options.Inputs,
    attribution: Tensor,
    target: Tensor,
    prediction: Tensor,
    method: str,
    moved: explain_attack.Moved | None = None,
) -> bytes:
    """Inputs above, maps below, clean and under attack; red speaks for, blue against the class explained."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    k = min(len(given.x), 16)
    inputs, maps = [given.x], [attribution]
    if moved is not None:
        inputs, maps = [*inputs, moved.x_adv], [*maps, moved.attribution]
    figure = Figure(figsize=(max(1.5 * k + 0.3, 3.0), 0.6 + 1.5 * (len(inputs) + len(maps))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(inputs) + len(maps), k, squeeze=False)
    for i in range(k):
        for axis, x in zip(axes[:, i], inputs, strict=False):
            image = x[i].cpu().movedim(0, -1).numpy()
            axis.imshow(image if image.shape[-1] == 3 else image.mean(-1), cmap="gray", vmin=0, vmax=1)
        relevance = [m[i].sum(0).cpu().numpy() for m in maps]
        top = max(float(abs(r).max()) for r in relevance) or 1.0
        for axis, r in zip(axes[len(inputs) :, i], relevance, strict=True):
            axis.imshow(r, cmap=mpl.colormaps["RdBu_r"], vmin=-top, vmax=top)
        name, said = given.classes[int(target[i])], given.classes[int(prediction[i])]
        axes[0, i].set_title(f"says {said}", fontsize=9)
        axes[len(inputs), i].set_title(f"why {name}", fontsize=9)
        if moved is not None:
            axes[1, i].set_title(moved.record["samples"][i]["status"], fontsize=9)
            axes[3, i].set_title(explain_attack.title(moved.record["samples"][i]), fontsize=9)
        for axis in axes[:, i]:
            axis.set_axis_off()
    legend = "where the evidence lies" if method == "attention" else "red speaks for the class, blue against it"
    figure.suptitle(f"{method}: {legend}", fontsize=10 if k > 1 else 7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
