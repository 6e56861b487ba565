"""`unfooled audit`: the main job."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unfooled.cli import catalog, options
from unfooled.cli.errors import Below, Refused

if TYPE_CHECKING:
    from unfooled.evaluation.audit.records import Summary

NEAREST = {"quick": 200, "normal": 400, "thorough": 1000}  # passes a sample for its nearest adversarial example
BOUNDED = ("robust_accuracy", "clean_accuracy")


def bound(text: str) -> tuple[str, str, float]:
    """Read "robust_accuracy=0.4" or "robust_accuracy.low=0.4" into (figure, field, bound)."""
    name, equals, value = text.partition("=")
    figure, _, field = name.strip().partition(".")
    field = field or "value"
    if not equals or figure not in BOUNDED or field not in ("value", "low", "high"):
        raise Refused(
            f"--fail-under is {text!r}; write {' or '.join(BOUNDED)}, with .low for the interval's end, as in "
            "robust_accuracy.low=0.4"
        )
    least = catalog.number(value, f"the bound on {name}")
    if not 0 <= least <= 1:
        raise Refused(f"--fail-under {text}: the bound lies in [0, 1]; write 0.4 for 40 %")
    return figure, field, least


def check_bounds(summary: Summary, asked: list[str]) -> None:
    """Fail where a figure is below what `--fail-under` asks for.

    Raises:
        Below: names the figure, its value and the bound.
    """
    for text in asked:
        figure, field, least = bound(text)
        value = getattr(getattr(summary, figure), field)
        if value is None or value < least:
            found = "not available" if value is None else f"{value:.4f}"
            raise Below(f"{figure}.{field} is {found}, below {least:g} (--fail-under)")


def audit(
    model: options.ModelOpt,
    threat: options.ThreatOpt,
    data: options.DataOpt = "digits",
    arch: options.ArchOpt = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; a second start continues it.")] = None,
    n: options.NOpt = options.MOST,
    split: options.SplitOpt = "test",
    shuffle: options.ShuffleOpt = False,
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    effort: Annotated[str, typer.Option("--effort", help=f"Of the cascade: {', '.join(catalog.EFFORTS)}.")] = "normal",
    envelope: Annotated[
        bool, typer.Option("--envelope", help="Nearest adversarial examples in L0, L1, L2 and Linf.")
    ] = False,
    attack: Annotated[
        str | None, typer.Option("--attack", help=f"One attack instead: {', '.join(catalog.ATTACKS)}.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Gradients a restart, or queries.")] = None,
    restarts: Annotated[int, typer.Option("--restarts", help="Random starts.")] = 1,
    explain: Annotated[
        str, typer.Option("--explain", help=f"{', '.join(catalog.EXPLANATIONS)}.")
    ] = "integrated-gradients",
    reasons: Annotated[
        str,
        typer.Option("--reasons", help=f"Explanation that is attacked, label kept: {', '.join(catalog.REASONS)}."),
    ] = "saliency",
    reasons_n: Annotated[int, typer.Option("--reasons-n", help="Samples whose explanation is attacked.")] = 32,
    title: Annotated[str | None, typer.Option("--title", help="What the report calls this run.")] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option("--fail-under", help="robust_accuracy=0.4 or robust_accuracy.low=0.4: exit 3 below it."),
    ] = None,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    batch: options.BatchOpt = None,
    chunk: Annotated[
        int, typer.Option("--chunk", help="Samples saved at a time.", rich_help_panel=options.SPEED)
    ] = 100,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Measure clean and robust accuracy, whether the figure can be believed, and whether the model's reasons survive.

    Writes a run folder that can be continued after a kill, and its page. For example:

        unfooled audit --model ckpt.pt --arch small-cnn --data digits --threat linf:0.1 --out runs/mine
    """
    allowed = catalog.threat(threat)
    catalog.choose(catalog.EXPLANATIONS, explain, "explanation")
    catalog.choose(catalog.REASONS, reasons, "explanation to attack")
    if reasons_n < 1:
        raise Refused(f"--reasons-n is {reasons_n}; it must be at least 1, or leave the attack out: --reasons none")
    catalog.choose(catalog.EFFORTS, effort, "effort")
    for text in fail_under or []:
        bound(text)
    single = [f"--attack {attack}"] if attack is not None else []
    single += [f"--steps {steps}"] if steps is not None else []
    single += [f"--restarts {restarts}"] if restarts != 1 else []
    if single and effort != "normal":
        raise Refused(f"--effort {effort} is of the cascade, {single[0]} asks for one attack instead; give one of them")
    if attack is not None or steps is not None or restarts != 1:
        catalog.attack(attack or "apgd-ce", steps=steps, restarts=restarts)
    where = options.machine(device, threads, seed=seed, batch=batch)
    given = options.load(
        model=model, arch=arch, data=data, split=split, n=n, shuffle=shuffle, seed=seed, mean=mean, std=std, size=size,
        labels=labels, device=where,
    )  # fmt: skip
    if not (json or quiet):
        from unfooled.cli import show

        show.err.print(f"[dim]classes, in order: {class_list(given.classes)}", soft_wrap=True)
    about = {
        "model": model,
        "data": data,
        "title": title or (model if ":" in model else Path(model).stem),
        "command": command(),
    }
    summary = judge(
        given, allowed, out=out, about=about, attack=attack, steps=steps, restarts=restarts, explain=explain, seed=seed,
        batch=batch, chunk=chunk, quiet=quiet or json, effort=effort, envelope=envelope,
        reasons=reasons, reasons_n=reasons_n,
    )  # fmt: skip
    if out is not None:
        from unfooled.report import render

        page = render([out], out / "report.html")
    if json:
        typer.echo(summary.model_dump_json(indent=2))
    elif not quiet:
        show.summaries([summary])
        if out is not None:
            show.out.print(f"page: {page}", soft_wrap=True)
    check_bounds(summary, fail_under or [])


def judge(
    given: options.Inputs,
    allowed: Any,
    *,
    out: Path | None,
    about: dict[str, str],
    attack: str | None = None,
    steps: int | None = None,
    restarts: int = 1,
    explain: str = "integrated-gradients",
    seed: int = 0,
    batch: int | None = None,
    chunk: int = 100,
    quiet: bool = False,
    effort: str = "normal",
    envelope: bool = False,
    reasons: str = "saliency",
    reasons_n: int = 32,
) -> Summary:
    """Bind the names to functions and run the audit with progress bars."""
    from unfooled.cli import show
    from unfooled.core.model.batching import fitting_batch
    from unfooled.evaluation.audit import Plan, audit

    if attack is None and (steps is not None or restarts != 1):
        attack = "apgd-ce" if allowed.norm >= 2 else "pgd-margin"
    options_: dict[str, Any] = {}
    if attack is not None:
        batch = batch or fitting_batch(given.model, given.x)
        bound_attack, said = catalog.attack(attack, steps=steps, restarts=restarts, batch=batch)
        options_ = {"attack": bound_attack, "attack_name": said}
    elif effort == "autoattack":
        options_ = {"whole": catalog.resolve(catalog.EFFORTS[effort]), "attack_name": "AutoAttack-standard"}
    else:
        options_ = {"effort": catalog.resolve(catalog.EFFORTS[effort])}
    options_["nearest_budget"] = 1000 if envelope else NEAREST.get(effort, 400)
    options_["norms"] = (0.0, 1.0, 2.0, float("inf")) if envelope else None
    explanation = catalog.resolve(catalog.EXPLANATIONS[explain])
    options_["reasons"] = None if reasons == "none" else catalog.resolve(catalog.REASONS[reasons])
    options_ |= {"reasons_name": reasons.replace("-", " "), "reasons_n": reasons_n}
    plan = Plan(explain=explanation, explain_name=explain.replace("-", " "), **options_)
    with show.stages(quiet, prefix=about.get("prefix", "")) as progress:
        return audit(
            given.model,
            given.x,
            given.y,
            allowed,
            plan=plan,
            out=out,
            seed=seed,
            classes=given.classes,
            about={**about, "options": given.options, "warnings": given.warnings},
            chunk=chunk,
            batch=batch,
            progress=progress,
        )


def command() -> str:
    """The command line that reproduces this run."""
    return "unfooled " + shlex.join(sys.argv[1:])


def class_list(classes: list[str]) -> str:
    """All names, or the first and last of many."""
    return ", ".join(classes if len(classes) <= 20 else [*classes[:10], "...", *classes[-3:]])
