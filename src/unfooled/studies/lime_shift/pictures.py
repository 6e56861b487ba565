"""Pictures of the study of LIME under attack."""

from __future__ import annotations

from unfooled.drawing.figures import COLOURS, Picture, as_picture, line_heights, mark_interval, name_lines, new_figure
from unfooled.studies.lime_shift.figures import Columns
from unfooled.studies.lime_shift.tables import ARM_NAMES
from unfooled.studies.lime_shift.units import CLASSES, Results


def correlations(results: Results) -> Picture:
    """Draw rank correlations with the clean explanation: attack, noise, and LIME's own choices."""
    shifts, own = Columns.of(results.shifts), Columns.of(results.own)
    lines = {
        f"{words}, {name} class": shifts.mean(f"{arm}, {name}, rank")
        for arm, words in ARM_NAMES.items()
        for name in CLASSES
    }
    ends = ", rank"
    lines |= {name.removesuffix(ends): own.mean(name) for name in own.names if name.endswith(ends)}
    figure, axes = new_figure(1, 1, 6.4, 0.28 * len(lines) + 0.9)
    axis = axes[0, 0]
    for k, (y, interval) in enumerate(zip(line_heights(len(lines)), lines.values(), strict=True)):
        if interval.n:
            mark_interval(axis, y, interval, COLOURS[0 if k < len(ARM_NAMES) * len(CLASSES) else 1])
    name_lines(axis, list(lines))
    axis.axvline(1.0, color="0.6", lw=0.8)
    axis.tick_params(labelsize=8)
    axis.set_xlabel("Spearman's correlation with the clean explanation", fontsize=8)
    caption = (
        "Mean over images with its 95 % interval. Above: images on which the attack succeeded. Below: LIME's own "
        "choices on clean images, and networks with new weights."
    )
    return as_picture(figure, f"{results.task.source}: how far explanations move", caption)
