"""`unfooled lime`: local surrogates of images, texts and table rows, and the submodular pick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unfooled.cli import options
from unfooled.cli.first_look import check_sources
from unfooled.workflows import catalog

if TYPE_CHECKING:
    from unfooled.workflows import LimeRecord, TableOptions
    from unfooled.workflows.lime_records import ClassWeights, Explained

SHOWN = 3  # classes of an input that are printed
OWN = "file.py:name of your own code: a function of a list of inputs, an object with predict_proba or predict, or a "
OWN += "function without parameters that returns one."

app = typer.Typer(
    no_args_is_help=True,
    help="Explain single decisions by linear surrogates (LIME), with error bars: images, texts, table rows.",
)

OwnOpt = Annotated[str, typer.Option("--model", help=f"Model: {OWN}", rich_help_panel=options.SOURCE)]
OutOpt = Annotated[Path, typer.Option("--out", help="Folder for lime.html and lime.json.")]
SamplesOpt = Annotated[
    int | None, typer.Option("--samples", help="Perturbed copies of each input; the method's default if not given.")
]
OfOpt = Annotated[
    str, typer.Option("--of", help="Classes explained: prediction, label (images), all, or names or numbers: spam,ham.")
]
TopLabelsOpt = Annotated[
    int | None, typer.Option("--top-labels", help="Number of most likely classes explained, in place of --of.")
]
TopOpt = Annotated[int, typer.Option("--top", help="Features of each class that are shown.")]
StabilityOpt = Annotated[int, typer.Option("--stability", help="Draws for the soft stability of the leading features.")]
LinkOpt = Annotated[
    str,
    typer.Option("--link", help=f"Transformation of the output before it is explained: {', '.join(catalog.LINKS)}."),
]
MasksOpt = Annotated[
    str | None, typer.Option("--sampler", help=f"Sampler of the masks: {', '.join(catalog.MASK_SAMPLERS)}.")
]
RowsOpt = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        help=f"Sampler of the perturbed rows: {', '.join(catalog.TABLE_SAMPLERS)}; with a value as in around:0.5.",
    ),
]
SplitOpt = Annotated[str, typer.Option("--split", help=f"Pieces of a text: {', '.join(catalog.SPLITS)}.")]
UnitOpt = Annotated[str, typer.Option("--unit", help="Hide equal pieces together (types), or each alone (positions).")]
HideOpt = Annotated[
    str,
    typer.Option(
        "--hide",
        help="Replacement of a hidden piece: delete, a token such as [MASK], or attention-mask, for a transformer "
        "with a tokenizer.",
    ),
]
UntilOpt = Annotated[
    str | None,
    typer.Option(
        "--until",
        help="Double the samples until the leading features are separated beyond their errors, in place of --samples: "
        "stable, stable:3, stable:tolerance=0.05,at_most=4096.",
    ),
]
RidgeOpt = Annotated[
    float | None, typer.Option("--ridge", help="Penalty on the squared weights; with --prior its precision.")
]
PriorOpt = Annotated[
    str | None,
    typer.Option(
        "--prior", help='Expected weights: a lime.json, or a JSON file such as {"good": 0.3} by feature or column.'
    ),
]
ImagePriorOpt = Annotated[
    str | None,
    typer.Option("--prior", help="Expected weights: another explanation, such as grad-cam, or a lime.json."),
]
BatchOpt = Annotated[int | None, typer.Option("--batch", help="Inputs computed at once; by memory if not given.")]
LabelOpt = Annotated[str | None, typer.Option("--label", help="Column of the labels, which the model does not get.")]
CsvOpt = Annotated[
    Path | None, typer.Option("--csv", help="File of the rows that are explained; the training table if not given.")
]
ColumnsOpt = Annotated[
    str | None, typer.Option("--columns", help="Names of the columns, for files without a line of names: a,b,c.")
]
CategoricalOpt = Annotated[
    str | None, typer.Option("--categorical", help="Columns of numbers that are categories: a,b.")
]
GroupOpt = Annotated[
    list[str] | None,
    typer.Option("--group", help="Columns that act as one feature, such as a one-hot code: a,b,c; repeatable."),
]
BinsOpt = Annotated[str, typer.Option("--bins", help=f"Rule for the bins of numbers: {', '.join(catalog.BINS)}.")]
FrameOpt = Annotated[
    bool | None,
    typer.Option(
        "--frame/--array", help="Give the model pandas frames, or arrays; inferred from the model if not given."
    ),
]


@app.command(name="image")
def image(
    model: options.ModelOpt,
    data: options.DataOpt = "digits",
    arch: options.ArchOpt = None,
    index: Annotated[str, typer.Option("--index", help="Numbers of the samples, from 0: 3 or 0,3,7.")] = "0",
    segments: Annotated[
        str,
        typer.Option(
            "--segments", help=f"Segments: {', '.join(catalog.SEGMENTERS)}; with options as in grid:5, slic:80."
        ),
    ] = "grid",
    baseline: Annotated[
        str, typer.Option("--baseline", help="Values of hidden segments: mean, blur, noise, or a number.")
    ] = "mean",
    score: Annotated[
        str, typer.Option("--score", help=f"Score that is explained: {', '.join(catalog.SCORES)}.")
    ] = "logit",
    samples: SamplesOpt = None,
    of: OfOpt = "prediction",
    top_labels: TopLabelsOpt = None,
    top: TopOpt = 12,
    sampler: MasksOpt = None,
    stability: StabilityOpt = 150,
    until: UntilOpt = None,
    ridge: RidgeOpt = None,
    prior: ImagePriorOpt = None,
    batch: BatchOpt = None,
    out: OutOpt = Path("lime"),
    split: options.SplitOpt = "test",
    shuffle: options.ShuffleOpt = False,
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    channels: options.ChannelsOpt = None,
    trust_pickle: options.TrustOpt = False,
    max_pixels: options.PixelsOpt = options.PIXELS,
    max_bytes: options.BytesOpt = options.BYTES,
    max_classes: options.ClassesOpt = options.CLASSES,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Explain the decisions about images: which segments speak for the class.

    unfooled lime image --model net.pt --data picture.png --segments slic:60 --out runs/lime
    """  # fmt: skip
    check_sources(model)
    from unfooled import workflows

    limits = workflows.Limits(max_pixels, max_bytes, max_classes)
    inputs = workflows.Inputs(
        model, data, arch, split, 1, shuffle, mean, std, size, labels, channels, trust_pickle, limits
    )
    record = workflows.lime_image(
        inputs, index=index, segments=segments, baseline=baseline, score=score, out=out, seed=seed,
        options=workflows.LimeOptions(
            samples, of, top_labels, top, "identity", sampler, stability, until, ridge, prior, batch
        ),
        machine=workflows.Machine(device, threads),
    )  # fmt: skip
    report(record, json=json, quiet=quiet)


@app.command(name="text")
def text(
    model: OwnOpt,
    text: Annotated[str, typer.Option("--text", help="File of the text (also .gz), or - for standard input.")],
    split: SplitOpt = "words",
    unit: UnitOpt = "types",
    hide: HideOpt = "delete",
    samples: SamplesOpt = None,
    of: OfOpt = "prediction",
    top_labels: TopLabelsOpt = None,
    top: TopOpt = 12,
    link: LinkOpt = "identity",
    sampler: MasksOpt = None,
    stability: StabilityOpt = 150,
    until: UntilOpt = None,
    ridge: RidgeOpt = None,
    prior: PriorOpt = None,
    batch: BatchOpt = None,
    labels: options.LabelsOpt = None,
    out: OutOpt = Path("lime"),
    max_bytes: options.BytesOpt = options.BYTES,
    seed: options.SeedOpt = 0,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Explain the answer about a text: which words speak for the class.

        unfooled lime text --model spam.py:model --text letter.txt --out runs/lime

    The model gets a list of strings and returns one row of numbers for each.
    """  # fmt: skip
    from unfooled import workflows

    record = workflows.lime_text(
        model, text, text_options=workflows.TextOptions(split, unit, hide), labels=labels, out=out, seed=seed,
        options=workflows.LimeOptions(
            samples, of, top_labels, top, link, sampler, stability, until, ridge, prior, batch
        ),
        limits=workflows.Limits(max_bytes=max_bytes),
    )  # fmt: skip
    report(record, json=json, quiet=quiet)


@app.command(name="table")
def table(
    model: OwnOpt,
    train: Annotated[Path, typer.Option("--train", help="Training table: a CSV file, also .csv.gz.")],
    label: LabelOpt = None,
    csv: CsvOpt = None,
    row: Annotated[str, typer.Option("--row", help="Numbers of the rows, from 0: 3 or 0,3,7.")] = "0",
    columns: ColumnsOpt = None,
    categorical: CategoricalOpt = None,
    group: GroupOpt = None,
    bins: BinsOpt = "quartiles",
    frame: FrameOpt = None,
    samples: SamplesOpt = None,
    of: OfOpt = "prediction",
    top_labels: TopLabelsOpt = None,
    top: TopOpt = 12,
    link: LinkOpt = "identity",
    sampler: RowsOpt = None,
    stability: StabilityOpt = 150,
    until: UntilOpt = None,
    ridge: RidgeOpt = None,
    prior: PriorOpt = None,
    batch: BatchOpt = None,
    labels: options.LabelsOpt = None,
    out: OutOpt = Path("lime"),
    max_bytes: options.BytesOpt = options.BYTES,
    seed: options.SeedOpt = 0,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Explain the answer about rows of a table: which columns speak for the class.

        unfooled lime table --model credit.py:model --train train.csv --label paid --csv new.csv --row 3

    The model gets the rows without the label, as an array or, if it was fitted on one, as a pandas frame.
    """  # fmt: skip
    from unfooled import workflows

    record = workflows.lime_table(
        model, train, row=row, table_options=table_options_of(label, csv, columns, categorical, group, bins, frame),
        options=workflows.LimeOptions(
            samples, of, top_labels, top, link, sampler, stability, until, ridge, prior, batch
        ),
        labels=labels, out=out, limits=workflows.Limits(max_bytes=max_bytes), seed=seed,
    )  # fmt: skip
    report(record, json=json, quiet=quiet)


@app.command(name="pick")
def pick(
    model: OwnOpt,
    text: Annotated[
        str | None,
        typer.Option("--text", help='Texts, one per line, or JSON lines (.jsonl) with the field "text"; - is stdin.'),
    ] = None,
    train: Annotated[Path | None, typer.Option("--train", help="Training table: a CSV file, also .csv.gz.")] = None,
    label: LabelOpt = None,
    csv: CsvOpt = None,
    n: Annotated[int, typer.Option("--n", help="Inputs that are explained; drawn at random if there are more.")] = 100,
    budget: Annotated[int, typer.Option("--budget", help="Explanations that are picked.")] = 5,
    cover: Annotated[str, typer.Option("--cover", help=f"Coverage: {', '.join(catalog.COVERS)}.")] = "any",
    columns: ColumnsOpt = None,
    categorical: CategoricalOpt = None,
    group: GroupOpt = None,
    bins: BinsOpt = "quartiles",
    frame: FrameOpt = None,
    split: SplitOpt = "words",
    unit: UnitOpt = "types",
    hide: HideOpt = "delete",
    samples: SamplesOpt = None,
    of: OfOpt = "prediction",
    top_labels: TopLabelsOpt = None,
    top: TopOpt = 8,
    link: LinkOpt = "identity",
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="Sampler of the perturbed inputs, as for text and table.")
    ] = None,
    stability: StabilityOpt = 150,
    until: UntilOpt = None,
    ridge: RidgeOpt = None,
    prior: PriorOpt = None,
    batch: BatchOpt = None,
    labels: options.LabelsOpt = None,
    out: OutOpt = Path("lime"),
    max_bytes: options.BytesOpt = options.BYTES,
    seed: options.SeedOpt = 0,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Explain many texts or rows, and pick a few explanations that cover the features that matter.

    unfooled lime pick --model credit.py:model --train train.csv --label paid --n 200 --budget 5
    """  # fmt: skip
    from unfooled import workflows

    inputs = workflows.TextOptions(split, unit, hide) if text is not None else table_options_of(
        label, csv, columns, categorical, group, bins, frame
    )  # fmt: skip
    record = workflows.lime_pick(
        model, text=text, train=train, n=n, budget=budget, cover=cover, inputs=inputs, labels=labels, out=out,
        options=workflows.LimeOptions(
            samples, of, top_labels, top, link, sampler, stability, until, ridge, prior, batch
        ),
        limits=workflows.Limits(max_bytes=max_bytes), seed=seed,
    )  # fmt: skip
    report(record, json=json, quiet=quiet)


def table_options_of(
    label: str | None,
    csv: Path | None,
    columns: str | None,
    categorical: str | None,
    group: list[str] | None,
    bins: str,
    frame: bool | None,
) -> TableOptions:
    """Return the options of tables; names are separated by commas."""
    from unfooled.workflows import TableOptions

    names, groups = None if columns is None else names_of(columns), [names_of(one) for one in group or ()]
    return TableOptions(label, csv, names, names_of(categorical or ""), groups, bins, frame)


def names_of(text: str) -> list[str]:
    """Read names that are separated by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def report(record: LimeRecord, *, json: bool, quiet: bool) -> None:
    """Print the record, or a table for each input, and the files."""
    from unfooled.cli import show

    if json:
        show.record(record)
    elif not quiet:
        if (pick := record.pick) is not None:
            show.out.print(f"{len(pick.index)} of {pick.among} picked. {pick.sentence}", soft_wrap=True)
        for one in record.explanations:
            print_one(one, record.calls)
        for warning in record.warnings:
            show.out.print(f"[yellow]{show.plain(warning)}", soft_wrap=True)
        for file in record.files:
            show.out.print(show.plain(file), soft_wrap=True)


def print_one(one: Explained, calls: list[int]) -> None:
    """Print the leading features of an input, and how far they can be relied on."""
    from unfooled.cli import show

    show.out.print(f"[bold]{show.plain(one.item)}[/bold]: {show.plain(one.predicted)}", soft_wrap=True)
    for class_weights in one.classes[:SHOWN]:
        print_class(class_weights, "class" if one.several else "output")
    if len(one.classes) > SHOWN:
        show.out.print(f"[dim]{SHOWN} of {len(one.classes)} classes; all are on the page", soft_wrap=True)
    line = f"{one.ess:.0f} effective samples"
    if one.stability is not None:
        value, low, high = one.stability
        line += f"; soft stability {value:.2f} \\[{low:.2f}, {high:.2f}]"
    for text in filter(None, (line, show.plain(one.unit))):
        show.out.print(f"[dim]{text}", soft_wrap=True)
    for note in one.notes:
        show.out.print(f"[yellow]{show.plain(note)}", soft_wrap=True)


def print_class(class_weights: ClassWeights, word: str) -> None:
    """Print the leading features of a class, or of the only output."""
    from rich.table import Table

    from unfooled.cli import show
    from unfooled.explanations.lime.view import weight_text

    title = f"{word} {show.plain(class_weights.name)}   R2 held out {show.number(class_weights.r2_held_out)}"
    lines = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    lines.add_column("feature", overflow="fold")
    lines.add_column("weight", justify="right", no_wrap=True)
    lines.add_column("\u00b1 se", justify="right", no_wrap=True)
    largest = class_weights.features[0].weight if class_weights.features else 0.0
    for one in class_weights.features:
        lines.add_row(show.plain(one.name), weight_text(one.weight, largest), f"{one.se:.2g}")
    show.out.print(f"[italic]{title}[/italic]", soft_wrap=True)
    show.out.print(lines if class_weights.features else "no features")
