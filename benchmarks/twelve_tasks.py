"""Twelve common tasks, in the lines of the best peer and in ours, counted by the same rule.

    python benchmarks/twelve_tasks.py                   the table, and `results/twelve-tasks.json`
    python benchmarks/twelve_tasks.py --run             each of them is run as well; peers that are absent are left out

Of each function below its body is counted, as it is formatted in this repository: lines, and statements with those
inside of others. Not counted on either side: imports, blank lines, comments, the docstring, and the last `return`,
which hands the result to the tests. `net` maps samples in [0, 1] to logits; in "pgd of a normalised model" it takes
samples that were normalised. Peers are Captum, torchattacks and foolbox; where none of them does a task, the peer's
side is the shortest code with their parts that we could write.
"""

# ruff: noqa: RET504  (the last return is not counted, so that the line before it is written out)

from __future__ import annotations

import argparse
import ast
import inspect
import json
import textwrap
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import unfooled as uf
from unfooled.runs.files import write_whole
from unfooled.runs.records import Environment

FILE = Path(__file__).parent / "results" / "twelve-tasks.json"
PEERS = ("captum", "torchattacks", "foolbox")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
RADII = (0.01, 0.02, 0.03, 0.04, 0.05)
EPS = 0.1


def saliency_shown_captum(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Show the saliency map of a picture."""
    import numpy as np
    from captum.attr import Saliency
    from captum.attr import visualization as viz

    maps = Saliency(net).attribute(x, target=y)
    image, pixels = (np.transpose(a[0].detach().numpy(), (1, 2, 0)) for a in (maps, x))
    figure, _ = viz.visualize_image_attr(image, pixels, "blended_heat_map", use_pyplot=False)
    return figure


def saliency_shown_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Show the saliency map of a picture."""
    panels = uf.show(x, attribution=uf.explanations.saliency(net, x, y))
    return panels.figure


def integrated_gradients_captum(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Compute integrated gradients and how far they are from complete."""
    from captum.attr import IntegratedGradients

    maps, gap = IntegratedGradients(net).attribute(x, target=y, return_convergence_delta=True)
    return maps, gap


def integrated_gradients_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Compute integrated gradients and how far they are from complete."""
    found = uf.explanations.integrated_gradients_with_gap(net, x, y)
    return found.attribution, found.gap


def grad_cam_captum(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Save the Grad-CAM of a picture as an overlay."""
    import numpy as np
    from captum.attr import LayerAttribution, LayerGradCam
    from captum.attr import visualization as viz

    maps = LayerGradCam(net, net.get_submodule("1")).attribute(x, target=y, relu_attributions=True)
    maps = LayerAttribution.interpolate(maps, tuple(x.shape[2:]), "bilinear")
    image, pixels = (np.transpose(a[0].detach().numpy(), (1, 2, 0)) for a in (maps, x))
    figure, _ = viz.visualize_image_attr(image, pixels, "blended_heat_map", "positive", use_pyplot=False)
    figure.savefig(folder / "grad_cam.png")
    return folder / "grad_cam.png"


def grad_cam_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Save the Grad-CAM of a picture as an overlay."""
    maps = uf.explanations.grad_cam(net, x, y, layer="1")
    uf.show(x, attribution=maps, save=folder / "grad_cam.png")
    return folder / "grad_cam.png"


def smooth_grad_captum(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Compute SmoothGrad."""
    from captum.attr import NoiseTunnel, Saliency

    maps = NoiseTunnel(Saliency(net)).attribute(x, nt_type="smoothgrad", nt_samples=16, stdevs=0.1, target=y)
    return maps


def smooth_grad_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Compute SmoothGrad."""
    maps = uf.explanations.smooth_grad(net, x, y)
    return maps


def normalised_pgd_foolbox(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Measure robust accuracy of a model of normalised samples under PGD."""
    import foolbox

    fmodel = foolbox.PyTorchModel(net, (0, 1), preprocessing={"mean": MEAN, "std": STD, "axis": -3})
    _, _, success = foolbox.attacks.LinfPGD()(fmodel, x, y, epsilons=EPS)
    accuracy = 1 - float(success.float().mean())
    return accuracy


def normalised_pgd_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Measure robust accuracy of a model of normalised samples under PGD."""
    model = uf.Classifier(net, mean=MEAN, std=STD)
    accuracy = uf.robust_accuracy(model, x, y, uf.Linf(EPS), attack=uf.attacks.pgd).value
    return accuracy


def curve_foolbox(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Measure robust accuracy at five radii."""
    import foolbox

    fmodel = foolbox.PyTorchModel(net, (0, 1))
    _, _, success = foolbox.attacks.LinfPGD()(fmodel, x, y, epsilons=RADII)
    curve = (1 - success.float().mean(1)).tolist()
    return curve


def curve_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Measure robust accuracy at five radii."""
    curve = [uf.robust_accuracy(net, x, y, uf.Linf(eps), attack=uf.attacks.pgd).value for eps in RADII]
    return curve


def ensemble_torchattacks(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Measure robust accuracy under AutoAttack."""
    import torchattacks

    x_adv = torchattacks.AutoAttack(net, eps=EPS, n_classes=4)(x, y)
    accuracy = float((net(x_adv).argmax(1) == y).float().mean())
    return accuracy


def ensemble_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Measure robust accuracy under AutoAttack."""
    accuracy = uf.robust_accuracy(net, x, y, uf.Linf(EPS), attack=uf.autoattack).value
    return accuracy


def median_l2_foolbox(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Measure the median distance of the nearest adversarial example in L2."""
    import foolbox

    fmodel = foolbox.PyTorchModel(net, (0, 1))
    _, points, _ = foolbox.attacks.L2FMNAttack()(fmodel, x, y, epsilons=None)
    median = float((points - x).flatten(1).norm(dim=1).median())
    return median


def median_l2_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Measure the median distance of the nearest adversarial example in L2."""
    points = uf.attacks.fmn(net, x, y, 2)
    median = float(uf.verify(net, x, y, points, uf.L2(torch.inf)).distance.median())
    return median


def survival_captum(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Measure the share of a map's largest tenth that an attack leaves, beside the share by chance."""
    import torchattacks
    from captum.attr import Saliency

    x_adv = torchattacks.PGD(net, eps=EPS)(x, y)
    before, after = (Saliency(net).attribute(a, target=y).abs().sum(1).flatten(1) for a in (x, x_adv))
    k = before.shape[1] // 10
    tops = zip(before.topk(k).indices.tolist(), after.topk(k).indices.tolist(), strict=True)
    kept = torch.tensor([len(set(a) & set(b)) / k for a, b in tops])
    return kept, k / before.shape[1]


def survival_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Measure the share of a map's largest tenth that an attack leaves, beside the share by chance."""
    x_adv = uf.attacks.pgd(net, x, y, uf.Linf(EPS))
    before, after = (uf.explanations.saliency(net, a, y).abs().sum(1) for a in (x, x_adv))
    k = before[0].numel() // 10
    kept = uf.distances.top_k_intersection(before, after, k=k)
    return kept, k / before[0].numel()


def attacked_map_captum(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Attack an explanation, the label kept; Captum's maps have no gradient, so autograd computes them."""
    soft = torch.nn.Sequential(*[nn.Softplus(10) if isinstance(part, nn.ReLU) else part for part in net.children()])
    x_adv = (x + 0.01 * torch.randn_like(x)).clamp(0, 1)
    clean = torch.autograd.grad(soft(x.requires_grad_()).gather(1, y[:, None]).sum(), x)[0].abs()
    for _ in range(40):
        x_adv.requires_grad_()
        score = soft(x_adv).gather(1, y[:, None]).sum()
        found = torch.autograd.grad(score, x_adv, create_graph=True)[0].abs()
        alike = torch.cosine_similarity(found.flatten(1), clean.flatten(1)).sum()
        moved = x_adv - 0.005 * torch.autograd.grad(alike, x_adv)[0].sign()
        moved = (x + (moved - x).clamp(-EPS, EPS)).clamp(0, 1).detach()
        x_adv = torch.where((net(moved).argmax(1) == y)[:, None, None, None], moved, x_adv.detach())
    return x_adv


def attacked_map_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Attack an explanation, the label kept."""
    x_adv = uf.attack_explanation(net, x, y, uf.Linf(EPS), uf.explanations.saliency, objective=uf.attacks.cosine())
    return x_adv


def least_likely_torchattacks(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Attack towards the least likely class."""
    import torchattacks

    attack = torchattacks.PGD(net, eps=EPS)
    attack.set_mode_targeted_least_likely()
    x_adv = attack(x, y)
    return x_adv


def least_likely_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Attack towards the least likely class."""
    x_adv = uf.attacks.pgd(net, x, uf.least_likely(net, x), uf.Linf(EPS), targeted=True)
    return x_adv


def four_panels_captum(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Save a figure of a sample, the attacked one, their difference and the map."""
    import torchattacks
    from captum.attr import Saliency
    from matplotlib import pyplot

    x_adv = torchattacks.PGD(net, eps=EPS)(x, y)
    maps = Saliency(net).attribute(x, target=y).detach()
    figure, axes = pyplot.subplots(1, 4)
    for axis, image in zip(axes, (x, x_adv, 0.5 + (x_adv - x) / EPS / 2, maps / maps.amax()), strict=True):
        axis.imshow(image[0].detach().permute(1, 2, 0).clamp(0, 1))
        axis.axis("off")
    figure.savefig(folder / "panels.png")
    return folder / "panels.png"


def four_panels_ours(net: nn.Module, x: Tensor, y: Tensor, folder: Path) -> Any:
    """Save a figure of a sample, the attacked one, their difference and the map."""
    x_adv = uf.attacks.pgd(net, x, y, uf.Linf(EPS))
    uf.show(x, x_adv, uf.explanations.saliency(net, x, y), save=folder / "panels.png")
    return folder / "panels.png"


Task = Callable[[nn.Module, Tensor, Tensor, Path], Any]
TASKS: dict[str, tuple[str, Task, Task]] = {
    "saliency of a picture, shown": ("Captum", saliency_shown_captum, saliency_shown_ours),
    "integrated gradients with their gap": ("Captum", integrated_gradients_captum, integrated_gradients_ours),
    "Grad-CAM overlay, saved": ("Captum", grad_cam_captum, grad_cam_ours),
    "SmoothGrad": ("Captum", smooth_grad_captum, smooth_grad_ours),
    "PGD robust accuracy of a normalised model": ("foolbox", normalised_pgd_foolbox, normalised_pgd_ours),
    "robust accuracy at five radii": ("foolbox", curve_foolbox, curve_ours),
    "robust accuracy by an ensemble": ("torchattacks", ensemble_torchattacks, ensemble_ours),
    "median minimal distance in L2": ("foolbox", median_l2_foolbox, median_l2_ours),
    "survival of a map, against chance": ("Captum, torchattacks", survival_captum, survival_ours),
    "attack on an explanation": ("none: PyTorch", attacked_map_captum, attacked_map_ours),
    "attack towards the least likely class": ("torchattacks", least_likely_torchattacks, least_likely_ours),
    "figure of four panels": ("Captum, torchattacks", four_panels_captum, four_panels_ours),
}
"""Task -> peer, its code and ours."""


def counted(task: Task) -> dict[str, int]:
    """Return the lines and statements of a function's body, by the rule above."""
    source = textwrap.dedent(inspect.getsource(task))
    function = ast.parse(source).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert isinstance(function.body[-1], ast.Return)
    body = [part for part in function.body[:-1] if not _skipped(part)]
    statements = [node for part in body for node in ast.walk(part) if isinstance(node, ast.stmt) and not _skipped(node)]
    lines = {k for part in body for k in range(part.lineno, (part.end_lineno or 0) + 1)}
    text = source.splitlines()
    code = [k for k in lines if text[k - 1].strip() and not text[k - 1].lstrip().startswith("#")]
    return {"lines": len(code), "statements": len(statements)}


def _skipped(node: ast.AST) -> bool:
    """Return whether a statement is an import or a docstring."""
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return text or isinstance(node, (ast.Import, ast.ImportFrom))


def rows() -> list[dict[str, Any]]:
    """Return the counts of each task."""
    return [
        {"task": name, "peer": peer, "theirs": counted(theirs), "ours": counted(ours)}
        for name, (peer, theirs, ours) in TASKS.items()
    ]


def subject(*, normalised: bool = False) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small network, colour images and the labels that it gives them."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 4)
    ).eval()  # fmt: skip
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / max(1, weight[0].numel()) ** 0.5)
    x = torch.rand(4, 3, 8, 8, generator=generator)
    shaped = (1, 3, 1, 1)
    inside = (x - torch.tensor(MEAN).view(shaped)) / torch.tensor(STD).view(shaped) if normalised else x
    with torch.no_grad():
        return net, x, net(inside).argmax(1)


def run(task: Task, folder: Path) -> Any:
    """Run a task on the small network."""
    net, x, y = subject(normalised="normalised" in task.__name__)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return task(net, x, y, folder)


def versions() -> dict[str, str | None]:
    """Return the versions of the peers; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def main() -> None:
    """Count, run where asked to, and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", action="store_true")
    options = parser.parse_args()
    table = rows()
    for row in table:
        name = row["task"]
        print(f"{name:45} {row['peer']:22} {row['theirs']} {row['ours']}")
        if not options.run:
            continue
        for side, task in zip(("theirs", "ours"), TASKS[name][1:], strict=True):
            with TemporaryDirectory() as folder:
                try:
                    run(task, Path(folder))
                    row[side]["ran"] = True
                except ImportError as error:
                    row[side]["ran"] = f"no: {error}"
    record = {"command": "python benchmarks/twelve_tasks.py --run", "peers": versions(), "rows": table}
    record |= {"environment": Environment.here("cpu").model_dump(mode="json")}
    if options.run:
        write_whole(FILE, json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    main()
