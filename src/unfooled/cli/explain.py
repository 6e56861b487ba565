"""`unfooled explain`: maps of why, as arrays and as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unfooled.cli import catalog, options

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
    """Explain what the model says of each sample: relevance of every input value."""
    path = catalog.choose(catalog.EXPLANATIONS, method, "explanation")
    catalog.choose({"label": 0, "prediction": 0}, of, "choice for --of")
    where = options.machine(device, threads, seed=seed)
    given = options.load(
        model=model, arch=arch, data=data, split=split, n=n, shuffle=shuffle, seed=seed, mean=mean, std=std, size=size,
        labels=labels, device=where,
    )  # fmt: skip
    import numpy as np
    import torch

    from unfooled.cli import show
    from unfooled.core.checks import check_mode
    from unfooled.core.files import write_whole
    from unfooled.core.goals import read_logits

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
    arrays = {"x": given.x, "y": given.y, "prediction": prediction, "attribution": attribution}
    np.savez_compressed(buffer, **{k: v.cpu().numpy() for k, v in arrays.items()})
    write_whole(out / "maps.npz", buffer.getvalue())
    files = [out / "maps.npz"]
    if given.x.ndim == 4:
        write_whole(out / "maps.png", picture(given, attribution, target, prediction, method))
        files.append(out / "maps.png")
    record: dict[str, Any] = {"model": model, "data": data, "n": len(given.x), "method": method, "of": of}
    record["files"] = [str(f) for f in files]
    if json:
        import json as lib

        typer.echo(lib.dumps(record, indent=2))
    elif not quiet:
        for f in files:
            show.out.print(str(f), soft_wrap=True)


def picture(given: options.Inputs, attribution: Tensor, target: Tensor, prediction: Tensor, method: str) -> bytes:
    """Input above, map below; symmetric scale, red for and blue against the class explained."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    k = min(len(given.x), 16)
    figure = Figure(figsize=(1.5 * k + 0.3, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, k, squeeze=False)
    for i in range(k):
        image = given.x[i].cpu().movedim(0, -1).numpy()
        shown = image if image.shape[-1] == 3 else image.mean(-1)
        axes[0, i].imshow(shown, cmap="gray", vmin=0, vmax=1)
        relevance = attribution[i].sum(0).cpu().numpy()
        top = float(abs(relevance).max()) or 1.0
        axes[1, i].imshow(relevance, cmap=mpl.colormaps["RdBu_r"], vmin=-top, vmax=top)
        name, said = given.classes[int(target[i])], given.classes[int(prediction[i])]
        axes[0, i].set_title(f"says {said}", fontsize=9)
        axes[1, i].set_title(f"why {name}", fontsize=9)
        for axis in axes[:, i]:
            axis.set_axis_off()
    said = "where the evidence lies" if method == "attention" else "red speaks for the class, blue against it"
    figure.suptitle(f"{method}: {said}", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
